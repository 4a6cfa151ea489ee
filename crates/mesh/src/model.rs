//! Services and endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use istio_api::Object;
use istio_api::kubernetes::{self, ServiceSpec};

use crate::workload::Workload;

/// What is spoken on a port, by its `appProtocol` or the prefix of its name (Istio's protocol selection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the protocol of that name")]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tcp,
    Tls,
    Udp,
    Mongo,
    MySql,
    Redis,
    /// Not declared: found out per connection.
    Auto,
}

impl Protocol {
    fn of(port: &kubernetes::ServicePort) -> Self {
        if port.protocol.as_deref() == Some("UDP") {
            return Self::Udp;
        }
        let declared = port.app_protocol.as_deref().and_then(Self::named);
        let name = port.name.as_deref().unwrap_or_default();
        let prefix = |n: &str| Self::named(n.split('-').next().unwrap_or_default());
        let whole = if name.starts_with("grpc-web") { Some(Self::GrpcWeb) } else { prefix(name) };
        // Servers speak first on the well-known ports of SMTP, DNS, MySQL and MongoDB, or are no HTTP: no detection.
        let unnamed = if [25, 53, 3306, 27017].contains(&port.port) { Self::Tcp } else { Self::Auto };
        declared.or(whole).unwrap_or(unnamed)
    }

    /// The protocol of a ServiceEntry's port; without one it is found out per connection.
    pub(crate) fn declared(name: &str) -> Self {
        Self::named(name).unwrap_or(Self::Auto)
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "kubernetes.io/ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" | "kubernetes.io/wss" => Self::Https,
            "tcp" => Self::Tcp,
            "tls" => Self::Tls,
            "udp" => Self::Udp,
            "mongo" => Self::Mongo,
            "mysql" => Self::MySql,
            "redis" => Self::Redis,
            _ => return None,
        })
    }
}

/// How the endpoints of a service are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// They are known.
    Endpoints,
    /// By DNS, all addresses.
    Dns,
    /// By DNS, one address at a time.
    DnsRoundRobin,
    /// By DNS, of the name that each caller brings.
    DynamicDns,
    /// Not at all: the address the client dialled.
    None,
}

/// The label by which `failoverPriority` tells nodes apart.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// Which endpoints a service wants to be called at first (`trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Those of the caller's zone, then of its region.
    SameZone,
    /// Those of the caller's node, then of its subzone, zone and region.
    SameNode,
}

impl Distribution {
    /// Where a service or its namespace may say so when its spec does not.
    const ANNOTATION: &str = "networking.istio.io/traffic-distribution";

    /// What a service asks for, by its spec, its annotation, or that of its namespace; the first that says anything
    /// counts, and a word that is not known says that all are alike. In the spec such a word says nothing.
    pub(crate) fn of(spec: Option<&str>, own: &Annotations, namespace: Option<&Annotations>) -> Option<Self> {
        let given = spec.and_then(|word| match word {
            "PreferSameZone" | "PreferClose" => Some(Self::SameZone),
            "PreferSameNode" => Some(Self::SameNode),
            _ => None,
        });
        let annotated = |of: &Annotations| of.get(Self::ANNOTATION).cloned().filter(|word| !word.is_empty());
        let word = || annotated(own).or_else(|| namespace.and_then(annotated));
        given.or_else(|| match word()?.to_ascii_lowercase().as_str() {
            "prefersamezone" | "preferclose" => Some(Self::SameZone),
            "prefersamenode" => Some(Self::SameNode),
            _ => None,
        })
    }
}

pub(crate) type Annotations = BTreeMap<String, String>;

/// One port of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The workload's port; 0 when it goes by name.
    pub target_port: u16,
    /// The workload's port by name.
    pub target_name: Option<String>,
    /// What is spoken.
    pub protocol: Protocol,
}

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Fully qualified.
    pub host: String,
    /// Short.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Virtual addresses.
    pub vips: Vec<IpAddr>,
    /// An address that the mesh invented, in 240.240.0.0/16; only who is answered by the sidecar's DNS knows it.
    pub auto_vip: Option<IpAddr>,
    /// Networks whose addresses all are the service, such as `10.1.0.0/16`.
    pub ranges: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its workloads.
    pub selector: BTreeMap<String, String>,
    /// Without virtual address on purpose.
    pub headless: bool,
    /// An alias of this name.
    pub external_name: Option<String>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Not a part of the mesh.
    pub mesh_external: bool,
    /// Namespaces that may see it; empty: all.
    pub export_to: Vec<String>,
    /// Names that its servers' certificates may have, beside those of its workloads.
    pub subject_alt_names: Vec<String>,
    /// Workloads that are not ready belong to it too.
    pub unready_too: bool,
    /// Which endpoints are called first; without a word all are alike.
    pub distribution: Option<Distribution>,
}

impl Service {
    /// A Service of Kubernetes; `export` is for those that do not say who may see them, `namespace` what annotates theirs.
    pub(crate) fn read(
        object: &Object<ServiceSpec>,
        domain: &str,
        export: &[String],
        namespace: Option<&Annotations>,
    ) -> Self {
        let spec = &object.spec;
        let distribution =
            Distribution::of(spec.traffic_distribution.as_deref(), &object.metadata.annotations, namespace);
        let (name, namespace) = (object.metadata.name.clone(), object.metadata.namespace.clone());
        let given = object.metadata.annotations.get("networking.istio.io/exportTo");
        let addresses = if spec.cluster_ips.is_empty() { spec.cluster_ip.as_slice() } else { &spec.cluster_ips };
        Self {
            host: format!("{name}.{namespace}.svc.{domain}"),
            vips: addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
            auto_vip: None,
            ranges: Vec::new(),
            ports: spec.ports.iter().map(port).collect(),
            selector: spec.selector.clone(),
            headless: spec.cluster_ip.as_deref() == Some("None"),
            external_name: spec.external_name.clone().filter(|_| spec.kind.as_deref() == Some("ExternalName")),
            resolution: Resolution::Endpoints,
            mesh_external: false,
            export_to: given
                .map_or_else(|| export.to_vec(), |list| list.split(',').map(|n| n.trim().to_owned()).collect()),
            subject_alt_names: Vec::new(),
            unready_too: spec.publish_not_ready_addresses,
            distribution,
            name,
            namespace,
        }
    }

    /// Whether clients in a namespace may call it.
    pub fn visible_to(&self, namespace: &str) -> bool {
        exported(&self.export_to, &self.namespace, namespace)
    }

    /// Whether a workload stands behind it.
    pub fn selects(&self, workload: &Workload) -> bool {
        self.selects_labels(&workload.namespace, &workload.labels)
    }

    /// Whether something of these labels in a namespace stands behind it.
    pub(crate) fn selects_labels(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.selector.is_empty()
            && namespace == self.namespace
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Istio's `exportTo`: `*` all, `.` the own namespace, `~` none, else by name; empty is all.
pub(crate) fn exported(to: &[String], own: &str, client: &str) -> bool {
    to.is_empty() || to.iter().any(|n| n == "*" || n == client || (n == "." && own == client))
}

fn port(port: &kubernetes::ServicePort) -> ServicePort {
    let number = |v: &istio_api::kubernetes::Value| v.as_u64().and_then(|n| u16::try_from(n).ok());
    let target = port.target_port.as_ref();
    let by_name = target.and_then(|v| v.as_str()).filter(|s| s.parse::<u16>().is_err());
    let digits = target.and_then(|v| v.as_str()).and_then(|s| s.parse().ok());
    ServicePort {
        name: port.name.clone().unwrap_or_default(),
        port: port.port,
        target_port: match by_name {
            Some(_) => 0,
            None => target.and_then(number).or(digits).unwrap_or(port.port),
        },
        target_name: by_name.map(str::to_owned),
        protocol: Protocol::of(port),
    }
}

/// Where a service can be reached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Address, or a name for services found by DNS.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Whether it takes requests.
    pub ready: bool,
    /// Labels, for subsets.
    pub labels: BTreeMap<String, String>,
    /// Share of requests.
    pub weight: u32,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Its own name under a headless service.
    pub hostname: Option<String>,
    /// The workload.
    pub workload: Option<Arc<Workload>>,
}
