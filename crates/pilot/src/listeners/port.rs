//! `0.0.0.0_PORT`: all that is called on a port and has no listener of its own address.
//!
//! Services of unlike protocol may share the number: networks dialled decide first, then server names, then whether it
//! is HTTP, and what is left goes to the service that has no address at all, or to the unknown.

use mesh::{Protocol, Service, ServicePort, Snapshot};
use serde_json::{Value, json};

use super::chains::chains;
use super::outbound::{base, outbound_http, tcp};
use super::{listener_filter, socket_address};
use crate::{Proxy, scope};

/// What shares a port.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// HTTP services, told apart by host.
    pub http: bool,
    chains: Vec<Value>,
    looks_at_tls: bool,
    fallback: Option<Value>,
}

impl Shared {
    /// A service that is known by its networks, by its server name, or by nothing.
    pub(super) fn add(
        &mut self,
        snapshot: &Snapshot,
        proxy: &Proxy,
        service: &Service,
        port: &ServicePort,
        sniff: bool,
    ) {
        let networks: Vec<Value> = service.ranges.iter().filter_map(|range| network(range)).collect();
        if sniff && networks.is_empty() {
            self.http = true;
        } else if sniff {
            let routes = format!("{}:{}", service.host, port.port);
            let mut http = outbound_http(snapshot, proxy, format!("outbound_0.0.0.0_{}", port.port), &routes);
            http["filterChainMatch"]["prefixRanges"] = json!(networks);
            self.chains.push(http);
        }
        let user = scope::virtual_service(snapshot, proxy, &service.host);
        let (chains, by_name) = chains(snapshot, proxy, service, port, user.as_deref());
        self.looks_at_tls |= by_name;
        let tls = matches!(port.protocol, Protocol::Tls | Protocol::Https);
        for mut chain in chains {
            if !networks.is_empty() && chain["filterChainMatch"].get("prefixRanges").is_none() {
                chain["filterChainMatch"]["prefixRanges"] = json!(networks);
            }
            // Where nothing else is known of it, TLS is known by the name it asks for.
            if tls && chain["filterChainMatch"].get("serverNames").is_none() && !by_name {
                chain["filterChainMatch"]["serverNames"] = json!([service.host]);
                self.looks_at_tls = true;
            }
            if chain["filterChainMatch"].as_object().is_none_or(|matches| matches.is_empty()) {
                if let Some(fields) = chain.as_object_mut() {
                    fields.shift_remove("filterChainMatch");
                }
                self.fallback.get_or_insert(chain);
            } else if !self.chains.iter().any(|c| c["filterChainMatch"] == chain["filterChainMatch"]) {
                self.chains.push(chain);
            }
        }
    }

    /// The listener.
    pub(super) fn listener(self, snapshot: &Snapshot, proxy: &Proxy, port: u16) -> Value {
        let name = format!("0.0.0.0_{port}");
        let mut out = base(snapshot, &name, socket_address("0.0.0.0", port));
        out["defaultFilterChain"] = self.fallback.unwrap_or_else(|| {
            json!({
                "filterChainMatch": {},
                "filters": tcp(proxy, &scope::unknown(snapshot, proxy), snapshot),
                "name": "PassthroughFilterChain"
            })
        });
        let mut chains = self.chains;
        let mut filters = Vec::new();
        if self.looks_at_tls {
            filters.push(listener_filter("tls_inspector", "TlsInspector"));
        }
        let sniffs = chains.iter().any(|c| c["filterChainMatch"].get("applicationProtocols").is_some());
        if self.http || sniffs {
            filters.push(listener_filter("http_inspector", "HttpInspector"));
        }
        if self.http {
            chains.push(outbound_http(snapshot, proxy, format!("outbound_{name}"), &port.to_string()));
        }
        if !chains.is_empty() {
            out["filterChains"] = json!(chains);
        }
        if !filters.is_empty() {
            out["listenerFilters"] = json!(filters);
        }
        out
    }
}

/// A network as Envoy writes it.
fn network(range: &str) -> Option<Value> {
    let (address, length) = range.split_once('/')?;
    Some(json!({"addressPrefix": address, "prefixLen": length.parse::<u8>().ok()?}))
}
