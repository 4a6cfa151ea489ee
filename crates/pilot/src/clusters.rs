//! Clusters: where connections can go, and how.

mod balance;
mod policy;

use std::collections::BTreeSet;

use istio_api::networking::{ConnectionPool, LoadBalancerSettings, TrafficPolicy};
use mesh::{Resolution, Service, ServicePort, Snapshot};
use serde_json::{Value, json};

use crate::locality::Preference;
use crate::scope::{self, App, Application};
use crate::{Outlook, Proxy, Resource, endpoints, http, names, names_of_callers, sidecar, tls};

/// Callers bring the names: a type of cluster that is an extension's.
const DYNAMIC: &str = "DYNAMIC_DNS";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// All clusters of a proxy: those of what it calls, and those of its own ports.
pub fn clusters(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Resource> {
    let mut all = called_clusters(snapshot, &Outlook::of_places(snapshot, proxy));
    all.extend(own_clusters(snapshot, proxy));
    all
}

/// The fixed clusters, and those of what may be called.
pub fn called_clusters(snapshot: &Snapshot, outlook: &Outlook) -> Vec<Resource> {
    let mut all = vec![black_hole(snapshot), passthrough(snapshot, outlook), inbound_passthrough(snapshot)];
    if scope::names_unknown(snapshot, outlook) {
        all.push(named(snapshot, outlook));
    }
    for service in sidecar::reached(snapshot, outlook) {
        for port in &service.ports {
            outbound(snapshot, outlook, service, port, &mut all);
        }
    }
    finished(outlook, all)
}

/// Of the clusters of what may be called those that lead to some hosts.
pub fn called_clusters_of(snapshot: &Snapshot, outlook: &Outlook, hosts: &BTreeSet<String>) -> Vec<Resource> {
    let mut all = Vec::new();
    for service in sidecar::reached(snapshot, outlook).into_iter().filter(|service| hosts.contains(&service.host)) {
        for port in &service.ports {
            outbound(snapshot, outlook, service, port, &mut all);
        }
    }
    finished(outlook, all)
}

/// The clusters of a proxy's own ports.
pub fn own_clusters(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Resource> {
    let Some(workload) = scope::own_workload(snapshot, proxy) else { return Vec::new() };
    let ports = scope::inbound_ports(snapshot, proxy, &workload);
    finished(proxy, ports.iter().map(|port| inbound(snapshot, port)).collect())
}

fn finished(proxy: &Proxy, mut all: Vec<Value>) -> Vec<Resource> {
    if proxy.preserves_case() {
        all.iter_mut().for_each(keep_case);
    }
    all.into_iter().filter_map(|json| Resource::from_json(json["name"].clone().as_str()?, json)).collect()
}

/// What ties the requests of a route to hosts, when the DestinationRule asks for it.
pub(crate) fn hash_policy(snapshot: &Snapshot, proxy: &Proxy, host: &str, subset: &str, port: u16) -> Option<Value> {
    balance::hash(traffic(snapshot, proxy, host, subset, port)?.load_balancer.as_ref()?)
}

/// The traffic policy of a subset and port of a host, when a DestinationRule speaks of it.
pub(crate) fn traffic(
    snapshot: &Snapshot,
    proxy: &Proxy,
    host: &str,
    subset: &str,
    port: u16,
) -> Option<TrafficPolicy> {
    let rule = snapshot.destination_rule_for(host, &proxy.namespace, &proxy.labels)?;
    Some(policy::effective(&rule, subset, port))
}

/// What a pool says of connections that carry bytes, as fields of `tcp_proxy`.
pub(crate) fn tcp_limits(pool: Option<&ConnectionPool>) -> Vec<(&'static str, Value)> {
    policy::tcp_limits(pool)
}

/// What the DestinationRule of a cluster says of connections that carry bytes, as fields of `tcp_proxy`.
pub(crate) fn tcp_settings(snapshot: &Snapshot, proxy: &Proxy, cluster: &str) -> Vec<(&'static str, Value)> {
    let of = names::parse_outbound(cluster);
    let traffic = of.and_then(|(port, subset, host)| traffic(snapshot, proxy, host, subset, port));
    traffic.map(|traffic| policy::tcp_proxy(&traffic)).unwrap_or_default()
}

fn base(snapshot: &Snapshot, name: &str, kind: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "altStatName": format!("{name};"),
        "connectTimeout": scope::connect_timeout(snapshot),
        "name": name,
        "type": kind
    })
}

fn black_hole(snapshot: &Snapshot) -> Value {
    base(snapshot, names::BLACK_HOLE, "STATIC")
}

fn downstream_protocol() -> Value {
    json!({"useDownstreamProtocolConfig": {"http2ProtocolOptions": {}, "httpProtocolOptions": {}}})
}

fn protocol_options(mut options: Value) -> Value {
    options["@type"] = json!(format!("type.googleapis.com/{HTTP_OPTIONS}"));
    json!({HTTP_OPTIONS: options})
}

fn to_original_destination(snapshot: &Snapshot, name: &str) -> Value {
    let mut out = base(snapshot, name, "ORIGINAL_DST");
    out["altStatName"] = json!(format!("{};", names::PASSTHROUGH));
    out["circuitBreakers"] = policy::circuit_breakers(None);
    out["lbPolicy"] = json!("CLUSTER_PROVIDED");
    let mut options = downstream_protocol();
    options["commonHttpProtocolOptions"] = json!({"idleTimeout": "300s"});
    out["typedExtensionProtocolOptions"] = protocol_options(options);
    out
}

fn passthrough(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    let mut out = to_original_destination(snapshot, names::PASSTHROUGH);
    exchange_metadata(proxy, &mut out);
    out
}

/// Where requests of HTTP to unknown hosts go: the host says where.
fn named(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    let mut out = to_original_destination(snapshot, names::NAMED);
    out["altStatName"] = json!(format!("{};", names::NAMED));
    if let Some(fields) = out.as_object_mut() {
        fields.shift_remove("type");
    }
    out["clusterType"] = names_of_callers::unknown_cluster_type(snapshot);
    exchange_metadata(proxy, &mut out);
    out
}

fn inbound_passthrough(snapshot: &Snapshot) -> Value {
    let mut out = to_original_destination(snapshot, names::INBOUND_PASSTHROUGH);
    out["upstreamBindConfig"] = inbound_source();
    out
}

/// The source address by which redirection knows traffic that the sidecar has already seen.
fn inbound_source() -> Value {
    json!({"sourceAddress": {"address": "127.0.0.6", "portValue": 0}})
}

fn exchange_metadata(proxy: &Proxy, cluster: &mut Value) {
    if proxy.has("istio.metadata_exchange") {
        cluster["filters"] = json!([http::metadata_exchange()]);
    }
}

fn service_metadata(service: &Service) -> Value {
    json!({"host": service.host, "name": service.name, "namespace": service.namespace})
}

fn inbound(snapshot: &Snapshot, port: &scope::InboundPort) -> Value {
    let name = names::inbound_cluster(port.port);
    let mut out = base(snapshot, &name, if port.endpoint.is_some() { "STATIC" } else { "ORIGINAL_DST" });
    let pool = port.pool.as_ref();
    out["circuitBreakers"] = policy::circuit_breakers(pool);
    out["commonLbConfig"] = json!({});
    match &port.endpoint {
        Some(application) => {
            let address = match application {
                Application::Ip(at) => {
                    json!({"socketAddress": {"address": at.ip().to_string(), "portValue": at.port()}})
                }
                Application::Pipe(path) => json!({"pipe": {"path": path}}),
            };
            let host = json!({"endpoint": {"address": address}});
            out["loadAssignment"] = json!({"clusterName": name, "endpoints": [{"lbEndpoints": [host]}]});
        }
        None => {
            out["cleanupInterval"] = json!("9223372035s");
            out["lbPolicy"] = json!("CLUSTER_PROVIDED");
        }
    }
    if let Some(limit) = pool.and_then(|p| p.tcp.as_ref()).and_then(|tcp| tcp.connect_timeout.as_ref()) {
        out["connectTimeout"] = crate::duration(limit);
    }
    policy::connections(pool, &mut out);
    let services: Vec<Value> = port.services.iter().map(|service| service_metadata(service)).collect();
    out["metadata"] = json!({"filterMetadata": {"istio": {"services": services}}});
    let http = pool.and_then(|p| p.http.as_ref());
    let mut options = match port.app {
        App::Http1 | App::Http2 if http.is_some_and(|http| http.use_client_protocol) => Some(downstream_protocol()),
        App::Http2 => Some(explicit_h2()),
        App::Auto => Some(downstream_protocol()),
        App::Http1 | App::Tcp | App::Udp => None,
    };
    if let Some(options) = &mut options {
        policy::http2(http, options);
    }
    if let Some(common) = policy::common_options(pool).filter(|_| port.app != App::Tcp) {
        options.get_or_insert_with(|| json!({"explicitHttpConfig": {"httpProtocolOptions": {}}}))["commonHttpProtocolOptions"] =
            common;
    }
    if let Some(options) = options {
        out["typedExtensionProtocolOptions"] = protocol_options(options);
    }
    // What goes to a Unix socket is not captured, and has no source address.
    if !matches!(port.endpoint, Some(Application::Pipe(_))) {
        out["upstreamBindConfig"] = inbound_source();
    }
    out
}

/// Header names keep their case towards servers of HTTP/1.
fn keep_case(cluster: &mut Value) {
    let options = &mut cluster["typedExtensionProtocolOptions"];
    if options.is_null() {
        *options = protocol_options(json!({"explicitHttpConfig": {"httpProtocolOptions": {}}}));
    }
    for way in ["explicitHttpConfig", "useDownstreamProtocolConfig"] {
        if let Some(http1) = options[HTTP_OPTIONS][way].get_mut("httpProtocolOptions") {
            *http1 = http::preserve_case();
        }
    }
}

fn explicit_h2() -> Value {
    json!({"explicitHttpConfig": {"http2ProtocolOptions": {}}})
}

/// The cluster of one service port, and those of its subsets.
fn outbound(snapshot: &Snapshot, outlook: &Outlook, service: &Service, port: &ServicePort, all: &mut Vec<Value>) {
    let app = scope::app(port);
    if app == App::Udp || service.external_name.is_some() {
        return;
    }
    let rule = snapshot.destination_rule_for(&service.host, &outlook.namespace, &outlook.labels);
    let origin = rule.as_ref().map(|rule| policy::origin(rule));
    let selected = rule.as_ref().is_some_and(|rule| !rule.selector.is_empty());
    let subsets = rule.iter().flat_map(|rule| &rule.subsets).map(|subset| subset.name.as_str());
    for subset in std::iter::once("").chain(subsets) {
        let traffic = rule.as_ref().map(|rule| policy::effective(rule, subset, port.port)).unwrap_or_default();
        let (traffic, origin) = (&traffic, origin.as_deref());
        all.push(Outbound { snapshot, outlook, service, port, app, subset, traffic, origin, selected }.cluster());
    }
}

struct Outbound<'a> {
    snapshot: &'a Snapshot,
    outlook: &'a Outlook,
    service: &'a Service,
    port: &'a ServicePort,
    app: App,
    subset: &'a str,
    traffic: &'a TrafficPolicy,
    origin: Option<&'a str>,
    /// The DestinationRule selects its clients.
    selected: bool,
}

impl Outbound<'_> {
    fn cluster(&self) -> Value {
        let name = names::outbound_cluster(self.port.port, self.subset, &self.service.host);
        let kind = self.kind();
        let mut out = base(self.snapshot, &name, kind);
        if let Some(limit) = policy::connect_timeout(self.traffic) {
            out["connectTimeout"] = limit;
        }
        out["circuitBreakers"] = policy::circuit_breakers(self.traffic.connection_pool.as_ref());
        policy::retry_budget(self.traffic.retry_budget.as_ref(), &mut out);
        let preference = Preference::of(self.snapshot.mesh_config(), Some(self.traffic), self.service);
        out["commonLbConfig"] = balance::common_lb(self.traffic, &preference);
        out["metadata"] = self.metadata();
        exchange_metadata(self.outlook, &mut out);
        balance::balance(self.traffic.load_balancer.as_ref(), kind == "ORIGINAL_DST" || kind == DYNAMIC, &mut out);
        if let Some(detection) = &self.traffic.outlier_detection {
            out["outlierDetection"] = policy::outlier(detection);
        }
        policy::keepalive(self.snapshot.mesh_config().tcp_keepalive.as_ref(), &mut out);
        policy::connections(self.traffic.connection_pool.as_ref(), &mut out);
        self.protocol(&mut out);
        self.transport(kind, &mut out);
        policy::proxy_protocol(self.traffic.proxy_protocol.as_ref(), &mut out);
        self.discovery(kind, &name, &mut out);
        out
    }

    fn kind(&self) -> &'static str {
        let passthrough = matches!(
            self.traffic.load_balancer,
            Some(LoadBalancerSettings { ref simple, .. }) if simple.as_deref() == Some("PASSTHROUGH")
        );
        match self.service.resolution {
            _ if passthrough && self.service.resolution != Resolution::DynamicDns => "ORIGINAL_DST",
            Resolution::Endpoints if self.service.headless => "ORIGINAL_DST",
            Resolution::Endpoints => "EDS",
            Resolution::Dns => "STRICT_DNS",
            Resolution::DnsRoundRobin => "LOGICAL_DNS",
            Resolution::DynamicDns => DYNAMIC,
            Resolution::None => "ORIGINAL_DST",
        }
    }

    fn metadata(&self) -> Value {
        let mut istio = json!({"services": [service_metadata(self.service)]});
        if let Some(origin) = self.origin {
            istio["config"] = json!(origin);
        }
        if self.service.mesh_external {
            istio["external"] = json!(true);
        }
        if !self.subset.is_empty() {
            istio["subset"] = json!(self.subset);
        }
        json!({"filterMetadata": {"istio": istio}})
    }

    /// HTTP options: the service's protocol, upgraded when the user asks for it.
    fn protocol(&self, out: &mut Value) {
        let pool = self.traffic.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
        let of_mesh = self.snapshot.mesh_config().h2_upgrade_policy.as_deref();
        let own = pool.and_then(|pool| pool.h2_upgrade_policy.as_deref()).filter(|policy| *policy != "DEFAULT");
        let upgrade = own.or(of_mesh) == Some("UPGRADE");
        let follow = pool.is_some_and(|pool| pool.use_client_protocol);
        let mut options = match self.app {
            App::Auto => Some(downstream_protocol()),
            App::Http1 if follow => Some(downstream_protocol()),
            App::Http2 => Some(explicit_h2()),
            App::Http1 if upgrade => Some(explicit_h2()),
            App::Http1 | App::Tcp | App::Udp => None,
        };
        if let Some(options) = &mut options {
            policy::http2(pool, options);
        }
        let common = policy::common_options(self.traffic.connection_pool.as_ref()).filter(|_| self.app != App::Tcp);
        if let Some(common) = common {
            options.get_or_insert_with(|| json!({"explicitHttpConfig": {"httpProtocolOptions": {}}}))["commonHttpProtocolOptions"] =
                common;
        }
        if let Some(options) = options {
            out["typedExtensionProtocolOptions"] = protocol_options(options);
        }
    }

    fn transport(&self, kind: &str, out: &mut Value) {
        let sni = names::sni(self.port.port, self.subset, &self.service.host);
        let asked = self.traffic.tls.as_ref();
        match asked.map(|asked| asked.mode.as_deref().unwrap_or("DISABLE")) {
            Some("DISABLE") => {}
            Some("ISTIO_MUTUAL") => {
                let sni = asked.map(|asked| asked.sni.as_str()).filter(|sni| !sni.is_empty()).unwrap_or(&sni);
                let given = asked.map_or(&[][..], |asked| asked.subject_alt_names.as_slice());
                let sans = if given.is_empty() { self.sans() } else { given.to_vec() };
                out["transportSocket"] = tls::mesh_upstream(&sans, sni, &self.alpn());
            }
            Some(_) => {
                if let Some(asked) = asked {
                    let mut asked = asked.clone();
                    if asked.subject_alt_names.is_empty() {
                        asked.subject_alt_names.clone_from(&self.service.subject_alt_names);
                    }
                    out["transportSocket"] =
                        policy::tls(&asked, self.selected, &self.service.host, self.app == App::Http2);
                }
            }
            None => {
                let possible = kind != "ORIGINAL_DST"
                    && kind != DYNAMIC
                    && !self.service.mesh_external
                    && scope::auto_mtls(self.snapshot);
                if possible {
                    out["transportSocketMatches"] = json!([
                        {
                            "match": {"tlsMode": "istio"},
                            "name": "tlsMode-istio",
                            "transportSocket": tls::mesh_upstream(&self.sans(), &sni, &self.alpn())
                        },
                        {"match": {}, "name": "tlsMode-disabled", "transportSocket": tls::raw_buffer()}
                    ]);
                }
            }
        }
    }

    /// ALPN of mesh mTLS. Istio's proxies choose it per request; a stock Envoy cannot, so the cluster says what it
    /// carries, which is what servers tell HTTP and TCP apart by.
    fn alpn(&self) -> Vec<&'static str> {
        match (self.outlook.stock_envoy, self.app) {
            (true, App::Http2) => vec!["istio-h2", "istio", "h2"],
            (true, App::Http1) => vec!["istio-http/1.1", "istio", "http/1.1"],
            (false, App::Http2) => vec!["istio-peer-exchange", "istio", "h2"],
            _ => vec!["istio-peer-exchange", "istio"],
        }
    }

    fn sans(&self) -> Vec<String> {
        let endpoints = self.snapshot.endpoints_of(self.service, self.port.port);
        let of_workloads = endpoints.iter().filter_map(|endpoint| endpoint.workload.as_ref());
        let mut sans: Vec<String> = of_workloads.map(|workload| workload.identity().to_string()).collect();
        sans.extend(self.service.subject_alt_names.iter().cloned());
        sans.sort();
        sans.dedup();
        sans
    }

    fn discovery(&self, kind: &str, name: &str, out: &mut Value) {
        match kind {
            "EDS" => {
                out["edsClusterConfig"] = json!({
                    "edsConfig": {"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"},
                    "serviceName": name
                });
            }
            "STRICT_DNS" | "LOGICAL_DNS" => {
                out["dnsJitter"] = json!("0.100s");
                out["dnsLookupFamily"] = json!("V4_ONLY");
                out["dnsRefreshRate"] = json!("60s");
                out["respectDnsTtl"] = json!(true);
                out["typedDnsResolverConfig"] = json!({
                    "name": "envoy.network.dns_resolver.cares",
                    "typedConfig": {
                        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                        "udpMaxQueries": 100
                    }
                });
                let assignment = endpoints::assignment(self.snapshot, self.outlook, name, false);
                out["loadAssignment"] = assignment.unwrap_or_else(|| json!({"clusterName": name}));
            }
            DYNAMIC => {
                if let Some(fields) = out.as_object_mut() {
                    fields.shift_remove("type");
                }
                out["clusterType"] = names_of_callers::cluster_type(self.snapshot);
            }
            _ => {}
        }
    }
}
