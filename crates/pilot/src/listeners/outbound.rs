//! Outbound listeners: shared HTTP ports, addresses of TCP services, and everything else.

use std::collections::BTreeMap;

use mesh::{Service, ServicePort, Side, Snapshot};
use serde_json::{Value, json};

use super::placed::{self, Place};
use super::port::Shared;
use super::{listener_filter, socket_address};
use crate::http::{self, Manager, Routes};
use crate::scope::{self, Traffic};
use crate::sidecar;
use crate::{Proxy, access_log, clusters, names, names_of_callers, routes, telemetry};

/// Every listener but `virtualOutbound`, in order of name.
pub(super) fn listeners(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
    let mut all = Found { own: BTreeMap::new(), shared: BTreeMap::new() };
    for egress in sidecar::egress(snapshot, proxy) {
        let services = sidecar::services_of(snapshot, proxy, &egress);
        match Place::of(&egress) {
            Some(place) => {
                for (name, listener) in placed::listeners(snapshot, proxy, &egress, &place, &services) {
                    all.own.entry(name).or_insert(listener);
                }
            }
            None => services.iter().for_each(|service| all.service(snapshot, proxy, service, egress.port())),
        }
    }
    all.finish(snapshot, proxy)
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
                    let at = Own { name: &name, address: &address };
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

    fn finish(self, snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
        let mut all = self.own;
        for (port, shared) in self.shared {
            all.insert(format!("0.0.0.0_{port}"), shared.listener(snapshot, proxy, port));
        }
        all.into_values().collect()
    }
}

struct Own<'a> {
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

pub(super) fn base(snapshot: &Snapshot, name: &str, address: Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": address,
        "bindToPort": false,
        "continueOnListenerFiltersTimeout": true,
        "listenerFiltersTimeout": scope::detection_timeout(snapshot),
        "name": name,
        "trafficDirection": "OUTBOUND"
    })
}

/// A chain of plain HTTP by the routes of a name.
pub(super) fn outbound_http(snapshot: &Snapshot, proxy: &Proxy, stat_prefix: String, routes: &str) -> Value {
    json!({
        "filterChainMatch": {"applicationProtocols": ["http/1.1", "h2c"], "transportProtocol": "raw_buffer"},
        "filters": [manager(snapshot, proxy, stat_prefix, Routes::Rds(routes))],
        "transportSocketConnectTimeout": "15s"
    })
}

fn manager(snapshot: &Snapshot, proxy: &Proxy, stat_prefix: String, routes: Routes<'_>) -> Value {
    let manager = Manager {
        stat_prefix,
        access_logs: telemetry::access_logs(snapshot, proxy, Side::Client),
        routes,
        security: Vec::new(),
        inbound: false,
        counts: http::counts(snapshot, proxy),
        tracing: telemetry::tracing(snapshot, proxy, Side::Client),
        names: names_of_callers::http_filter(snapshot, proxy),
        normalization: scope::normalization(snapshot),
    };
    manager.filter(proxy)
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
fn own(snapshot: &Snapshot, proxy: &Proxy, service: &Service, port: &ServicePort, sniff: bool, at: &Own<'_>) -> Value {
    let mut out = base(snapshot, at.name, socket_address(at.address, port.port));
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
    if scope::names_unknown(snapshot, proxy) {
        let prefix = "outbound_virtualOutbound_allow_any_dynamic_dns".to_owned();
        let http = json!({
            "filterChainMatch": {"applicationProtocols": ["http/1.1", "h2c"]},
            "filters": [manager(snapshot, proxy, prefix, Routes::Inline(routes::by_name(snapshot, proxy)))],
            "name": "virtualOutbound-catchall-tcp-http"
        });
        if let Some(chains) = out["filterChains"].as_array_mut() {
            chains.insert(1, http);
        }
        out["listenerFilters"] = json!([listener_filter("http_inspector", "HttpInspector")]);
        // A client that waits for its server is not closed for that: it goes on as one that does not speak HTTP.
        out["continueOnListenerFiltersTimeout"] = json!(true);
    }
    if let Some(log) = access_log::of_listener(snapshot.mesh_config()) {
        out["accessLog"] = json!([log]);
    }
    out
}
