//! Outbound listeners: shared HTTP ports, addresses of TCP services, and everything else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh::{Protocol, Service, ServicePort, Side, Snapshot};
use serde_json::{Value, json};

use super::port::Shared;
use super::{listener_filter, socket_address};
use crate::http::{self, Manager, Routes};
use crate::scope::{self, App, Traffic};
use crate::sidecar::{self, Egress};
use crate::{Proxy, access_log, clusters, names, names_of_callers, telemetry};

/// Every listener but `virtualOutbound`, in order of name.
pub(super) fn listeners(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
    let mut all = Found { own: BTreeMap::new(), shared: BTreeMap::new() };
    for egress in sidecar::egress(snapshot, proxy) {
        let services = sidecar::services_of(snapshot, proxy, &egress);
        match bound(&egress) {
            Some(at) => all.bound(snapshot, proxy, &egress, at, &services),
            None => services.iter().for_each(|service| all.service(snapshot, proxy, service, egress.port())),
        }
    }
    all.finish(snapshot, proxy)
}

/// Where a listener of a Sidecar has a socket of its own; `None`: it takes what is intercepted.
fn bound(egress: &Egress<'_>) -> Option<SocketAddr> {
    let listener = egress.listener.filter(|l| l.capture_mode.as_deref() == Some("NONE"))?;
    let ip = if listener.bind.is_empty() { Ipv4Addr::LOCALHOST.into() } else { listener.bind.parse().ok()? };
    Some(SocketAddr::new(ip, egress.port()?))
}

/// The listeners found so far; of two for the same the first stays.
struct Found {
    /// Those of one address, by name.
    own: BTreeMap<String, Value>,
    /// Those of all addresses, by port.
    shared: BTreeMap<u16, Shared>,
}

impl Found {
    /// The listeners of a service, or of one of its ports only.
    fn service(&mut self, snapshot: &Snapshot, proxy: &Proxy, service: &Service, only: Option<u16>) {
        for port in service.ports.iter().filter(|port| only.is_none_or(|only| port.port == only)) {
            let sniff = match scope::traffic(service, port) {
                Traffic::SharedHttp => {
                    self.shared.entry(port.port).or_default().http = true;
                    continue;
                }
                Traffic::Ignored => continue,
                Traffic::Sniffed => true,
                Traffic::Tcp => false,
            };
            for address in addresses(snapshot, proxy, service, port) {
                let name = format!("{address}_{}", port.port);
                self.own.entry(name.clone()).or_insert_with(|| {
                    let at = Place { name: &name, address: &address };
                    own(snapshot, proxy, service, port, sniff, &at)
                });
            }
            let anywhere = scope::is_anywhere(service, proxy);
            if anywhere || !service.ranges.is_empty() {
                let shared = self.shared.entry(port.port).or_default();
                shared.add(snapshot, proxy, service, port, sniff);
            }
        }
    }

    /// A listener with a socket of its own: HTTP by the routes of its port, anything else to the first service.
    fn bound(
        &mut self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        egress: &Egress<'_>,
        at: SocketAddr,
        services: &[&Arc<Service>],
    ) {
        let name = format!("{}_{}", at.ip(), at.port());
        let declared = egress.listener.and_then(|l| l.port.as_ref()).map_or(App::Auto, scope::app_of);
        let mut out = base(snapshot, &name, &at.ip().to_string(), at.port());
        if let Some(fields) = out.as_object_mut() {
            fields.remove("bindToPort");
        }
        let ports = services.iter().flat_map(|s| s.ports.iter().map(move |p| (s, p)));
        let first = ports.filter(|(_, p)| p.port == at.port() && p.protocol != Protocol::Udp).map(|(s, _)| s).next();
        let bytes = || {
            let cluster = first.map_or_else(
                || names::BLACK_HOLE.to_owned(),
                |service| names::outbound_cluster(at.port(), "", &service.host),
            );
            json!({"filters": tcp(proxy, &cluster, snapshot)})
        };
        if declared == App::Tcp {
            out["filterChains"] = json!([bytes()]);
        } else {
            let http = outbound_http(snapshot, proxy, format!("outbound_{name}"), &at.port().to_string());
            out["filterChains"] = json!([http]);
            out["defaultFilterChain"] = bytes();
            out["listenerFilters"] = json!([listener_filter("http_inspector", "HttpInspector")]);
        }
        self.own.entry(name).or_insert(out);
    }

    fn finish(self, snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
        let mut all = self.own;
        for (port, shared) in self.shared {
            all.insert(format!("0.0.0.0_{port}"), shared.listener(snapshot, proxy, port));
        }
        all.into_values().collect()
    }
}

struct Place<'a> {
    name: &'a str,
    address: &'a str,
}

/// The addresses at which a service of its own listener is called. A pod has none for itself: what it sends to its own
/// address does not come by here.
fn addresses(snapshot: &Snapshot, proxy: &Proxy, service: &Service, port: &ServicePort) -> Vec<String> {
    let vips = scope::vips(service, proxy);
    if service.headless && vips.is_empty() {
        let own = proxy.ip.to_string();
        let mut pods: Vec<String> =
            snapshot.endpoints_of(service, port.port).into_iter().map(|endpoint| endpoint.address).collect();
        pods.retain(|address| *address != own && address.parse::<std::net::IpAddr>().is_ok());
        pods.sort();
        pods.dedup();
        return pods;
    }
    vips.iter().map(ToString::to_string).collect()
}

pub(super) fn base(snapshot: &Snapshot, name: &str, address: &str, port: u16) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": socket_address(address, port),
        "bindToPort": false,
        "continueOnListenerFiltersTimeout": true,
        "listenerFiltersTimeout": scope::detection_timeout(snapshot),
        "name": name,
        "trafficDirection": "OUTBOUND"
    })
}

pub(super) fn outbound_http(snapshot: &Snapshot, proxy: &Proxy, stat_prefix: String, routes: &str) -> Value {
    let manager = Manager {
        stat_prefix,
        access_logs: telemetry::access_logs(snapshot, proxy, Side::Client),
        routes: Routes::Rds(routes),
        security: Vec::new(),
        inbound: false,
        counts: http::counts(snapshot, proxy),
        tracing: telemetry::tracing(snapshot, proxy, Side::Client),
        names: names_of_callers::http_filter(snapshot),
        normalization: scope::normalization(snapshot),
    };
    json!({
        "filterChainMatch": {"applicationProtocols": ["http/1.1", "h2c"], "transportProtocol": "raw_buffer"},
        "filters": [manager.filter(proxy)],
        "transportSocketConnectTimeout": "15s"
    })
}

pub(super) fn tcp(proxy: &Proxy, cluster: &str, snapshot: &Snapshot) -> Vec<Value> {
    let logs = telemetry::access_logs(snapshot, proxy, Side::Client);
    let stats = http::counts(snapshot, proxy).then(|| http::stats(false));
    let mut filter = http::tcp_proxy(cluster, logs);
    for (field, value) in clusters::tcp_settings(snapshot, proxy, cluster) {
        filter["typedConfig"][field] = value;
    }
    let named = names_of_callers::sni_filter(snapshot, proxy, cluster);
    stats.into_iter().chain(named).chain([filter]).collect()
}

/// The listener of one service address.
fn own(
    snapshot: &Snapshot,
    proxy: &Proxy,
    service: &Service,
    port: &ServicePort,
    sniff: bool,
    at: &Place<'_>,
) -> Value {
    let mut out = base(snapshot, at.name, at.address, port.port);
    if sniff {
        let routes = format!("{}:{}", service.host, port.port);
        out["filterChains"] = json!([outbound_http(snapshot, proxy, format!("outbound_{}", at.name), &routes)]);
        out["listenerFilters"] = json!([listener_filter("http_inspector", "HttpInspector")]);
        let cluster = names::outbound_cluster(port.port, "", &service.host);
        out["defaultFilterChain"] = json!({
            "filters": tcp(proxy, &cluster, snapshot),
            "transportSocketConnectTimeout": "15s"
        });
        return out;
    }
    let user = scope::virtual_service(snapshot, proxy, &service.host);
    let (chains, by_name) = super::chains::chains(snapshot, proxy, service, port, user.as_deref());
    out["filterChains"] = json!(chains);
    if by_name {
        out["listenerFilters"] = json!([listener_filter("tls_inspector", "TlsInspector")]);
    }
    out
}

/// `virtualOutbound`: every captured connection arrives here, and stays when no other listener wants it.
pub(super) fn catch_all(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": socket_address("0.0.0.0", names::OUTBOUND_PORT),
        "filterChains": [
            {
                "filterChainMatch": {"destinationPort": names::OUTBOUND_PORT},
                "filters": [http::tcp_proxy(names::BLACK_HOLE, Vec::new())],
                "name": "virtualOutbound-blackhole"
            },
            {
                "filters": [http::tcp_proxy(&scope::unknown(snapshot, proxy), telemetry::access_logs(snapshot, proxy, Side::Client))],
                "name": "virtualOutbound-catchall-tcp"
            }
        ],
        "maxConnectionsToAcceptPerSocketEvent": 1,
        "name": "virtualOutbound",
        "trafficDirection": "OUTBOUND",
        "useOriginalDst": true
    });
    if let Some(log) = access_log::of_listener(snapshot.mesh_config()) {
        out["accessLog"] = json!([log]);
    }
    out
}
