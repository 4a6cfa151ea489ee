//! What a proxy sees of the mesh, and how a port is treated.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use istio_api::Object;
use istio_api::edge::{IngressListener, ServerTls, SidecarPort};
use istio_api::networking::{ConnectionPool, VirtualService};
use istio_api::unix::socket_path;
use mesh::{Protocol, Service, ServicePort, Snapshot, Workload};
use serde_json::Value;

use crate::{Proxy, duration, names, sidecar};

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

/// What is spoken on a port of a Sidecar resource.
pub(crate) fn app_of(port: &SidecarPort) -> App {
    match port.protocol.to_ascii_uppercase().as_str() {
        "HTTP" => App::Http1,
        "HTTP2" | "GRPC" | "GRPC-WEB" => App::Http2,
        "" => App::Auto,
        _ => App::Tcp,
    }
}

/// Whether a service port is among the routes that all services on that port number share.
pub(crate) fn shares_routes(service: &Service, port: &ServicePort, proxy: &Proxy) -> bool {
    match traffic(service, port) {
        Traffic::SharedHttp => true,
        // Without any address only the host tells it from others.
        Traffic::Sniffed => is_anywhere(service, proxy),
        Traffic::Tcp | Traffic::Ignored => false,
    }
}

/// Whether a service has no address by which connections to it could be known.
pub(crate) fn is_anywhere(service: &Service, proxy: &Proxy) -> bool {
    !service.headless && vips(service, proxy).is_empty() && service.ranges.is_empty()
}

/// The virtual addresses at which a proxy's workload calls a service.
pub(crate) fn vips(service: &Service, proxy: &Proxy) -> Vec<IpAddr> {
    let invented = service.auto_vip.filter(|_| proxy.dns_capture());
    service.vips.iter().copied().chain(invented).collect()
}

/// The services a proxy may call.
pub(crate) fn services<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> Vec<&'a Arc<Service>> {
    sidecar::services(snapshot, proxy)
}

/// The VirtualService of a host that a proxy follows.
pub(crate) fn virtual_service(snapshot: &Snapshot, proxy: &Proxy, host: &str) -> Option<Arc<Object<VirtualService>>> {
    if sidecar::of(snapshot, proxy).is_none() {
        return snapshot.virtual_service_for(host, &proxy.namespace);
    }
    snapshot.virtual_service_where(host, &proxy.namespace, |object| sidecar::follows(snapshot, proxy, object))
}

/// The workload beside which the proxy runs.
pub(crate) fn own_workload(snapshot: &Snapshot, proxy: &Proxy) -> Option<Arc<Workload>> {
    snapshot.workload(&proxy.namespace, &proxy.name).or_else(|| snapshot.workload_by_ip(proxy.ip)).cloned()
}

/// Where a proxy is: where its workload is, else where it says to be itself.
pub(crate) fn locality(snapshot: &Snapshot, proxy: &Proxy, own: Option<&Workload>) -> String {
    let known = own.map(|own| snapshot.locality(own)).filter(|place| !place.is_empty());
    known.unwrap_or_else(|| proxy.locality.clone())
}

/// The service that stands for a workload among its replicas: the first that leads to it, and the first of its ports.
pub(crate) fn own_service<'a>(snapshot: &'a Snapshot, own: &Workload) -> Option<(&'a Arc<Service>, u16)> {
    let mut services = snapshot.services().filter(|service| service.selects(own));
    services.find_map(|service| {
        let port = service.ports.iter().find(|port| own.target_port(port).is_some())?;
        Some((service, port.port))
    })
}

/// Where an application listens.
pub(crate) enum Application {
    /// At an address.
    Ip(SocketAddr),
    /// At a Unix socket, by its path.
    Pipe(String),
}

/// One port of the workload itself that services lead to, or that its Sidecar opens.
pub(crate) struct InboundPort {
    /// The workload's port.
    pub port: u16,
    /// The port of the first service.
    pub service_port: u16,
    /// What is spoken.
    pub app: App,
    /// The services that lead here, oldest first.
    pub services: Vec<Arc<Service>>,
    /// Where connections are sent instead of the address they were made to.
    pub endpoint: Option<Application>,
    /// Limits of the connections to the application.
    pub pool: Option<ConnectionPool>,
    /// The address by which its chain is known, and at which it listens when it is bound.
    pub bind: IpAddr,
    /// It has a socket of its own, and takes nothing that was intercepted.
    pub bound: bool,
    /// TLS of callers outside the mesh.
    pub tls: Option<ServerTls>,
}

impl InboundPort {
    /// `ADDRESS_PORT`, the name of its chains, and of its listener when it is bound.
    pub(crate) fn name(&self) -> String {
        format!("{}_{}", self.bind, self.port)
    }
}

/// Every address.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The ports of a workload by number; of several services on one port the first decides the protocol. A Sidecar with
/// ingress listeners replaces what services say.
pub(crate) fn inbound_ports(snapshot: &Snapshot, proxy: &Proxy, workload: &Workload) -> Vec<InboundPort> {
    let mut ports = service_ports(snapshot, workload);
    let Some(sidecar) = sidecar::of(snapshot, proxy) else { return ports.into_values().collect() };
    if !sidecar.ingress.is_empty() {
        let listeners = sidecar.ingress.iter().filter_map(|listener| ingress(listener, proxy, &mut ports)).collect();
        ports = listeners;
    }
    for port in ports.values_mut().filter(|port| port.pool.is_none()) {
        port.pool.clone_from(&sidecar.inbound_connection_pool);
    }
    ports.into_values().collect()
}

fn service_ports(snapshot: &Snapshot, workload: &Workload) -> BTreeMap<u16, InboundPort> {
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
                endpoint: None,
                pool: None,
                bind: ANYWHERE,
                bound: false,
                tls: None,
            });
            if !entry.services.iter().any(|known| known.host == service.host) {
                entry.services.push(Arc::clone(service));
            }
        }
    }
    ports
}

/// An ingress listener; the services that lead to its port keep their names.
fn ingress(
    listener: &IngressListener,
    proxy: &Proxy,
    of_services: &mut BTreeMap<u16, InboundPort>,
) -> Option<(u16, InboundPort)> {
    let given = listener.port.as_ref()?;
    let port = u16::try_from(given.number).ok()?;
    let known = of_services.remove(&port);
    let own = |at: SocketAddr| if at.ip().is_unspecified() { SocketAddr::new(proxy.ip, at.port()) } else { at };
    let endpoint = match socket_path(&listener.default_endpoint) {
        Some(path) => Some(Application::Pipe(path.to_owned())),
        None => listener.default_endpoint.parse().ok().map(|at| Application::Ip(own(at))),
    };
    // Where TLS ends at the sidecar, what was inside it is seen.
    let app = match (&listener.tls, given.protocol.to_ascii_uppercase().as_str()) {
        (Some(_), "HTTPS") => App::Http1,
        _ => app_of(given),
    };
    let made = InboundPort {
        port,
        service_port: known.as_ref().map_or(port, |k| k.service_port),
        app,
        services: known.map(|k| k.services).unwrap_or_default(),
        endpoint,
        pool: listener.connection_pool.clone(),
        bind: listener.bind.parse().unwrap_or_else(|_| if is_global(proxy.ip) { proxy.ip } else { ANYWHERE }),
        bound: listener.capture_mode.as_deref() == Some("NONE"),
        tls: listener.tls.clone(),
    };
    Some((port, made))
}

/// Whether others can call an address (Go's `IsGlobalUnicast`, which Istio asks).
fn is_global(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

/// A host as it is known in the mesh: short names belong to the namespace of who wrote them.
pub(crate) fn resolve(host: &str, namespace: &str, domain_suffix: &str) -> String {
    if host.contains('.') || host == "*" { host.to_owned() } else { format!("{host}.{namespace}.svc.{domain_suffix}") }
}

/// The cluster of traffic to unknown places: the Sidecar's word before the mesh's. A policy without a mode lets nothing
/// out, as Istio's has it.
pub(crate) fn unknown(snapshot: &Snapshot, proxy: &Proxy) -> String {
    if let Some(own) = sidecar::of(snapshot, proxy).and_then(|s| s.outbound_traffic_policy.as_ref()) {
        let through = own.egress_proxy.as_ref().and_then(|to| {
            let port = u16::try_from(to.port.as_ref()?.number).ok()?;
            Some(names::outbound_cluster(port, &to.subset, &to.host))
        });
        return match own.mode.as_deref() {
            Some("ALLOW_ANY") => through.unwrap_or_else(|| names::PASSTHROUGH.to_owned()),
            _ => names::BLACK_HOLE.to_owned(),
        };
    }
    match mesh_mode(snapshot) {
        None | Some("ALLOW_ANY" | BY_NAME) => names::PASSTHROUGH.to_owned(),
        _ => names::BLACK_HOLE.to_owned(),
    }
}

const BY_NAME: &str = "ALLOW_ANY_DYNAMIC_DNS";

/// What the mesh does with traffic to unknown places; `None` without a word.
fn mesh_mode(snapshot: &Snapshot) -> Option<&str> {
    snapshot.mesh_config().outbound_traffic_policy.as_ref().map(|policy| policy.mode.as_deref().unwrap_or_default())
}

/// Whether requests of HTTP to unknown hosts go where DNS says, for some proxies of the mesh.
pub(crate) fn names_unknown_somewhere(snapshot: &Snapshot) -> bool {
    mesh_mode(snapshot) == Some(BY_NAME)
}

/// The same for a proxy: a Sidecar has its own word, and cannot say this.
pub(crate) fn names_unknown(snapshot: &Snapshot, proxy: &Proxy) -> bool {
    let own = || sidecar::of(snapshot, proxy).is_some_and(|s| s.outbound_traffic_policy.is_some());
    names_unknown_somewhere(snapshot) && !own()
}

/// How long the first bytes of a connection are waited for; zero leaves it to the proxy.
pub(crate) fn detection_timeout(snapshot: &Snapshot) -> Value {
    snapshot.mesh_config().protocol_detection_timeout.as_ref().map_or_else(|| Value::from("0s"), duration)
}

/// How paths are made plain.
pub(crate) fn normalization(snapshot: &Snapshot) -> &str {
    let policy = snapshot.mesh_config().path_normalization.as_ref();
    policy.and_then(|p| p.normalization.as_deref()).unwrap_or("DEFAULT")
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
