//! `virtualInbound`: one chain for each port, protocol and kind of security; and the listeners of ports that a Sidecar
//! keeps out of the interception.

use mesh::{MtlsMode, Side, Snapshot, Workload};
use serde_json::{Value, json};

use super::{listener_filter, socket_address};
use crate::authz::Policies;
use crate::http::{self, Manager, Routes};
use crate::scope::{self, App, InboundPort};
use crate::{Proxy, access_log, clusters, jwt, names, telemetry, tls};

const MESH_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const MESH_TCP: [&str; 2] = ["istio-peer-exchange", "istio"];
const MESH_ALL: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];

/// One chain: which connections it takes and what they are.
struct Chain {
    alpn: &'static [&'static str],
    transport: &'static str,
    http: bool,
    security: Security,
}

/// Whose TLS ends here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    /// Nobody's.
    None,
    /// The mesh's.
    Mesh,
    /// That of callers outside the mesh.
    Own,
}

/// The chains of a port, in Istio's order.
fn plan(mode: MtlsMode, app: App) -> Vec<Chain> {
    let chain = |alpn: &'static [&'static str], transport, http, mtls| Chain {
        alpn,
        transport,
        http,
        security: if mtls { Security::Mesh } else { Security::None },
    };
    let http = matches!(app, App::Http1 | App::Http2);
    match (mode, app) {
        (MtlsMode::Strict, App::Auto) => {
            vec![chain(&MESH_HTTP, "tls", true, true), chain(&[], "tls", false, true)]
        }
        (MtlsMode::Strict, _) => vec![chain(&[], "tls", http, true)],
        (MtlsMode::Permissive, App::Auto) => vec![
            chain(&MESH_HTTP, "tls", true, true),
            chain(&PLAIN_HTTP, "raw_buffer", true, false),
            chain(&MESH_TCP, "tls", false, true),
            chain(&[], "raw_buffer", false, false),
            chain(&[], "tls", false, false),
        ],
        (MtlsMode::Permissive, App::Http1 | App::Http2) => {
            vec![chain(&MESH_ALL, "tls", true, true), chain(&[], "raw_buffer", true, false)]
        }
        (MtlsMode::Permissive, _) => vec![
            chain(&MESH_ALL, "tls", false, true),
            chain(&[], "tls", false, false),
            chain(&[], "raw_buffer", false, false),
        ],
        (MtlsMode::Disable, App::Auto) => {
            vec![chain(&PLAIN_HTTP, "raw_buffer", true, false), chain(&[], "", false, false)]
        }
        (MtlsMode::Disable, _) => vec![chain(&[], "", http, false)],
    }
}

/// The chains of a port of a Sidecar or of services. TLS of its own counts where the mesh's is switched off (Istio's rule).
fn plan_of(mode: MtlsMode, port: &InboundPort) -> Vec<Chain> {
    if port.tls.is_some() && mode == MtlsMode::Disable {
        let http = port.app != App::Tcp;
        return vec![Chain { alpn: &[], transport: "tls", http, security: Security::Own }];
    }
    plan(mode, port.app)
}

/// `virtualInbound`, and the listeners of ports that are not intercepted. Of a workload that the mesh does not know (yet)
/// neither policies nor mTLS mode are known: nothing is let in.
pub(super) fn listeners(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Value> {
    let mut chains = vec![black_hole(proxy)];
    let mut declared = Vec::new();
    let mut sniffs = false;
    let mut bound = Vec::new();
    if let Some(workload) = scope::own_workload(snapshot, proxy) {
        let own = Own::new(snapshot, proxy, &workload);
        let default_mode = snapshot.mtls_mode(&workload, 0);
        sniffs = default_mode != MtlsMode::Strict;
        chains.extend(plan(default_mode, App::Auto).iter().map(|chain| own.chain(chain, None)));
        for port in scope::inbound_ports(snapshot, proxy, &workload) {
            let mode = snapshot.mtls_mode(&workload, port.port);
            let plan = plan_of(mode, &port);
            let of_port = plan.iter().map(|chain| own.chain(chain, Some(&port)));
            if port.bound {
                bound.push(bound_listener(snapshot, &port, &plan, of_port.collect()));
                continue;
            }
            if port.app == App::Auto {
                sniffs |= mode != MtlsMode::Strict;
            } else {
                declared.push(port.port);
            }
            chains.extend(of_port);
        }
    }
    let mut filters = vec![listener_filter("original_dst", "OriginalDst"), tls_inspector()];
    if sniffs {
        filters.push(http_inspector(&declared));
    }
    let at = socket_address("0.0.0.0", names::INBOUND_PORT);
    let mut all = vec![listener(snapshot, "virtualInbound", at, chains, filters)];
    all.extend(bound);
    all
}

/// The listener of a port with a socket of its own.
fn bound_listener(snapshot: &Snapshot, port: &InboundPort, plan: &[Chain], chains: Vec<Value>) -> Value {
    let mut filters = Vec::new();
    if plan.iter().any(|chain| chain.transport == "tls") {
        filters.push(listener_filter("tls_inspector", "TlsInspector"));
    }
    if plan.iter().any(|chain| chain.alpn == PLAIN_HTTP) {
        filters.push(listener_filter("http_inspector", "HttpInspector"));
    }
    listener(snapshot, &port.name(), socket_address(&port.bind.to_string(), port.port), chains, filters)
}

fn listener(snapshot: &Snapshot, name: &str, at: Value, chains: Vec<Value>, filters: Vec<Value>) -> Value {
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "address": at,
        "continueOnListenerFiltersTimeout": true,
        "filterChains": chains,
        "listenerFilters": filters,
        "listenerFiltersTimeout": scope::detection_timeout(snapshot),
        "maxConnectionsToAcceptPerSocketEvent": 1,
        "name": name,
        "trafficDirection": "INBOUND"
    });
    if let Some(log) = access_log::of_listener(snapshot.mesh_config()) {
        out["accessLog"] = json!([log]);
    }
    out
}

/// Who connects to the capture port itself goes nowhere: it would be sent to itself.
fn black_hole(proxy: &Proxy) -> Value {
    let exchange = proxy.has("istio.metadata_exchange").then(http::metadata_exchange);
    let filters: Vec<Value> = exchange.into_iter().chain([http::tcp_proxy(names::BLACK_HOLE, Vec::new())]).collect();
    json!({
        "filterChainMatch": {"destinationPort": names::INBOUND_PORT},
        "filters": filters,
        "name": "virtualInbound-blackhole"
    })
}

fn port_range(port: u16) -> Value {
    json!({"destinationPortRange": {"start": port, "end": u32::from(port) + 1}})
}

fn tls_inspector() -> Value {
    let mut out = listener_filter("tls_inspector", "TlsInspector");
    out["typedConfig"]["initialReadBufferSize"] = json!(512);
    out["filterDisabled"] = port_range(names::INBOUND_PORT);
    out
}

/// Ports whose protocol is declared are not looked at: a server that speaks first would hang.
fn http_inspector(declared: &[u16]) -> Value {
    let mut out = listener_filter("http_inspector", "HttpInspector");
    let mut off: Vec<Value> = declared.iter().map(|port| port_range(*port)).collect();
    off.push(port_range(names::INBOUND_PORT));
    out["filterDisabled"] = if off.len() == 1 { off.remove(0) } else { json!({"orMatch": {"rules": off}}) };
    out
}

/// What is the same for all chains of a workload.
struct Own<'a> {
    snapshot: &'a Snapshot,
    proxy: &'a Proxy,
    trust_domains: Vec<String>,
    http_security: Vec<Value>,
    tcp_security: Vec<Value>,
}

impl<'a> Own<'a> {
    fn new(snapshot: &'a Snapshot, proxy: &'a Proxy, workload: &Workload) -> Self {
        let trust_domains = scope::trust_domains(snapshot);
        let tokens = snapshot.request_authentications_for(workload);
        let found = snapshot.authorization_policies_for(workload);
        let policies = Policies { audit: &found.audit, custom: &found.custom, deny: &found.deny, allow: &found.allow };
        let mut http_security: Vec<Value> =
            jwt::filter(snapshot, tokens.iter().map(|object| &object.spec)).into_iter().collect();
        http_security.extend(policies.http_filters(&trust_domains));
        let tcp_security = policies.tcp_filters(&trust_domains);
        Self { snapshot, proxy, trust_domains, http_security, tcp_security }
    }

    fn chain(&self, plan: &Chain, port: Option<&InboundPort>) -> Value {
        let mut matches = json!({});
        if !plan.alpn.is_empty() {
            matches["applicationProtocols"] = json!(plan.alpn);
        }
        if !plan.transport.is_empty() {
            matches["transportProtocol"] = json!(plan.transport);
        }
        let mut out = json!({});
        match port {
            Some(port) => {
                matches["destinationPort"] = json!(port.port);
                out["name"] = json!(port.name());
            }
            None => out["name"] = json!(if plan.http { "virtualInbound-catchall-http" } else { "virtualInbound" }),
        }
        out["filterChainMatch"] = matches;
        out["filters"] = if plan.http {
            let exchange = self.exchange();
            exchange.into_iter().chain([self.http_manager(port)]).collect()
        } else {
            let cluster =
                port.map_or_else(|| names::INBOUND_PASSTHROUGH.to_owned(), |p| names::inbound_cluster(p.port));
            json!(self.tcp_filters(&cluster, port))
        };
        if let (Security::Own, Some(settings)) = (plan.security, port.and_then(|port| port.tls.as_ref())) {
            out["transportSocket"] = tls::own_downstream(settings);
        }
        if plan.security == Security::Mesh {
            let domains: Vec<&str> = self.trust_domains.iter().map(String::as_str).collect();
            let alpn: &[&str] =
                if plan.http { &["h2", "http/1.1"] } else { &["istio-peer-exchange", "h2", "http/1.1"] };
            out["transportSocket"] = tls::mesh_downstream(&domains, alpn);
        }
        out
    }

    fn exchange(&self) -> Option<Value> {
        self.proxy.has("istio.metadata_exchange").then(http::metadata_exchange)
    }

    fn tcp_filters(&self, cluster: &str, port: Option<&InboundPort>) -> Vec<Value> {
        let mut filters: Vec<Value> = self.exchange().into_iter().collect();
        filters.extend(self.tcp_security.iter().cloned());
        if http::counts(self.snapshot, self.proxy) {
            filters.push(http::stats(true));
        }
        let mut bytes = http::tcp_proxy(cluster, telemetry::access_logs(self.snapshot, self.proxy, Side::Server));
        for (field, value) in clusters::tcp_limits(port.and_then(|port| port.pool.as_ref())) {
            bytes["typedConfig"][field] = value;
        }
        filters.push(bytes);
        filters
    }

    fn http_manager(&self, port: Option<&InboundPort>) -> Value {
        let stat_prefix =
            port.map_or_else(|| names::INBOUND_PASSTHROUGH.to_owned(), |port| format!("inbound_{}", port.name()));
        Manager {
            stat_prefix,
            access_logs: telemetry::access_logs(self.snapshot, self.proxy, Side::Server),
            routes: Routes::Inline(inbound_routes(port)),
            security: self.http_security.clone(),
            inbound: true,
            counts: http::counts(self.snapshot, self.proxy),
            tracing: telemetry::tracing(self.snapshot, self.proxy, Side::Server),
            names: None,
            normalization: scope::normalization(self.snapshot),
        }
        .filter(self.proxy)
    }
}

fn inbound_routes(port: Option<&InboundPort>) -> Value {
    let number = port.map_or(0, |port| port.port);
    let cluster = port.map_or_else(|| names::INBOUND_PASSTHROUGH.to_owned(), |port| names::inbound_cluster(port.port));
    let operation = port.and_then(|port| port.services.first().map(|s| format!("{}:{}/*", s.host, port.service_port)));
    let mut action = json!({
        "cluster": cluster,
        "maxStreamDuration": {"grpcTimeoutHeaderMax": "0s", "maxStreamDuration": "0s"},
        "timeout": "0s"
    });
    // A gRPC server's refusals are the client's to retry.
    if port.is_none_or(|port| port.app != App::Http2) {
        action["retryPolicy"] = json!({"numRetries": 2, "retryOn": "reset-before-request"});
    }
    json!({
        "name": cluster,
        "validateClusters": false,
        "virtualHosts": [{
            "domains": ["*"],
            "name": format!("inbound|http|{number}"),
            "routes": [{
                "decorator": {"operation": operation.unwrap_or_else(|| ":0/*".to_owned())},
                "match": {"prefix": "/"},
                "name": "default",
                "route": action
            }]
        }]
    })
}
