//! What a proxy sees of the mesh, and how a port is treated.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::{Protocol, Resolution, Service, ServicePort, Snapshot, Workload};
use serde_json::Value;

use crate::{Proxy, duration};

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// HTTP/1.1, or whatever a client speaks on a port declared `http`.
    Http1,
    /// HTTP/2 and gRPC.
    Http2,
    /// Bytes.
    Tcp,
    /// Not declared: found out per connection.
    Auto,
    /// Not handled by proxies.
    Udp,
}

/// How outbound traffic to a port is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// One listener `0.0.0.0_PORT` for all services, told apart by host.
    SharedHttp,
    /// An own listener that looks at the first bytes.
    Sniffed,
    /// An own listener, bytes only.
    Tcp,
    /// None.
    Ignored,
}

/// The protocol class of a service port.
pub(crate) fn app(port: &ServicePort) -> App {
    match port.protocol {
        Protocol::Http => App::Http1,
        Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb => App::Http2,
        Protocol::Udp => App::Udp,
        Protocol::Auto => App::Auto,
        _ => App::Tcp,
    }
}

/// How calls to a service port are caught.
pub(crate) fn traffic(service: &Service, port: &ServicePort) -> Traffic {
    if service.external_name.is_some() {
        return Traffic::Ignored;
    }
    match app(port) {
        App::Http1 | App::Http2 => Traffic::SharedHttp,
        App::Auto => Traffic::Sniffed,
        App::Tcp => Traffic::Tcp,
        App::Udp => Traffic::Ignored,
    }
}

/// The services a proxy may call.
pub(crate) fn services<'a>(snapshot: &'a Snapshot, proxy: &'a Proxy) -> impl Iterator<Item = &'a Arc<Service>> {
    snapshot.services().filter(move |service| service.visible_to(&proxy.namespace))
}

/// The workload beside which the proxy runs.
pub(crate) fn own_workload(snapshot: &Snapshot, proxy: &Proxy) -> Option<Arc<Workload>> {
    snapshot.workload(&proxy.namespace, &proxy.name).or_else(|| snapshot.workload_by_ip(proxy.ip)).cloned()
}

/// One port of the workload itself that services lead to.
pub(crate) struct InboundPort {
    /// The workload's port.
    pub port: u16,
    /// The port of the first service.
    pub service_port: u16,
    /// What is spoken.
    pub app: App,
    /// The services that lead here, oldest first.
    pub services: Vec<Arc<Service>>,
}

/// The ports of a workload by number; of several services on one port the first decides the protocol.
pub(crate) fn inbound_ports(snapshot: &Snapshot, workload: &Workload) -> Vec<InboundPort> {
    let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
    for service in snapshot.services().filter(|service| service.selects(workload)) {
        for port in &service.ports {
            let app = app(port);
            let Some(target) = workload.target_port(port).filter(|_| app != App::Udp) else { continue };
            let entry = ports.entry(target).or_insert_with(|| InboundPort {
                port: target,
                service_port: port.port,
                app,
                services: Vec::new(),
            });
            if !entry.services.iter().any(|known| known.host == service.host) {
                entry.services.push(Arc::clone(service));
            }
        }
    }
    ports.into_values().collect()
}

/// A host as it is known in the mesh: short names belong to the namespace of who wrote them.
pub(crate) fn resolve(host: &str, namespace: &str, domain_suffix: &str) -> String {
    if host.contains('.') || host == "*" { host.to_owned() } else { format!("{host}.{namespace}.svc.{domain_suffix}") }
}

/// Whether traffic to unknown places is let out.
pub(crate) fn allow_any(snapshot: &Snapshot) -> bool {
    snapshot.mesh_config().outbound_traffic_policy.as_ref().and_then(|policy| policy.mode.as_deref())
        != Some("REGISTRY_ONLY")
}

/// Whether clients use mTLS without being told, wherever the server can.
pub(crate) fn auto_mtls(snapshot: &Snapshot) -> bool {
    snapshot.mesh_config().enable_auto_mtls.unwrap_or(true)
}

/// The mesh's connect timeout.
pub(crate) fn connect_timeout(snapshot: &Snapshot) -> Value {
    snapshot.mesh_config().connect_timeout.as_ref().map_or_else(|| Value::from("10s"), duration)
}

/// The mesh's own trust domain and its aliases.
pub(crate) fn trust_domains(snapshot: &Snapshot) -> Vec<String> {
    let mesh = snapshot.mesh_config();
    let own =
        mesh.trust_domain.clone().filter(|domain| !domain.is_empty()).unwrap_or_else(|| "cluster.local".to_owned());
    std::iter::once(own).chain(mesh.trust_domain_aliases.iter().cloned()).collect()
}

/// Per cent of requests that are traced.
pub(crate) fn sampling(_snapshot: &Snapshot) -> f64 {
    1.0
}

/// Whether a service is reached at the addresses of its endpoints only.
pub(crate) fn direct(service: &Service) -> bool {
    service.headless || service.resolution == Resolution::None
}
