//! The library is what is right: whatever is written here, it would have written too.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::any_to_json;
use crate::json::{by_library, pool};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.Route";

/// Whether it is written here; what is, is what the library writes.
fn is_written(json: &Value) -> bool {
    let library = by_library(json.clone());
    let Some(ours) = any(&pool().unwrap(), json) else { return false };
    let library = library.unwrap_or_else(|why| panic!("the library refuses what is written here: {why}\n{json:#}"));
    assert_eq!(ours.type_url, library.type_url);
    // Maps have no order in bytes.
    assert_eq!(any_to_json(&ours), any_to_json(&library));
    assert_eq!(ours.value.len(), library.value.len(), "nothing is written that may be left out: {json:#}");
    true
}

fn of(kind: &str, mut json: Value) -> Value {
    json["@type"] = kind.into();
    json
}

#[test]
fn every_kind_of_value_is_what_the_library_writes() {
    for fields in [
        json!({}),
        json!({"name": "", "type": "STATIC", "lbPolicy": 0}),
        json!({"name": "umlaut: \u{e4}", "type": "EDS", "lb_policy": "RANDOM", "connectTimeout": "1.000000001s"}),
        json!({"connectTimeout": "0s", "dnsJitter": "0.100s", "respectDnsTtl": false}),
        json!({"perConnectionBufferLimitBytes": 32768, "dnsLookupFamily": "V4_ONLY", "cleanupInterval": "9223372035s"}),
        json!({"outlierDetection": {"consecutive5xx": 0, "maxEjectionPercent": 100}, "respectDnsTtl": true}),
        json!({"circuitBreakers": {"thresholds": [{"maxConnections": 4294967295_u32, "trackRemaining": true}, {}]}}),
        json!({"metadata": {"filterMetadata": {"istio": {
            "config": "/apis", "n": 1, "half": 0.5, "yes": true, "no": null, "services": [{"host": "a"}, [], {}, "x", -3]}}}}),
        json!({"ringHashLbConfig": {"minimumRingSize": "1024", "maximumRingSize": 8388608}}),
        json!({"leastRequestLbConfig": {"slowStartConfig": {"aggression": {"defaultValue": 1.5, "runtimeKey": "a"},
            "minWeightPercent": {"value": 10.0}}}}),
        json!({"commonLbConfig": {"healthyPanicThreshold": {}, "zoneAwareLbConfig": {"minClusterSize": 0}}}),
        json!({"upstreamConnectionOptions": {"tcpKeepalive": {"keepaliveProbes": 3}}}),
        json!({"typedExtensionProtocolOptions": {"a.B": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicitHttpConfig": {"httpProtocolOptions": {}}}}}),
        json!({"transportSocket": {"name": "raw", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}),
    ] {
        assert!(is_written(&of(CLUSTER, fields.clone())), "{fields}");
    }
    let codes = json!({"match": {"prefix": "/"}, "route": {"cluster": "c", "retryPolicy": {
        "retriableStatusCodes": [503, 0, 70000], "numRetries": 2, "hostSelectionRetryMaxAttempts": "5"}}});
    assert!(is_written(&of(ROUTE, codes)), "packed numbers");
    let long = json!({"match": {"prefix": format!("/{}", "x".repeat(20_000))}, "name": "y".repeat(127)});
    assert!(is_written(&of(ROUTE, long)), "lengths of several bytes");
}

#[test]
fn what_is_wrong_or_rare_is_the_librarys() {
    for fields in [
        json!({"nobody": 1}),
        json!({"name": 1}),
        json!({"name": null}),
        json!({"connectTimeout": "1"}),
        json!({"connectTimeout": "-1s"}),
        json!({"connectTimeout": "1.0000000001s"}),
        json!({"connectTimeout": 1}),
        json!({"type": "NO_TYPE"}),
        json!({"type": "EDS", "clusterType": {"name": "a"}}),
        json!({"lbPolicy": 1, "lb_policy": 2}),
        json!({"perConnectionBufferLimitBytes": 4294967296_u64}),
        json!({"perConnectionBufferLimitBytes": -1}),
        json!({"circuitBreakers": []}),
        json!({"typedExtensionProtocolOptions": {"a": {"@type": "type.googleapis.com/no.Such"}}}),
        json!({"typedExtensionProtocolOptions": {"a": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}}),
        json!({"transportSocket": {"typedConfig": {}}}),
    ] {
        assert!(!is_written(&of(CLUSTER, fields.clone())), "{fields}");
    }
    assert!(!is_written(&json!({"name": "no type"})));
    assert!(!is_written(&json!([])));
    let bytes = json!({"address": {"pipe": {"path": "a"}}, "listenerFilters": [{"name": "a", "typedConfig": {
        "@type": "type.googleapis.com/google.protobuf.BytesValue", "value": "AA=="}}]});
    assert!(!is_written(&of(LISTENER, bytes)));
}

#[test]
fn nearly_all_that_a_stock_istiod_sends_is_written_here() {
    let shared = std::env::var("MELTEMI_SHARED")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let Ok(folders) = std::fs::read_dir(shared.join("contract/xds")) else {
        eprintln!("skipped: ../shared/contract/xds is not here");
        return;
    };
    let folders = folders.flatten().filter(|folder| folder.path().is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let (mut written, mut left) = (0, 0);
    for file in files.filter(|file| file.path().extension().is_some_and(|end| end == "json")) {
        let json: Value = serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
        let all = if let Value::Array(items) = json { items } else { vec![json] };
        for resource in &all {
            if is_written(resource) { written += 1 } else { left += 1 }
        }
    }
    assert!(written > 50 && left * 10 < written, "{written} written here, {left} left");
}
