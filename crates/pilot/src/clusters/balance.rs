//! Load balancing of a DestinationRule, as fields of a cluster and of its routes.

use istio_api::networking::{LoadBalancerSettings, OutlierDetection, TrafficPolicy};
use serde_json::{Value, json};

use crate::duration;
use crate::locality::Preference;

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
    let Some(hash) = &settings.consistent_hash else {
        warm_up(settings, out);
        return;
    };
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

/// Slow start; defaults are Istio's: 10 % at first, growing evenly.
fn warm_up(settings: &LoadBalancerSettings, out: &mut Value) {
    let warmup = settings.warmup.as_ref();
    let Some(window) = warmup.and_then(|w| w.duration).or(settings.warmup_duration_secs) else { return };
    let config = json!({"slowStartConfig": {
        "aggression": {
            "defaultValue": warmup.and_then(|w| w.aggression).unwrap_or(1.0),
            "runtimeKey": "upstream.slow_start.aggression"
        },
        "minWeightPercent": {"value": warmup.and_then(|w| w.minimum_percent).unwrap_or(10.0)},
        "slowStartWindow": duration(&window)
    }});
    match out["lbPolicy"].as_str() {
        Some("ROUND_ROBIN") => out["roundRobinLbConfig"] = config,
        Some("LEAST_REQUEST") => out["leastRequestLbConfig"] = config,
        _ => {}
    }
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
        if !cookie.attributes.is_empty() {
            let pairs = cookie.attributes.iter().map(|a| json!({"name": a.name, "value": a.value}));
            out["attributes"] = pairs.collect();
        }
        return Some(json!({"cookie": out}));
    }
    if by.use_source_ip == Some(true) {
        return Some(json!({"connectionProperties": {"sourceIp": true}}));
    }
    by.http_query_parameter_name.as_ref().map(|name| json!({"queryParameter": {"name": name}}))
}

/// Panic routing is off unless asked for; places and zones count where somebody says so.
pub(super) fn common_lb(traffic: &TrafficPolicy, preference: &Preference<'_>) -> Value {
    let percent = |o: &OutlierDetection| o.min_health_percent.filter(|percent| *percent > 0);
    let mut out = match traffic.outlier_detection.as_ref().and_then(percent) {
        Some(percent) => json!({"healthyPanicThreshold": {"value": percent}}),
        None => json!({"healthyPanicThreshold": {}}),
    };
    if let Some((field, value)) = preference.field() {
        out[field] = value;
    }
    out
}
