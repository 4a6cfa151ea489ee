//! The span of a request.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use proxy_config::{HttpManager, TagValue, Tracing};
use spans::{Incoming, Reason, Side, Span, TraceContext, decide};

use super::Connection;
use super::exchange::Exchange;
use super::headers as names;

static DOWNSTREAM_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");

/// A request's place in its trace and, where it is told, what only its headers know.
#[derive(Debug)]
pub(crate) struct Trace {
    context: TraceContext,
    operation: Option<String>,
    tags: Vec<(Cow<'static, str>, String)>,
}

impl Trace {
    /// Decides whether a request is traced, and takes its headers' part of the span.
    pub(crate) fn begin(manager: &HttpManager, connection: &Connection, headers: &mut HeaderMap) -> Option<Box<Self>> {
        let tracing = manager.tracing.as_ref()?;
        let reason = decide(tracing.sampling, headers);
        let context = TraceContext::begin(Incoming::read(tracing.propagation, headers), reason != Reason::None);
        let mut trace = Self { context, operation: None, tags: Vec::new() };
        if context.sampled {
            // The caller's sidecar knows better which service was meant.
            let told = headers.get(&names::OPERATION).filter(|_| connection.inbound);
            trace.operation = told.map(text).filter(|t| !t.is_empty());
            trace.tags = from_headers(tracing, headers);
        }
        Some(Box::new(trace))
    }

    /// Tells the next one of the trace.
    pub(crate) fn write(&self, manager: &HttpManager, headers: &mut HeaderMap) {
        if let Some(tracing) = &manager.tracing {
            self.context.write(tracing.propagation, headers);
        }
    }

    /// The operation as the route names it, unless the caller has named it.
    pub(crate) fn route(&mut self, operation: Option<&HeaderValue>) {
        if self.context.sampled && self.operation.is_none() {
            self.operation = operation.map(text);
        }
    }

    /// The finished span, where it is told.
    pub(crate) fn end(
        self,
        tracing: &Tracing,
        exchange: &Exchange,
        (start, duration): (SystemTime, Duration),
    ) -> Option<Span> {
        if !self.context.sampled {
            return None;
        }
        let about = &exchange.connection.about;
        let authority = exchange.authority.as_ref().map(text).unwrap_or_default();
        let mut tags = self.tags;
        about_request(&mut tags, exchange, &authority, tracing.max_path);
        let error = exchange.status == 0 || exchange.status >= 500;
        about_answer(&mut tags, exchange, error);
        Some(Span {
            context: self.context,
            side: if exchange.connection.inbound { Side::Server } else { Side::Client },
            name: self.operation.unwrap_or(authority),
            start,
            duration,
            local: about.destination,
            tags,
            error,
        })
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn from_headers(tracing: &Tracing, headers: &HeaderMap) -> Vec<(Cow<'static, str>, String)> {
    let or_dash = |name: &HeaderName| headers.get(name).map_or_else(|| "-".to_owned(), text);
    let mut tags: Vec<(Cow<'static, str>, String)> = vec![
        ("guid:x-request-id".into(), or_dash(&names::REQUEST_ID)),
        ("user_agent".into(), or_dash(&header::USER_AGENT)),
        ("downstream_cluster".into(), or_dash(&DOWNSTREAM_CLUSTER)),
    ];
    for (name, value) in &tracing.tags {
        let value = match value {
            TagValue::Literal(value) => Some(value.clone()),
            TagValue::Header(header, or) => headers.get(header).map(text).or_else(|| or.clone()),
        };
        tags.extend(value.map(|value| (name.clone().into(), value)));
    }
    tags
}

/// Tags under Envoy's names.
fn about_request(tags: &mut Vec<(Cow<'static, str>, String)>, exchange: &Exchange, authority: &str, max_path: usize) {
    let about = &exchange.connection.about;
    let path = exchange.path.as_ref().map_or("", PathAndQuery::as_str);
    let path: String = path.chars().take(max_path).collect();
    let scheme = about.scheme();
    if exchange.grpc {
        tags.push(("grpc.path".into(), path.clone()));
        tags.push(("grpc.authority".into(), authority.to_owned()));
    }
    tags.extend([
        ("component".into(), "proxy".to_owned()),
        ("node_id".into(), exchange.connection.worker.shared.metadata.id.to_str().unwrap_or_default().to_owned()),
        ("http.url".into(), format!("{scheme}://{authority}{path}")),
        ("http.method".into(), exchange.method.to_string()),
        ("http.protocol".into(), exchange.protocol().to_owned()),
        ("peer.address".into(), about.source.ip().to_string()),
        ("request_size".into(), exchange.bytes_received.to_string()),
    ]);
}

fn about_answer(tags: &mut Vec<(Cow<'static, str>, String)>, exchange: &Exchange, error: bool) {
    tags.extend([
        ("response_size".into(), exchange.bytes_sent.to_string()),
        ("http.status_code".into(), exchange.status.to_string()),
        ("response_flags".into(), exchange.flags.to_string()),
    ]);
    if let Some(cluster) = &exchange.cluster_name {
        tags.push(("upstream_cluster".into(), cluster.to_string()));
        tags.push(("upstream_cluster.name".into(), cluster.to_string()));
    }
    if let Some(host) = &exchange.host {
        tags.push(("upstream_address".into(), host.address.to_string()));
    }
    if let Some(status) = exchange.grpc_status {
        tags.push(("grpc.status_code".into(), status.to_string()));
    }
    if error {
        tags.push(("error".into(), "true".to_owned()));
    }
}
