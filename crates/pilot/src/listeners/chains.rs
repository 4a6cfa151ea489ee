//! The filter chains of a port that carries bytes: which connections a VirtualService sends where.

use std::collections::HashSet;
use std::net::IpAddr;

use istio_api::Object;
use istio_api::networking::{L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualService};
use mesh::{Protocol, Service, ServicePort, Snapshot};
use serde_json::{Value, json};

use super::outbound::tcp;
use crate::{Proxy, names, routes};

/// The chains of `tls` and `tcp` routes, then that of the service itself. The flag: the server name decides.
pub(super) fn chains(
    snapshot: &Snapshot,
    proxy: &Proxy,
    service: &Service,
    port: &ServicePort,
    user: Option<&Object<VirtualService>>,
) -> (Vec<Value>, bool) {
    let mut chains = Vec::new();
    let mut by_name = false;
    let mut closed = false;
    if let Some(object) = user {
        let at = Place { snapshot, proxy, object, port: port.port };
        if matches!(port.protocol, Protocol::Tls | Protocol::Https) {
            chains = at.tls();
            by_name = !chains.is_empty();
        } else {
            (chains, closed) = at.tcp();
        }
    }
    if !closed {
        let cluster = names::outbound_cluster(port.port, "", &service.host);
        chains.push(chain(tcp(proxy, &cluster, snapshot), &json!({})));
    }
    (chains, by_name)
}

struct Place<'a> {
    snapshot: &'a Snapshot,
    proxy: &'a Proxy,
    object: &'a Object<VirtualService>,
    port: u16,
}

impl Place<'_> {
    /// Chains by server name. Of two with the same conditions the first counts.
    fn tls(&self) -> Vec<Value> {
        let mut out = Vec::new();
        let mut taken = HashSet::new();
        for route in &self.object.spec.tls {
            for wanted in route.r#match.iter().filter(|wanted| self.tls_applies(wanted)) {
                let mut condition = json!({"serverNames": wanted.sni_hosts});
                let networks = networks(&wanted.destination_subnets);
                if !networks.is_empty() {
                    condition["prefixRanges"] = json!(networks);
                }
                if taken.insert(condition.to_string()) {
                    out.push(chain(self.filters(&route.route), &condition));
                }
            }
        }
        out
    }

    /// Chains by destination, up to the first route that takes all. The flag: there is one.
    fn tcp(&self) -> (Vec<Value>, bool) {
        let mut out = Vec::new();
        let mut taken = HashSet::new();
        for route in &self.object.spec.tcp {
            let wanted: Vec<&L4MatchAttributes> = route.r#match.iter().filter(|wanted| self.applies(wanted)).collect();
            let all = route.r#match.is_empty() || wanted.iter().any(|wanted| wanted.destination_subnets.is_empty());
            if all {
                out.push(chain(self.filters(&route.route), &json!({})));
                return (out, true);
            }
            let subnets: Vec<Value> = wanted.iter().flat_map(|wanted| networks(&wanted.destination_subnets)).collect();
            let fresh: Vec<Value> = subnets.into_iter().filter(|subnet| taken.insert(subnet.to_string())).collect();
            if !fresh.is_empty() {
                out.push(chain(self.filters(&route.route), &json!({"prefixRanges": fresh})));
            }
        }
        (out, false)
    }

    fn tls_applies(&self, wanted: &TlsMatchAttributes) -> bool {
        self.is_for(wanted.port, &wanted.source_namespace, &wanted.gateways)
            && wanted.source_labels.iter().all(|(key, value)| self.proxy.labels.get(key) == Some(value))
    }

    fn applies(&self, wanted: &L4MatchAttributes) -> bool {
        self.is_for(wanted.port, &wanted.source_namespace, &wanted.gateways)
            && wanted.source_labels.iter().all(|(key, value)| self.proxy.labels.get(key) == Some(value))
            && (wanted.source_subnet.is_empty() || holds(&wanted.source_subnet, self.proxy.ip))
    }

    /// What only the client decides is decided here, once.
    fn is_for(&self, port: Option<u32>, namespace: &str, gateways: &[String]) -> bool {
        port.is_none_or(|port| port == u32::from(self.port))
            && (namespace.is_empty() || namespace == self.proxy.namespace)
            && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh"))
    }

    fn filters(&self, to: &[RouteDestination]) -> Vec<Value> {
        let clusters: Vec<(String, i32)> = to
            .iter()
            .filter(|to_one| to.len() == 1 || to_one.weight > 0)
            .map(|to_one| {
                let to = &to_one.destination;
                let (host, port) = routes::resolve(self.snapshot, self.proxy, self.object, to, self.port);
                (names::outbound_cluster(port, &to.subset, &host), to_one.weight)
            })
            .collect();
        let [(first, _), more @ ..] = clusters.as_slice() else { return Vec::new() };
        let mut filters = tcp(self.proxy, first, self.snapshot);
        if more.is_empty() {
            return filters;
        }
        if let Some(config) = filters.last_mut().and_then(|filter| filter["typedConfig"].as_object_mut()) {
            let meta = &self.object.metadata;
            config.shift_remove("cluster");
            config.insert("statPrefix".to_owned(), json!(format!("{}.{}", meta.name, meta.namespace)));
            let weighted: Vec<Value> =
                clusters.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect();
            config.insert("weightedClusters".to_owned(), json!({"clusters": weighted}));
        }
        filters
    }
}

fn chain(filters: Vec<Value>, condition: &Value) -> Value {
    let mut out = json!({"filters": filters, "transportSocketConnectTimeout": "15s"});
    if condition.as_object().is_some_and(|map| !map.is_empty()) {
        out["filterChainMatch"] = condition.clone();
    }
    out
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = text.split_once('/').unwrap_or((text, ""));
    let ip: IpAddr = ip.parse().ok()?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = if length.is_empty() { whole } else { length.parse().ok()? };
    (length <= whole).then_some((ip, length))
}

fn networks(all: &[String]) -> Vec<Value> {
    let range = |(ip, length): (IpAddr, u8)| json!({"addressPrefix": ip.to_string(), "prefixLen": length});
    all.iter().filter_map(|text| network(text)).map(range).collect()
}

fn holds(text: &str, ip: IpAddr) -> bool {
    let Some((base, length)) = network(text) else { return false };
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let ((base, width), (ip, of)) = (bits(base), bits(ip));
    let shift = width - u32::from(length);
    width == of && (shift == 128 || base >> shift == ip >> shift)
}
