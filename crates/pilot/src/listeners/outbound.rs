//! Outbound listeners: shared HTTP ports, addresses of TCP services, and everything else.

use std::collections::BTreeMap;

use mesh::{Service, ServicePort, Snapshot};
use serde_json::{Value, json};

use super::{listener_filter, socket_address};
use crate::http::{self, Manager, Routes};
use crate::scope::{self, Traffic};
use crate::{Proxy, access_log, clusters, names};

/// Every listener but `virtualOutbound`, in order of name.
pub(super) fn listeners(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for service in scope::services(snapshot, proxy) {
        for port in &service.ports {
            match scope::traffic(service, port) {
                Traffic::SharedHttp => {
                    let name = format!("0.0.0.0_{}", port.port);
                    all.entry(name).or_insert_with(|| shared_http(snapshot, proxy, port.port));
                }
                kind @ (Traffic::Tcp | Traffic::Sniffed) => {
                    for address in addresses(snapshot, service, port) {
                        let name = format!("{address}_{}", port.port);
                        all.entry(name.clone()).or_insert_with(|| {
                            let at = Place { name: &name, address: &address };
                            own(snapshot, proxy, service, port, kind == Traffic::Sniffed, &at)
                        });
                    }
                }
                Traffic::Ignored => {}
            }
        }
    }
    all.into_values().collect()
}

struct Place<'a> {
    name: &'a str,
    address: &'a str,
}

/// The addresses at which a service of its own listener is called.
fn addresses(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Vec<String> {
    if scope::direct(service) && service.vips.is_empty() {
        let mut pods: Vec<String> =
            snapshot.endpoints(&service.host, port.port).iter().map(|endpoint| endpoint.address.to_string()).collect();
        pods.sort();
        pods.dedup();
        return pods;
    }
    service.vips.iter().map(ToString::to_string).collect()
}

fn base(name: &str, address: &str, port: u16) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": socket_address(address, port),
        "bindToPort": false,
        "continueOnListenerFiltersTimeout": true,
        "listenerFiltersTimeout": "0s",
        "name": name,
        "trafficDirection": "OUTBOUND"
    })
}

fn outbound_http(snapshot: &Snapshot, proxy: &Proxy, stat_prefix: String, routes: &str) -> Value {
    let manager = Manager {
        stat_prefix,
        access_log: access_log::of_mesh(snapshot.mesh_config()),
        routes: Routes::Rds(routes),
        security: Vec::new(),
        inbound: false,
        sampling: scope::sampling(snapshot),
    };
    json!({
        "filterChainMatch": {"applicationProtocols": ["http/1.1", "h2c"], "transportProtocol": "raw_buffer"},
        "filters": [manager.filter(proxy)],
        "transportSocketConnectTimeout": "15s"
    })
}

/// One port for all HTTP services; what is not HTTP goes where it wanted to go.
fn shared_http(snapshot: &Snapshot, proxy: &Proxy, port: u16) -> Value {
    let name = format!("0.0.0.0_{port}");
    let mut out = base(&name, "0.0.0.0", port);
    out["defaultFilterChain"] = json!({
        "filterChainMatch": {},
        "filters": tcp(proxy, &unknown(snapshot), snapshot),
        "name": "PassthroughFilterChain"
    });
    out["filterChains"] = json!([outbound_http(snapshot, proxy, format!("outbound_{name}"), &port.to_string())]);
    out["listenerFilters"] = json!([listener_filter("http_inspector", "HttpInspector")]);
    out
}

fn unknown(snapshot: &Snapshot) -> String {
    if scope::allow_any(snapshot) { names::PASSTHROUGH } else { names::BLACK_HOLE }.to_owned()
}

pub(super) fn tcp(proxy: &Proxy, cluster: &str, snapshot: &Snapshot) -> Vec<Value> {
    let log = access_log::of_mesh(snapshot.mesh_config());
    let stats = proxy.has("istio.stats").then(|| http::stats(false));
    let mut filter = http::tcp_proxy(cluster, log);
    for (field, value) in clusters::tcp_settings(snapshot, proxy, cluster) {
        filter["typedConfig"][field] = value;
    }
    stats.into_iter().chain([filter]).collect()
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
    let mut out = base(at.name, at.address, port.port);
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
    let user = snapshot.virtual_service_for(&service.host, &proxy.namespace);
    let (chains, by_name) = super::chains::chains(snapshot, proxy, service, port, user.as_deref());
    out["filterChains"] = json!(chains);
    if by_name {
        out["listenerFilters"] = json!([listener_filter("tls_inspector", "TlsInspector")]);
    }
    out
}

/// `virtualOutbound`: every captured connection arrives here, and stays when no other listener wants it.
pub(super) fn catch_all(snapshot: &Snapshot) -> Value {
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": socket_address("0.0.0.0", names::OUTBOUND_PORT),
        "filterChains": [
            {
                "filterChainMatch": {"destinationPort": names::OUTBOUND_PORT},
                "filters": [http::tcp_proxy(names::BLACK_HOLE, None)],
                "name": "virtualOutbound-blackhole"
            },
            {
                "filters": [http::tcp_proxy(&unknown(snapshot), access_log::of_mesh(snapshot.mesh_config()))],
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
