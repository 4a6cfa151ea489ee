//! Istio's standard metrics: one series per pair of workloads, service and kind of traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

use crate::flags::ResponseFlags;
use crate::histogram::Histogram;

/// Which side of a call reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
}

/// How the connection was secured; only the destination knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecurityPolicy {
    /// Mesh mTLS.
    MutualTls,
    /// Plain text.
    None,
    /// Reported by the source.
    Unknown,
}

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestProtocol {
    /// HTTP/1 or HTTP/2.
    Http,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// One end of a call, as Istio's labels describe it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// The Deployment (or other owner).
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// `spiffe://...`, or `unknown`.
    pub principal: Arc<str>,
    /// Label `app`.
    pub app: Arc<str>,
    /// Label `version`.
    pub version: Arc<str>,
    /// Canonical service name.
    pub canonical_service: Arc<str>,
    /// Canonical revision, `latest` when absent.
    pub canonical_revision: Arc<str>,
    /// Cluster the workload lives in.
    pub cluster: Arc<str>,
}

impl Workload {
    /// A peer that nothing is known of.
    pub fn unknown() -> Self {
        let unknown: Arc<str> = Arc::from("unknown");
        Self {
            name: unknown.clone(),
            namespace: unknown.clone(),
            principal: unknown.clone(),
            app: unknown.clone(),
            version: unknown.clone(),
            canonical_service: unknown.clone(),
            canonical_revision: Arc::from("latest"),
            cluster: unknown,
        }
    }

    /// The same workload under another principal.
    #[must_use]
    pub fn with_principal(mut self, principal: &str) -> Self {
        self.principal = Arc::from(principal);
        self
    }
}

/// The service that was called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationService {
    /// Fully qualified host.
    pub host: Arc<str>,
    /// Short name, or `PassthroughCluster` and the like.
    pub name: Arc<str>,
    /// Namespace of the service.
    pub namespace: Arc<str>,
}

/// All labels of a series that do not vary from request to request on one path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// Which side reports.
    pub reporter: Reporter,
    /// The caller.
    pub source: Arc<Workload>,
    /// The called workload.
    pub destination: Arc<Workload>,
    /// The called service.
    pub service: Arc<DestinationService>,
    /// How the connection was secured.
    pub security: SecurityPolicy,
    /// What was spoken.
    pub protocol: RequestProtocol,
}

impl SeriesKey {
    /// The labels in Istio's order, without those of a single sample.
    pub(crate) fn labels(&self) -> String {
        let reporter = match self.reporter {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
        };
        let security = match self.security {
            SecurityPolicy::MutualTls => "mutual_tls",
            SecurityPolicy::None => "none",
            SecurityPolicy::Unknown => "unknown",
        };
        let protocol = match self.protocol {
            RequestProtocol::Http => "http",
            RequestProtocol::Grpc => "grpc",
            RequestProtocol::Tcp => "tcp",
        };
        let mut out = format!("reporter=\"{reporter}\"");
        let mut push = |name: &str, value: &str| {
            out.push(',');
            out.push_str(name);
            out.push_str("=\"");
            escape(value, &mut out);
            out.push('"');
        };
        for (side, workload) in [("source", &self.source), ("destination", &self.destination)] {
            push(&format!("{side}_workload"), &workload.name);
            push(&format!("{side}_canonical_service"), &workload.canonical_service);
            push(&format!("{side}_canonical_revision"), &workload.canonical_revision);
            push(&format!("{side}_workload_namespace"), &workload.namespace);
            push(&format!("{side}_principal"), &workload.principal);
            push(&format!("{side}_app"), &workload.app);
            push(&format!("{side}_version"), &workload.version);
            push(&format!("{side}_cluster"), &workload.cluster);
        }
        push("destination_service", &self.service.host);
        push("destination_service_name", &self.service.name);
        push("destination_service_namespace", &self.service.namespace);
        push("request_protocol", protocol);
        push("connection_security_policy", security);
        out
    }
}

/// Escapes a label value as the Prometheus text format asks.
pub(crate) fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

/// What one finished request adds.
#[derive(Clone, Copy, Debug)]
pub struct HttpSample {
    /// Status sent to the caller; 0 when none was.
    pub code: u16,
    /// Why it ended so.
    pub flags: ResponseFlags,
    /// `grpc-status` of a gRPC call.
    pub grpc_status: Option<u16>,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request, head included where known.
    pub request_bytes: u64,
    /// Bytes of the response.
    pub response_bytes: u64,
}

/// Labels that differ between requests of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) code: u16,
    pub(crate) flags: ResponseFlags,
    pub(crate) grpc_status: Option<u16>,
}

/// The metrics of one series and outcome.
#[derive(Debug)]
pub(crate) struct OutcomeMetrics {
    pub(crate) outcome: Outcome,
    pub(crate) requests: AtomicU64,
    pub(crate) duration: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
}

impl OutcomeMetrics {
    fn add(&self, sample: &HttpSample) {
        self.requests.fetch_add(1, Relaxed);
        self.duration.record_thousandths(u64::try_from(sample.duration.as_micros()).unwrap_or(u64::MAX));
        self.request_bytes.record_thousandths(sample.request_bytes.saturating_mul(1000));
        self.response_bytes.record_thousandths(sample.response_bytes.saturating_mul(1000));
    }
}

/// A path sees few outcomes; a client that invents statuses must not grow us without end.
const MAX_OUTCOMES: usize = 64;

/// Request metrics of one label set.
#[derive(Debug)]
pub struct HttpSeries {
    pub(crate) labels: String,
    pub(crate) outcomes: RwLock<Vec<Arc<OutcomeMetrics>>>,
    pub(crate) request_messages: AtomicU64,
    pub(crate) response_messages: AtomicU64,
}

impl HttpSeries {
    pub(crate) fn new(key: &SeriesKey) -> Self {
        Self {
            labels: key.labels(),
            outcomes: RwLock::default(),
            request_messages: AtomicU64::default(),
            response_messages: AtomicU64::default(),
        }
    }

    /// Adds one finished request.
    pub fn record(&self, sample: &HttpSample) {
        let outcome = Outcome { code: sample.code, flags: sample.flags, grpc_status: sample.grpc_status };
        if let Some(known) = self.outcomes.read().iter().find(|m| m.outcome == outcome) {
            return known.add(sample);
        }
        self.new_outcome(outcome).add(sample);
    }

    /// Adds gRPC messages.
    pub fn messages(&self, request: u64, response: u64) {
        self.request_messages.fetch_add(request, Relaxed);
        self.response_messages.fetch_add(response, Relaxed);
    }

    fn new_outcome(&self, outcome: Outcome) -> Arc<OutcomeMetrics> {
        let mut outcomes = self.outcomes.write();
        if let Some(found) = outcomes.iter().find(|m| m.outcome == outcome) {
            return found.clone();
        }
        if outcomes.len() >= MAX_OUTCOMES
            && let Some(last) = outcomes.last()
        {
            return last.clone();
        }
        let fresh = Arc::new(OutcomeMetrics {
            outcome,
            requests: AtomicU64::default(),
            duration: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
        });
        outcomes.push(fresh.clone());
        fresh
    }
}

/// Connection metrics of one label set.
#[derive(Debug)]
pub struct TcpSeries {
    pub(crate) labels: String,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: RwLock<Vec<(ResponseFlags, u64)>>,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl TcpSeries {
    pub(crate) fn new(key: &SeriesKey) -> Self {
        Self {
            labels: key.labels(),
            opened: AtomicU64::default(),
            closed: RwLock::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
        }
    }

    /// A connection was opened.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// A connection has ended.
    pub fn closed(&self, flags: ResponseFlags) {
        let mut closed = self.closed.write();
        match closed.iter_mut().find(|(f, _)| *f == flags) {
            Some((_, count)) => *count += 1,
            None => closed.push((flags, 1)),
        }
    }

    /// Bytes went to the destination's answer direction: from upstream to downstream.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes came from downstream.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }
}
