//! A DestinationRule's traffic policy as fields of a cluster.

use istio_api::networking::{
    ClientTlsSettings, ConnectionPool, HttpSettings, OutlierDetection, ProxyProtocol, RetryBudget, TcpKeepalive,
    TrafficPolicy,
};
use istio_api::secret::secret_name;
use mesh::MergedDestinationRule;
use serde_json::{Value, json};

use crate::duration;
use crate::tls::{Certificates, OwnTls};

/// Without a limit.
const UNLIMITED: u32 = u32::MAX;

/// The policy of a subset and port. A subset's fields take the place of the rule's one by one; what is set for a port
/// takes the place of the four groups of fields whole, as Istio does.
pub(super) fn effective(rule: &MergedDestinationRule, subset: &str, port: u16) -> TrafficPolicy {
    let mut out = rule.traffic_policy.as_ref().map(|general| at_port(general, port)).unwrap_or_default();
    let own = rule.subsets.iter().find(|s| s.name == subset).and_then(|s| s.traffic_policy.as_ref());
    let Some(own) = own else { return out };
    out.connection_pool = own.connection_pool.clone().or(out.connection_pool);
    out.load_balancer = own.load_balancer.clone().or(out.load_balancer);
    out.outlier_detection = own.outlier_detection.clone().or(out.outlier_detection);
    out.tls = own.tls.clone().or(out.tls);
    out.tunnel = own.tunnel.clone().or(out.tunnel);
    out.proxy_protocol = own.proxy_protocol.clone().or(out.proxy_protocol);
    out.retry_budget = own.retry_budget.clone().or(out.retry_budget);
    out.port_level_settings.clone_from(&own.port_level_settings);
    at_port(&out, port)
}

fn at_port(policy: &TrafficPolicy, port: u16) -> TrafficPolicy {
    let wanted =
        |p: &&istio_api::networking::PortTrafficPolicy| p.port.as_ref().is_some_and(|s| s.number == u32::from(port));
    match policy.port_level_settings.iter().find(wanted) {
        None => TrafficPolicy { port_level_settings: Vec::new(), ..policy.clone() },
        Some(own) => TrafficPolicy {
            connection_pool: own.connection_pool.clone(),
            load_balancer: own.load_balancer.clone(),
            outlier_detection: own.outlier_detection.clone(),
            tls: own.tls.clone(),
            port_level_settings: Vec::new(),
            ..policy.clone()
        },
    }
}

/// Where the rule is, as tools show it.
pub(super) fn origin(rule: &MergedDestinationRule) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{}/destination-rule/{}", rule.namespace, rule.name)
}

/// Limits; what is not given is unlimited.
pub(super) fn circuit_breakers(pool: Option<&ConnectionPool>) -> Value {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let limit = |value: Option<i32>| value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(UNLIMITED);
    json!({"thresholds": [{
        "maxConnections": limit(tcp.and_then(|tcp| tcp.max_connections)),
        "maxPendingRequests": limit(http.and_then(|http| http.http1_max_pending_requests)),
        "maxRequests": limit(http.and_then(|http| http.http2_max_requests)),
        "maxRetries": limit(http.and_then(|http| http.max_retries))
    }]})
}

/// Retries as a share of the requests; they take the place of `maxRetries`. Defaults are Istio's.
pub(super) fn retry_budget(budget: Option<&RetryBudget>, out: &mut Value) {
    let (Some(budget), Some(limits)) = (budget, out.pointer_mut("/circuitBreakers/thresholds/0")) else { return };
    limits["retryBudget"] = json!({
        "budgetPercent": {"value": budget.percent.unwrap_or(20.0)},
        "minRetryConcurrency": budget.min_retry_concurrency.unwrap_or(3)
    });
    if let Some(interval) = &budget.budget_interval {
        limits["retryBudget"]["budgetInterval"] = duration(interval);
    }
}

/// Options of HTTP connections; those of TCP count for them too, the idle time where HTTP has none of its own.
pub(super) fn common_options(pool: Option<&ConnectionPool>) -> Option<Value> {
    let mut out = http_options(pool.and_then(|pool| pool.http.as_ref()));
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    if let Some(life) = tcp.and_then(|tcp| tcp.max_connection_duration.as_ref()) {
        out.get_or_insert_with(|| json!({}))["maxConnectionDuration"] = duration(life);
    }
    let own = out.as_ref().is_some_and(|options| options.get("idleTimeout").is_some());
    if let Some(idle) = tcp.and_then(|tcp| tcp.idle_timeout.as_ref()).filter(|_| !own) {
        out.get_or_insert_with(|| json!({}))["idleTimeout"] = duration(idle);
    }
    out
}

/// Streams and pings of HTTP/2, wherever it may be spoken.
pub(super) fn http2(http: Option<&HttpSettings>, options: &mut Value) {
    let Some(http) = http else { return };
    for place in ["explicitHttpConfig", "useDownstreamProtocolConfig"] {
        let Some(h2) = options.pointer_mut(&format!("/{place}/http2ProtocolOptions")) else { continue };
        if let Some(streams) = http.max_concurrent_streams.filter(|streams| *streams > 0) {
            h2["maxConcurrentStreams"] = json!(streams);
        }
        if let Some(alive) = &http.http2_keep_alive {
            let mut ping = json!({});
            if let Some(interval) = &alive.interval {
                ping["interval"] = duration(interval);
            }
            ping["timeout"] = duration(&alive.timeout.unwrap_or(std::time::Duration::from_secs(20)));
            h2["connectionKeepalive"] = ping;
        }
    }
}

/// Servers are told in front of all bytes who connects.
pub(super) fn proxy_protocol(of: Option<&ProxyProtocol>, out: &mut Value) {
    let Some(of) = of else { return };
    let version = of.version.as_deref().unwrap_or("V1");
    let wrap = |inner: Value| {
        json!({
            "name": "envoy.transport_sockets.upstream_proxy_protocol",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
                "config": {"version": version},
                "transportSocket": inner
            }
        })
    };
    if let Some(matches) = out.get_mut("transportSocketMatches").and_then(Value::as_array_mut) {
        for one in matches {
            one["transportSocket"] = wrap(one["transportSocket"].take());
        }
        return;
    }
    let inner = out.get_mut("transportSocket").map_or_else(crate::tls::raw_buffer, Value::take);
    out["transportSocket"] = wrap(inner);
}

/// How long connections that carry bytes may be idle, and live.
pub(super) fn tcp_limits(pool: Option<&ConnectionPool>) -> Vec<(&'static str, Value)> {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let idle = tcp.and_then(|tcp| tcp.idle_timeout.as_ref()).map(|idle| ("idleTimeout", duration(idle)));
    let life = tcp.and_then(|tcp| tcp.max_connection_duration.as_ref());
    idle.into_iter().chain(life.map(|life| ("maxDownstreamConnectionDuration", duration(life)))).collect()
}

/// What a rule says of connections that carry bytes, as fields of `tcp_proxy`.
pub(super) fn tcp_proxy(traffic: &TrafficPolicy) -> Vec<(&'static str, Value)> {
    let mut out = tcp_limits(traffic.connection_pool.as_ref());
    let hash = traffic.load_balancer.as_ref().and_then(|lb| lb.consistent_hash.as_ref());
    if hash.is_some_and(|hash| hash.use_source_ip == Some(true)) {
        out.push(("hashPolicy", json!([{"sourceIp": {}}])));
    }
    if let Some(tunnel) = &traffic.tunnel {
        let host = &tunnel.target_host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let mut config = json!({"hostname": format!("{host}:{}", tunnel.target_port)});
        if tunnel.protocol == "POST" {
            config["usePost"] = json!(true);
        }
        out.push(("tunnelingConfig", config));
    }
    out
}

/// The connect timeout, when the rule has one.
pub(super) fn connect_timeout(policy: &TrafficPolicy) -> Option<Value> {
    policy.connection_pool.as_ref()?.tcp.as_ref()?.connect_timeout.as_ref().map(duration)
}

/// Keep-alive and connection lifetime.
pub(super) fn connections(pool: Option<&ConnectionPool>, out: &mut Value) {
    keepalive(pool.and_then(|p| p.tcp.as_ref()).and_then(|tcp| tcp.tcp_keepalive.as_ref()), out);
}

/// Keep-alive; none leaves it as it was.
pub(super) fn keepalive(of: Option<&TcpKeepalive>, out: &mut Value) {
    let Some(keepalive) = of else { return };
    let mut settings = json!({});
    if let Some(probes) = keepalive.probes {
        settings["keepaliveProbes"] = json!(probes);
    }
    if let Some(time) = &keepalive.time {
        settings["keepaliveTime"] = json!(time.as_secs());
    }
    if let Some(interval) = &keepalive.interval {
        settings["keepaliveInterval"] = json!(interval.as_secs());
    }
    out["upstreamConnectionOptions"] = json!({"tcpKeepalive": settings});
}

/// Options of HTTP connections.
fn http_options(http: Option<&HttpSettings>) -> Option<Value> {
    let http = http?;
    let mut out = json!({});
    if let Some(idle) = &http.idle_timeout {
        out["idleTimeout"] = duration(idle);
    }
    if let Some(requests) = http.max_requests_per_connection.filter(|requests| *requests > 0) {
        out["maxRequestsPerConnection"] = json!(requests);
    }
    out.as_object().is_some_and(|map| !map.is_empty()).then_some(out)
}

/// Outlier detection; only what the user gave, for Envoy has Istio's defaults.
pub(super) fn outlier(of: &OutlierDetection) -> Value {
    let mut out = json!({"enforcingSuccessRate": 0});
    if let Some(errors) = of.consecutive_5xx_errors {
        out["consecutive5xx"] = json!(errors);
        out["enforcingConsecutive5xx"] = json!(if errors > 0 { 100 } else { 0 });
    }
    if let Some(errors) = of.consecutive_gateway_errors {
        out["consecutiveGatewayFailure"] = json!(errors);
        out["enforcingConsecutiveGatewayFailure"] = json!(if errors > 0 { 100 } else { 0 });
    }
    if of.split_external_local_origin_errors {
        out["splitExternalLocalOriginErrors"] = json!(true);
        if let Some(failures) = of.consecutive_local_origin_failures {
            out["consecutiveLocalOriginFailure"] = json!(failures);
            out["enforcingConsecutiveLocalOriginFailure"] = json!(if failures > 0 { 100 } else { 0 });
        }
    }
    if let Some(interval) = &of.interval {
        out["interval"] = duration(interval);
    }
    if let Some(time) = &of.base_ejection_time {
        out["baseEjectionTime"] = duration(time);
    }
    if let Some(percent) = of.max_ejection_percent.filter(|percent| *percent > 0) {
        out["maxEjectionPercent"] = json!(percent);
    }
    out
}

/// TLS that the user configures: SIMPLE, or MUTUAL, with files or a Secret; that only where the rule selects its clients.
pub(super) fn tls(settings: &ClientTlsSettings, selected: bool, host: &str, h2: bool) -> Value {
    let mutual = settings.mode.as_deref() == Some("MUTUAL");
    let files = Certificates::Files {
        client: Some((settings.client_certificate.as_str(), settings.private_key.as_str()))
            .filter(|(certificate, _)| !certificate.is_empty() && mutual),
        roots: Some(settings.ca_certificates.as_str()).filter(|path| !path.is_empty()),
    };
    let secret = secret_name(&settings.credential_name).filter(|_| selected);
    OwnTls {
        certificates: secret.map_or(files, |name| Certificates::Secret { name, client: mutual }),
        revoked: Some(settings.ca_crl.as_str()).filter(|path| !path.is_empty()),
        sans: &settings.subject_alt_names,
        sni: if settings.sni.is_empty() { host } else { &settings.sni },
        insecure: settings.insecure_skip_verify == Some(true),
        alpn: if h2 { &["h2"] } else { &[] },
    }
    .upstream()
}
