//! Who calls whom: workload metadata, exchanged by headers or read from endpoints, and the metric series made of it.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use envoy_api::google::protobuf::{Struct, Value, value::Kind};
use envoy_api::prost::Message as _;
use http::HeaderValue;
use telemetry::{
    DestinationService, HttpSeries, Reporter, RequestProtocol, SecurityPolicy, SeriesKey, TcpSeries, Telemetry,
    Workload,
};
use upstream::{Cluster, Host};

use crate::connection::About;

/// Peers one worker remembers; beyond that it begins anew.
const MAX_PEERS: usize = 4096;

/// Our own metadata as header values (`x-envoy-peer-metadata`, `x-envoy-peer-metadata-id`).
#[derive(Clone, Debug)]
pub(crate) struct OwnMetadata {
    pub(crate) metadata: HeaderValue,
    pub(crate) id: HeaderValue,
}

impl OwnMetadata {
    pub(crate) fn new(node_id: &str, local: &Workload) -> Self {
        let encoded = STANDARD.encode(node_metadata(local).encode_to_vec());
        Self {
            metadata: HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static("")),
            id: HeaderValue::from_str(node_id).unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

/// A workload as the struct that Istio's sidecars exchange.
pub fn node_metadata(workload: &Workload) -> Struct {
    let text = |s: &str| Value { kind: Some(Kind::StringValue(s.to_owned())) };
    let labels = [
        ("app", &workload.app),
        ("version", &workload.version),
        ("service.istio.io/canonical-name", &workload.canonical_service),
        ("service.istio.io/canonical-revision", &workload.canonical_revision),
    ];
    let labels = labels.into_iter().filter(|(_, v)| &***v != "unknown").map(|(k, v)| (k.to_owned(), text(v))).collect();
    let fields = [
        ("NAMESPACE".to_owned(), text(&workload.namespace)),
        ("WORKLOAD_NAME".to_owned(), text(&workload.name)),
        ("CLUSTER_ID".to_owned(), text(&workload.cluster)),
        ("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: labels })) }),
    ];
    Struct { fields: fields.into_iter().collect() }
}

fn read_metadata(header: &HeaderValue) -> Option<Workload> {
    let bytes = STANDARD.decode(header.as_bytes()).ok()?;
    let given = Struct::decode(bytes.as_slice()).ok()?;
    let text = |s: &Struct, key: &str| match s.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(Kind::StringValue(text)) => Some(Arc::<str>::from(text.as_str())),
        _ => None,
    };
    let labels = match given.fields.get("LABELS").and_then(|v| v.kind.as_ref()) {
        Some(Kind::StructValue(labels)) => labels.clone(),
        _ => Struct::default(),
    };
    let unknown = Workload::unknown();
    let or = |v: Option<Arc<str>>, default: &Arc<str>| v.unwrap_or_else(|| default.clone());
    Some(Workload {
        name: or(text(&given, "WORKLOAD_NAME"), &unknown.name),
        namespace: or(text(&given, "NAMESPACE"), &unknown.namespace),
        principal: unknown.principal.clone(),
        app: or(text(&labels, "app"), &unknown.app),
        version: or(text(&labels, "version"), &unknown.version),
        canonical_service: or(text(&labels, "service.istio.io/canonical-name"), &unknown.canonical_service),
        canonical_revision: or(text(&labels, "service.istio.io/canonical-revision"), &unknown.canonical_revision),
        cluster: or(text(&given, "CLUSTER_ID"), &unknown.cluster),
    })
}

/// `workload;namespace;canonical name;revision;cluster`, as endpoints carry it.
fn read_endpoint(text: &str) -> Workload {
    let mut parts = text.split(';').map(|p| Arc::<str>::from(if p.is_empty() { "unknown" } else { p }));
    let mut next = || parts.next().unwrap_or_else(|| Arc::from("unknown"));
    let (name, namespace, canonical_service, revision, cluster) = (next(), next(), next(), next(), next());
    let unknown = Workload::unknown();
    Workload {
        name,
        namespace,
        principal: unknown.principal.clone(),
        app: unknown.app.clone(),
        version: unknown.version.clone(),
        canonical_service,
        canonical_revision: if &*revision == "unknown" { unknown.canonical_revision } else { revision },
        cluster,
    }
}

/// What identifies a series within a worker, without touching a string.
type Path = (u64, usize, usize, SecurityPolicy, RequestProtocol, Reporter);

/// A workload under the principal that was verified.
type Named = (Option<Arc<str>>, Arc<Workload>);

/// Peers of the last metadata headers; one worker talks to few at a time.
const RECENT: usize = 8;

/// Principals that one metadata header was seen under.
const MAX_PRINCIPALS: usize = 64;

/// What one worker knows of peers, and the series it has found.
#[derive(Debug)]
pub(crate) struct Peers {
    telemetry: Arc<Telemetry>,
    by_header: HashMap<HeaderValue, Vec<Named>>,
    /// Found last by header: compared before a kilobyte of metadata is hashed.
    recent: Vec<(HeaderValue, Named)>,
    by_principal: HashMap<String, Arc<Workload>>,
    by_host: HashMap<(u64, Option<Arc<str>>), Arc<Workload>>,
    http: HashMap<Path, Arc<HttpSeries>>,
    tcp: HashMap<Path, Arc<TcpSeries>>,
    local: Vec<(Option<String>, Arc<Workload>)>,
}

impl Peers {
    pub(crate) fn new(telemetry: Arc<Telemetry>) -> Self {
        Self {
            telemetry,
            by_header: HashMap::new(),
            recent: Vec::new(),
            by_principal: HashMap::new(),
            by_host: HashMap::new(),
            http: HashMap::new(),
            tcp: HashMap::new(),
            local: Vec::new(),
        }
    }

    fn bound(&mut self) {
        if self.by_header.len() + self.by_principal.len() + self.by_host.len() + self.http.len() + self.tcp.len()
            > MAX_PEERS
        {
            *self = Self::new(self.telemetry.clone());
        }
    }

    /// The peer that a metadata header describes, under its verified principal.
    pub(crate) fn by_header(&mut self, header: &HeaderValue, principal: Option<&str>) -> Option<Arc<Workload>> {
        let is = |named: &&Named| named.0.as_deref() == principal;
        if let Some((_, (_, known))) = self.recent.iter().find(|(h, named)| h == header && is(&named)) {
            return Some(known.clone());
        }
        self.bound();
        let known = self.by_header.get(header).and_then(|all| all.iter().find(is)).cloned();
        let named = match known {
            Some(known) => known,
            None => {
                let mut workload = read_metadata(header)?;
                if let Some(principal) = principal {
                    workload = workload.with_principal(principal);
                }
                let named = (principal.map(Arc::from), Arc::new(workload));
                let all = self.by_header.entry(header.clone()).or_default();
                if all.len() >= MAX_PRINCIPALS {
                    all.clear();
                }
                all.push(named.clone());
                named
            }
        };
        if self.recent.len() >= RECENT {
            self.recent.remove(0);
        }
        self.recent.push((header.clone(), named.clone()));
        Some(named.1)
    }

    /// A client of which only the principal is known.
    pub(crate) fn by_principal(&mut self, principal: Option<&str>) -> Arc<Workload> {
        self.bound();
        let key = principal.unwrap_or("unknown");
        if let Some(known) = self.by_principal.get(key) {
            return known.clone();
        }
        let mut workload = Workload::unknown().with_principal(key);
        if let Some(id) = principal.and_then(|p| p.parse::<mtls::SpiffeId>().ok()) {
            workload.namespace = Arc::from(id.namespace.as_str());
        }
        let workload = Arc::new(workload);
        self.by_principal.insert(key.to_owned(), workload.clone());
        workload
    }

    /// The workload behind a host, as its endpoint metadata has it.
    pub(crate) fn by_host(&mut self, host: &Host, principal: Option<&Arc<str>>) -> Arc<Workload> {
        self.bound();
        let key = (host.id, principal.cloned());
        if let Some(known) = self.by_host.get(&key) {
            return known.clone();
        }
        let mut workload = host.config.workload.as_deref().map_or_else(Workload::unknown, read_endpoint);
        if let Some(principal) = principal {
            workload = workload.with_principal(principal);
        }
        let workload = Arc::new(workload);
        self.by_host.insert(key, workload.clone());
        workload
    }

    /// Ourselves, under the principal we showed.
    fn own(&mut self, uri: Option<&str>) -> Arc<Workload> {
        if let Some((_, known)) = self.local.iter().find(|(known, _)| known.as_deref() == uri) {
            return known.clone();
        }
        let own = match uri {
            Some(uri) => Arc::new((**self.telemetry.local()).clone().with_principal(uri)),
            None => self.telemetry.local().clone(),
        };
        self.local.push((uri.map(str::to_owned), own.clone()));
        own
    }

    /// The request series of a call. `peer` is the caller on inbound, the called workload on outbound.
    pub(crate) fn http_series(
        &mut self,
        inbound: bool,
        about: &About,
        cluster: Option<&Cluster>,
        peer: &Arc<Workload>,
        protocol: RequestProtocol,
    ) -> Arc<HttpSeries> {
        let (path, key) = self.path(inbound, about, cluster, peer, protocol);
        if let Some(known) = self.http.get(&path) {
            return known.clone();
        }
        let series = self.telemetry.http_series(&key());
        self.http.insert(path, series.clone());
        series
    }

    /// The connection series of a call.
    pub(crate) fn tcp_series(
        &mut self,
        inbound: bool,
        about: &About,
        cluster: &Cluster,
        host: &Host,
        peer_uri: Option<&Arc<str>>,
        protocol: RequestProtocol,
    ) -> Arc<TcpSeries> {
        let peer = if inbound {
            self.by_principal(about.peer.as_ref().and_then(|p| p.uri_sans.first()).map(String::as_str))
        } else {
            self.by_host(host, peer_uri)
        };
        let (path, key) = self.path(inbound, about, Some(cluster), &peer, protocol);
        if let Some(known) = self.tcp.get(&path) {
            return known.clone();
        }
        let series = self.telemetry.tcp_series(&key());
        self.tcp.insert(path, series.clone());
        series
    }

    fn path<'a>(
        &mut self,
        inbound: bool,
        about: &'a About,
        cluster: Option<&'a Cluster>,
        peer: &'a Arc<Workload>,
        protocol: RequestProtocol,
    ) -> (Path, impl FnOnce() -> SeriesKey + use<'a>) {
        let reporter = if inbound { Reporter::Destination } else { Reporter::Source };
        let security = match (inbound, about.peer.is_some()) {
            (false, _) => SecurityPolicy::Unknown,
            (true, true) => SecurityPolicy::MutualTls,
            (true, false) => SecurityPolicy::None,
        };
        let own = self.own(about.local_uri.as_deref());
        let pointer = |w: &Arc<Workload>| Arc::as_ptr(w) as usize;
        let id = cluster.map_or(0, |c| c.id);
        let path = (id, pointer(peer), pointer(&own), security, protocol, reporter);
        let key = move || {
            let (source, destination) = if inbound { (peer.clone(), own) } else { (own, peer.clone()) };
            SeriesKey {
                reporter,
                service: Arc::new(service(cluster, &destination)),
                source,
                destination,
                security,
                protocol,
            }
        };
        (path, key)
    }
}

/// The service a cluster stands for; special clusters go by their own name (Istio's rule).
fn service(cluster: Option<&Cluster>, destination: &Workload) -> DestinationService {
    let unknown: Arc<str> = Arc::from("unknown");
    let Some(cluster) = cluster else {
        return DestinationService { host: unknown.clone(), name: unknown.clone(), namespace: unknown };
    };
    match cluster.config.services.first() {
        Some(s) => DestinationService { host: s.host.clone(), name: s.name.clone(), namespace: s.namespace.clone() },
        None => DestinationService {
            host: unknown,
            name: cluster.config.name.clone(),
            namespace: destination.namespace.clone(),
        },
    }
}
