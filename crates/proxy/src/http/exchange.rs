//! One request and its answer, as the log and the metrics will tell it. Reports when dropped, so that nothing goes
//! untold: neither an answer, nor a client that left.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use proxy_config::HttpManager;
use telemetry::{HttpSample, LogRecord, RequestHeaders, RequestProtocol, ResponseFlags, Workload};
use upstream::{Cluster, Host, Permit};

use super::Connection;
use super::idle::Idle;
use super::trace::Trace;

/// One request and its answer.
pub(crate) struct Exchange {
    pub(crate) connection: Rc<Connection>,
    manager: Arc<HttpManager>,
    pub(crate) started: Instant,
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    version: Version,
    pub(crate) authority: Option<HeaderValue>,
    kept_headers: Vec<(HeaderName, HeaderValue)>,
    /// The request as it went on, where values of the answer's headers are made from it.
    sent: Option<Box<Sent>>,
    /// The client, as a trusted proxy in front may have named it.
    pub(crate) remote: SocketAddr,
    pub(crate) grpc: bool,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Option<std::borrow::Cow<'static, str>>,
    pub(crate) upstream_failure: Option<String>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    request_messages: u64,
    pub(crate) response_messages: u64,
    pub(crate) service_time: Option<Duration>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) cluster_name: Option<Arc<str>>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) upstream_local: Option<SocketAddr>,
    pub(crate) upstream_uri: Option<Arc<str>>,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) counters: Option<Arc<dyn rules::route::RouteCounters>>,
    pub(crate) peer: Option<Arc<Workload>>,
    pub(crate) attempts: u32,
    /// The answer has gone out whole.
    pub(crate) complete: bool,
    /// Given back when the exchange ends.
    pub(crate) permits: Vec<Permit>,
    pub(crate) recording: Option<Rc<std::cell::RefCell<upstream::Recording>>>,
    /// Its place in a trace.
    pub(crate) trace: Option<Box<Trace>>,
    /// The longest silence, where there is a limit.
    pub(crate) idle: Option<Idle>,
}

/// A request as it went on.
struct Sent {
    headers: HeaderMap,
    path: Option<PathAndQuery>,
}

impl Exchange {
    pub(crate) fn new<B>(
        connection: Rc<Connection>,
        manager: Arc<HttpManager>,
        request: &http::Request<B>,
    ) -> Box<Self> {
        connection.in_flight.set(connection.in_flight.get() + 1);
        Box::new(Self {
            remote: connection.about.source,
            connection,
            manager,
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            authority: None,
            kept_headers: Vec::new(),
            sent: None,
            grpc: false,
            status: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: None,
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            request_messages: 0,
            response_messages: 0,
            service_time: None,
            cluster: None,
            cluster_name: None,
            host: None,
            upstream_local: None,
            upstream_uri: None,
            route: None,
            counters: None,
            peer: None,
            attempts: 0,
            complete: false,
            permits: Vec::new(),
            recording: None,
            trace: None,
            idle: None,
        })
    }

    /// Keeps the request headers that a log will print.
    pub(crate) fn keep_headers(&mut self, headers: &HeaderMap) {
        for log in &self.manager.logs {
            for name in log.request_headers() {
                if let Some(value) = headers.get(name) {
                    self.kept_headers.push((name.clone(), value.clone()));
                }
            }
        }
    }

    /// The request's protocol, as logs and spans name it.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }
    }

    /// Keeps the request as it goes on: values of the answer's headers are made from it.
    pub(crate) fn keep_request<B>(&mut self, request: &http::Request<B>) {
        let (headers, path) = (request.headers().clone(), request.uri().path_and_query().cloned());
        self.sent = Some(Box::new(Sent { headers, path }));
    }

    /// When it began, and how long ago that is. Only who is told asks for the time of day.
    fn times(&self) -> (SystemTime, Duration) {
        let (now, duration) = (SystemTime::now(), self.started.elapsed());
        (now.checked_sub(duration).unwrap_or(now), duration)
    }

    /// What is known so far.
    pub(crate) fn facts(&self) -> LogRecord<'_> {
        let about = &self.connection.about;
        let (start, duration) = self.times();
        let mut record = about.record(start);
        record.duration = duration;
        record.method = Some(self.method.as_str());
        record.path = self.path.as_ref().map(PathAndQuery::as_str);
        record.protocol = Some(self.protocol());
        record.authority = self.authority.as_ref().and_then(|a| a.to_str().ok());
        record.scheme = Some(about.scheme());
        record.response_code = self.status;
        record.flags = self.flags;
        record.details = self.details.as_deref();
        record.upstream_failure = self.upstream_failure.as_deref();
        record.bytes_received = self.bytes_received;
        record.bytes_sent = self.bytes_sent;
        record.upstream_service_time = self.service_time;
        record.request_headers = match &self.sent {
            Some(sent) => RequestHeaders::All {
                headers: &sent.headers,
                path: sent.path.as_ref().map_or("/", PathAndQuery::as_str),
            },
            None => RequestHeaders::Kept(&self.kept_headers),
        };
        record.upstream_host = self.host.as_ref().and_then(|h| h.address.ip());
        record.upstream_pipe = self.host.as_ref().and_then(|h| h.address.pipe());
        record.upstream_cluster = self.cluster_name.as_deref();
        record.upstream_local = self.upstream_local;
        record.downstream_remote = record.downstream_direct.map(|_| self.remote);
        record.route_name = self.route.as_deref();
        record.upstream_peer_uri = self.upstream_uri.as_deref();
        record.attempts = self.attempts;
        record
    }

    fn log(&self) {
        let mut record = self.facts();
        record.request_headers = RequestHeaders::Kept(&self.kept_headers);
        self.manager.logs.iter().for_each(|log| log.log(&record));
    }

    /// Ends the span.
    fn tell(&self, trace: Trace) {
        let Some(tracing) = &self.manager.tracing else { return };
        if let Some(span) = trace.end(tracing, self, self.times()) {
            let worker = &self.connection.worker;
            worker.waiting.add(&tracing.exporter, span, &worker.shared.reported);
        }
    }

    fn measure(&self) {
        let inbound = self.connection.inbound;
        let about = &self.connection.about;
        let protocol = if self.grpc { RequestProtocol::Grpc } else { RequestProtocol::Http };
        let mut peers = self.connection.worker.peers.borrow_mut();
        let peer = match (&self.peer, inbound, &self.host) {
            (Some(peer), _, _) => peer.clone(),
            (None, false, Some(host)) => peers.by_host(host, self.upstream_uri.as_ref()),
            (None, false, None) => peers.by_principal(None),
            (None, true, _) => {
                peers.by_principal(about.peer.as_ref().and_then(|p| p.uri_sans.first()).map(String::as_str))
            }
        };
        let series = peers.http_series(inbound, about, self.cluster.as_deref(), &peer, protocol);
        if self.grpc {
            series.messages(self.request_messages, self.response_messages);
        }
        series.record(&HttpSample {
            code: self.status,
            flags: self.flags,
            grpc_status: self.grpc_status,
            duration: self.started.elapsed(),
            request_bytes: self.bytes_received,
            response_bytes: self.bytes_sent,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.in_flight.set(self.connection.in_flight.get().saturating_sub(1));
        if self.connection.in_flight.get() == 0 {
            self.connection.last_used.set(tokio::time::Instant::now());
        }
        if !self.complete {
            self.flags.insert(ResponseFlags::DC);
            self.details = Some("downstream_remote_disconnect".into());
        }
        if let Some(recording) = &self.recording {
            let recording = recording.borrow();
            self.bytes_received = recording.bytes;
            self.request_messages = recording.messages.map_or(0, |m| m.count);
        }
        if !self.manager.logs.is_empty() {
            self.log();
        }
        if self.manager.stats {
            self.measure();
        }
        if let Some(trace) = self.trace.take() {
            self.tell(*trace);
        }
        if let Some(counters) = self.counters.as_ref().filter(|_| self.status != 0) {
            counters.answered(self.status);
        }
    }
}
