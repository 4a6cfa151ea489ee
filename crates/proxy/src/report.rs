//! Telling collectors of finished spans: gathered for a moment, sent in batches, dropped and counted where a collector
//! cannot keep up. No request waits for one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Uri, header};
use proxy_config::{Exporter, Format, Report};
use spans::{Span, otlp_request, zipkin_body};
use telemetry::{Counter, Stat, StatKind};
use tokio::sync::Notify;
use upstream::{Body, Cluster, PickContext, Protocol, Registry, SendOptions, Version};

use crate::worker::Worker;

/// Spans are gathered this long.
const GATHER: Duration = Duration::from_secs(1);
/// Most spans in one report, and most that wait for one collector.
const BATCH: usize = 256;
const MAX_WAITING: usize = 4096;

/// What became of spans, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    spans_sent: Counter,
    spans_dropped: Counter,
    reports_sent: Counter,
    reports_failed: Counter,
}

impl Reported {
    /// For `/stats`.
    pub(crate) fn stats(&self, emit: &mut dyn FnMut(Stat<'_>)) {
        for (leaf, counter) in [
            ("spans_sent", &self.spans_sent),
            ("spans_dropped", &self.spans_dropped),
            ("reports_sent", &self.reports_sent),
            ("reports_failed", &self.reports_failed),
        ] {
            let value = i64::try_from(counter.value()).unwrap_or(i64::MAX);
            emit(Stat { scope: "tracing", entity: None, leaf, kind: StatKind::Counter, value });
        }
    }
}

/// Spans of one worker that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    spans: RefCell<Vec<(Arc<Exporter>, Vec<Span>)>>,
    some: Notify,
    many: Notify,
}

impl Waiting {
    /// Adds a span.
    pub(crate) fn add(&self, exporter: &Arc<Exporter>, span: Span, reported: &Reported) {
        let mut all = self.spans.borrow_mut();
        let at = all.iter().position(|(known, _)| Arc::ptr_eq(known, exporter));
        let at = at.unwrap_or_else(|| {
            all.push((exporter.clone(), Vec::new()));
            all.len() - 1
        });
        let Some((_, spans)) = all.get_mut(at) else { return };
        if spans.len() >= MAX_WAITING {
            reported.spans_dropped.inc();
            return;
        }
        spans.push(span);
        match spans.len() {
            1 => self.some.notify_one(),
            BATCH => self.many.notify_one(),
            _ => {}
        }
    }
}

/// Sends what waits, for as long as the worker lives.
pub(crate) async fn run(worker: Rc<Worker>) {
    loop {
        worker.waiting.some.notified().await;
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = worker.waiting.many.notified() => {}
        }
        // An exporter that configuration no longer has goes with its last batch.
        let all = worker.waiting.spans.take();
        for (exporter, spans) in all {
            for batch in spans.chunks(BATCH) {
                tell(&worker, &exporter, batch).await;
            }
        }
    }
}

async fn tell(worker: &Worker, exporter: &Exporter, spans: &[Span]) {
    let reported = &worker.shared.reported;
    let sending = send(worker, exporter, spans);
    match tokio::time::timeout(exporter.report.timeout, sending).await.unwrap_or(Err("no answer in time")) {
        Ok(()) => {
            reported.reports_sent.inc();
            reported.spans_sent.add(spans.len() as u64);
        }
        Err(reason) => {
            reported.reports_failed.inc();
            reported.spans_dropped.add(spans.len() as u64);
            tracing::debug!(collector = %exporter.cluster.name, reason, spans = spans.len(), "spans are lost");
        }
    }
}

async fn send(worker: &Worker, exporter: &Exporter, spans: &[Span]) -> Result<(), &'static str> {
    let cluster = exporter.cluster.load().ok_or("there is no such cluster")?;
    Registry::ready(&cluster).await;
    let host = cluster.pick(&PickContext::default()).map_err(|_| "no host is healthy")?;
    let version = version(exporter.report.format, &cluster);
    let options = SendOptions { version, mesh_alpn: true, proxied: None, fresh: false };
    let request = request(exporter, spans, version);
    let answer =
        worker.pools.send(&cluster, &host, Box::new(request), options).await.map_err(|_| "it cannot be reached")?;
    let status = answer.response.status();
    // Read to its end, so that the connection can serve again; what it says is not needed.
    crate::http::drain(answer.response.into_body()).await;
    if status.is_success() { Ok(()) } else { Err("it refused them") }
}

fn version(format: Format, cluster: &Cluster) -> Version {
    match (format, cluster.config.protocol) {
        (Format::OtlpGrpc, _) | (_, Protocol::Http2) => Version::Http2,
        _ => Version::Http1,
    }
}

fn request(exporter: &Exporter, spans: &[Span], version: Version) -> Request<Body> {
    let Report { format, path, authority, headers, .. } = &exporter.report;
    let (kind, body) = match format {
        Format::Zipkin => ("application/json", zipkin_body(&exporter.origin, spans)),
        Format::OtlpHttp => ("application/x-protobuf", otlp_request(&exporter.origin, spans)),
        Format::OtlpGrpc => ("application/grpc", framed(&otlp_request(&exporter.origin, spans))),
    };
    let mut request = Request::new(Body::Full(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(path.clone());
    request.headers_mut().extend(headers.iter().cloned());
    request.headers_mut().insert(header::HOST, authority.clone());
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if *format == Format::OtlpGrpc {
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    crate::http::for_version(request, version)
}

/// A gRPC message with its five bytes in front.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
