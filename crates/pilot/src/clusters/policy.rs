//! A DestinationRule's traffic policy as fields of a cluster.

use istio_api::networking::{
    ClientTlsSettings, ConnectionPool, HttpSettings, LoadBalancerSettings, OutlierDetection, TrafficPolicy,
};
use mesh::MergedDestinationRule;
use serde_json::{Value, json};

use crate::duration;
use crate::tls::FileTls;

/// Without a limit.
const UNLIMITED: u32 = u32::MAX;

/// The policy of a subset and port: the subset's over the rule's, and of each the port's over the general one, field by
/// field; a port-level policy replaces what stands above it whole, as Istio does.
pub(super) fn effective(rule: &MergedDestinationRule, subset: &str, port: u16) -> TrafficPolicy {
    let general = rule.traffic_policy.clone().unwrap_or_default();
    let mut out = at_port(&general, port);
    if let Some(own) = rule.subsets.iter().find(|s| s.name == subset).and_then(|s| s.traffic_policy.as_ref()) {
        let own = at_port(own, port);
        out.connection_pool = own.connection_pool.or(out.connection_pool);
        out.load_balancer = own.load_balancer.or(out.load_balancer);
        out.outlier_detection = own.outlier_detection.or(out.outlier_detection);
        out.tls = own.tls.or(out.tls);
    }
    out
}

fn at_port(policy: &TrafficPolicy, port: u16) -> TrafficPolicy {
    let wanted =
        |p: &&istio_api::networking::PortTrafficPolicy| p.port.as_ref().is_some_and(|s| s.number == u32::from(port));
    match policy.port_level_settings.iter().find(wanted) {
        None => policy.clone(),
        Some(own) => TrafficPolicy {
            connection_pool: own.connection_pool.clone(),
            load_balancer: own.load_balancer.clone(),
            outlier_detection: own.outlier_detection.clone(),
            tls: own.tls.clone(),
            ..TrafficPolicy::default()
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

/// The connect timeout, when the rule has one.
pub(super) fn connect_timeout(policy: &TrafficPolicy) -> Option<Value> {
    policy.connection_pool.as_ref()?.tcp.as_ref()?.connect_timeout.as_ref().map(duration)
}

/// Panic routing is off unless asked for.
pub(super) fn common_lb(outlier: Option<&OutlierDetection>) -> Value {
    match outlier.and_then(|o| o.min_health_percent).filter(|percent| *percent > 0) {
        Some(percent) => json!({"healthyPanicThreshold": {"value": percent}}),
        None => json!({"healthyPanicThreshold": {}}),
    }
}

/// Keep-alive and connection lifetime.
pub(super) fn connections(pool: Option<&ConnectionPool>, out: &mut Value) {
    let Some(keepalive) = pool.and_then(|p| p.tcp.as_ref()).and_then(|tcp| tcp.tcp_keepalive.as_ref()) else { return };
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
pub(super) fn http_options(http: Option<&HttpSettings>) -> Option<Value> {
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

/// The load balancer.
pub(super) fn balance(settings: Option<&LoadBalancerSettings>, original_destination: bool, out: &mut Value) {
    out["lbPolicy"] = json!(if original_destination { "CLUSTER_PROVIDED" } else { "LEAST_REQUEST" });
    if original_destination {
        return;
    }
    let Some(settings) = settings else { return };
    match settings.simple.as_deref() {
        Some("ROUND_ROBIN") => out["lbPolicy"] = json!("ROUND_ROBIN"),
        Some("RANDOM") => out["lbPolicy"] = json!("RANDOM"),
        _ => {}
    }
    let Some(hash) = &settings.consistent_hash else { return };
    if let Some(maglev) = &hash.maglev {
        out["lbPolicy"] = json!("MAGLEV");
        if let Some(size) = maglev.table_size {
            out["maglevLbConfig"] = json!({"tableSize": size});
        }
        return;
    }
    out["lbPolicy"] = json!("RING_HASH");
    let asked = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
    out["ringHashLbConfig"] = json!({"minimumRingSize": asked.filter(|size| *size > 0).unwrap_or(1024)});
}

/// The hash policy that goes with consistent hashing.
pub(super) fn hash(settings: &LoadBalancerSettings) -> Option<Value> {
    let by = settings.consistent_hash.as_ref()?;
    if let Some(name) = &by.http_header_name {
        return Some(json!({"header": {"headerName": name}}));
    }
    if let Some(cookie) = &by.http_cookie {
        let mut out = json!({"name": cookie.name});
        if let Some(ttl) = &cookie.ttl {
            out["ttl"] = duration(ttl);
        }
        if !cookie.path.is_empty() {
            out["path"] = json!(cookie.path);
        }
        return Some(json!({"cookie": out}));
    }
    if by.use_source_ip == Some(true) {
        return Some(json!({"connectionProperties": {"sourceIp": true}}));
    }
    by.http_query_parameter_name.as_ref().map(|name| json!({"queryParameter": {"name": name}}))
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

/// TLS that the user configures: SIMPLE, or MUTUAL with files.
pub(super) fn tls(settings: &ClientTlsSettings, host: &str, h2: bool) -> Value {
    let text = |value: &'_ String| !value.is_empty();
    let client = Some((settings.client_certificate.as_str(), settings.private_key.as_str()))
        .filter(|_| text(&settings.client_certificate) && settings.mode.as_deref() == Some("MUTUAL"));
    FileTls {
        client,
        roots: Some(settings.ca_certificates.as_str()).filter(|path| !path.is_empty()),
        sans: &settings.subject_alt_names,
        sni: if settings.sni.is_empty() { host } else { &settings.sni },
        insecure: settings.insecure_skip_verify == Some(true),
        alpn: if h2 { &["h2"] } else { &[] },
    }
    .upstream()
}
