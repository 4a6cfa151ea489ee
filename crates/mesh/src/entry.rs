//! ServiceEntries and WorkloadEntries: services and workloads that users declare themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use istio_api::service_entry::{ServiceEntry, WorkloadEntry};
use istio_api::{Object, ObjectMeta};

use crate::model::{Annotations, Distribution, Endpoint, Protocol, Resolution, Service, ServicePort};
use crate::workload::Workload;

/// A service that a ServiceEntry declares, and the endpoints that it names itself.
#[derive(Debug)]
pub(crate) struct Declared {
    /// The service of one of the entry's hosts.
    pub service: Arc<Service>,
    /// Its endpoints by port number.
    pub endpoints: BTreeMap<u16, Vec<Endpoint>>,
}

/// All services of all entries; a host that two entries of a namespace declare belongs to the first. `export` is for
/// those that do not say who may see them, `annotations` gives those of a namespace.
pub(crate) fn declare<'a>(
    entries: &[Arc<Object<ServiceEntry>>],
    trust_domain: &str,
    export: &[String],
    annotations: impl Fn(&str) -> Option<&'a Annotations>,
) -> Vec<Declared> {
    let mut taken = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for entry in entries {
        for host in &entry.spec.hosts {
            if seen.insert((entry.metadata.namespace.as_str(), host.as_str())) {
                let distribution =
                    Distribution::of(None, &entry.metadata.annotations, annotations(&entry.metadata.namespace));
                out.push(declared(entry, host, &mut taken, trust_domain, export, distribution));
            }
        }
    }
    out
}

/// Turns the label off by which an entry gets an address of the mesh's own.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

fn declared(
    entry: &Object<ServiceEntry>,
    host: &str,
    taken: &mut BTreeSet<u16>,
    trust_domain: &str,
    export: &[String],
    distribution: Option<Distribution>,
) -> Declared {
    let spec = &entry.spec;
    let resolution = match spec.resolution.as_deref() {
        Some("STATIC") => Resolution::Endpoints,
        Some("DNS") => Resolution::Dns,
        Some("DNS_ROUND_ROBIN") => Resolution::DnsRoundRobin,
        Some("DYNAMIC_DNS") => Resolution::DynamicDns,
        _ => Resolution::None,
    };
    let refused = entry.metadata.labels.get(AUTO_ALLOCATE).is_some_and(|v| v == "false");
    let invented = spec.addresses.is_empty() && resolution != Resolution::None && !host.contains('*') && !refused;
    let ports = spec.ports.iter().filter_map(|port| {
        let number = u16::try_from(port.number).ok()?;
        let target = u16::try_from(port.target_port).ok().filter(|t| *t != 0).unwrap_or(number);
        Some(ServicePort {
            name: port.name.clone(),
            port: number,
            target_port: target,
            target_name: None,
            protocol: Protocol::declared(&port.protocol),
        })
    });
    let service = Service {
        host: host.to_owned(),
        name: host.to_owned(),
        namespace: entry.metadata.namespace.clone(),
        headless: false,
        vips: spec.addresses.iter().filter_map(|a| single(a)).collect(),
        auto_vip: invented.then(|| allocate(&entry.metadata.namespace, host, taken)),
        ranges: spec.addresses.iter().filter(|a| single(a).is_none()).cloned().collect(),
        ports: ports.collect(),
        selector: spec.workload_selector.as_ref().map(|s| s.labels.clone()).unwrap_or_default(),
        external_name: None,
        resolution,
        mesh_external: spec.location.as_deref() != Some("MESH_INTERNAL"),
        export_to: if spec.export_to.is_empty() { export.to_vec() } else { spec.export_to.clone() },
        subject_alt_names: spec.subject_alt_names.clone(),
        unready_too: false,
        distribution,
    };
    let endpoints = service.ports.iter().map(|port| (port.port, behind(entry, host, port, trust_domain))).collect();
    Declared { service: Arc::new(service), endpoints }
}

/// The endpoints an entry names; none named and resolved by DNS: the host itself.
fn behind(entry: &Object<ServiceEntry>, host: &str, port: &ServicePort, trust_domain: &str) -> Vec<Endpoint> {
    let (name, namespace) = (&entry.metadata.name, &entry.metadata.namespace);
    let by_name = matches!(entry.spec.resolution.as_deref(), Some("DNS" | "DNS_ROUND_ROBIN"));
    if entry.spec.endpoints.is_empty() && entry.spec.workload_selector.is_none() && by_name {
        let itself = WorkloadEntry { address: host.to_owned(), ..WorkloadEntry::default() };
        return vec![endpoint(&itself, name, namespace, port, trust_domain)];
    }
    entry.spec.endpoints.iter().map(|e| endpoint(e, name, namespace, port, trust_domain)).collect()
}

/// What a WorkloadEntry is a replica of: the group that it was made of, or what its label names; else it stands alone.
pub(crate) fn workload_name(of: &ObjectMeta) -> &str {
    let group = of.annotations.get("istio.io/autoRegistrationGroup");
    group.or_else(|| of.labels.get("service.istio.io/workload-name")).unwrap_or(&of.name)
}

/// One declared workload as an endpoint of a port.
pub(crate) fn endpoint(
    of: &WorkloadEntry,
    name: &str,
    namespace: &str,
    port: &ServicePort,
    trust_domain: &str,
) -> Endpoint {
    let named = port.target_name.as_ref().and_then(|name| of.ports.get(name));
    let own = of.ports.get(&port.name).or(named).and_then(|p| u16::try_from(*p).ok());
    let label = |key: &str| of.labels.get(key).cloned();
    let canonical = label("service.istio.io/canonical-name").or_else(|| label("app"));
    let revision = label("service.istio.io/canonical-revision").or_else(|| label("version"));
    let workload = Workload {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        ip: of.address.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        labels: of.labels.clone(),
        service_account: of.service_account.clone(),
        workload_name: name.to_owned(),
        in_mesh: label("security.istio.io/tlsMode").is_some_and(|mode| mode == "istio"),
        ready: true,
        canonical_service: canonical.unwrap_or_else(|| name.to_owned()),
        canonical_revision: revision.unwrap_or_default(),
        trust_domain: trust_domain.to_owned(),
        named_ports: BTreeMap::new(),
        hostname: None,
        subdomain: None,
        node: None,
    };
    Endpoint {
        address: of.address.clone(),
        port: own.unwrap_or(port.target_port),
        ready: true,
        labels: of.labels.clone(),
        weight: of.weight.max(1),
        locality: of.locality.clone(),
        hostname: None,
        workload: Some(Arc::new(workload)),
    }
}

/// A single address; a range is none.
fn single(address: &str) -> Option<IpAddr> {
    let (ip, prefix) = address.split_once('/').unwrap_or((address, ""));
    let ip: IpAddr = ip.parse().ok()?;
    let whole = if ip.is_ipv4() { "32" } else { "128" };
    (prefix.is_empty() || prefix == whole).then_some(ip)
}

/// An address in 240.240.0.0/16 that stays the same whatever other entries come and go, unless two of them collide.
fn allocate(namespace: &str, host: &str, taken: &mut BTreeSet<u16>) -> IpAddr {
    let key = namespace.bytes().chain([b'/']).chain(host.bytes());
    // FNV-1a, folded to 16 bits.
    let hash = key.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    let mut slot = u16::from_be_bytes([a ^ c, b ^ d]);
    // .0.0 and .255.255 are left out; a full range repeats addresses rather than never ending.
    for _ in 0..=u16::MAX {
        if slot != 0 && slot != u16::MAX && taken.insert(slot) {
            break;
        }
        slot = slot.wrapping_add(1);
    }
    let [high, low] = slot.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(240, 240, high, low))
}
