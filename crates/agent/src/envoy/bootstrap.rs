//! What Envoy is started with: who it is, and how it reaches the agent, and through that all the rest.

use std::path::Path;

use serde_json::{Value, json};

use super::Sockets;
use crate::options::AgentOptions;
use crate::{LOCAL_CLUSTER, sidecar};

/// The bootstrap configuration.
pub(super) fn json(options: &AgentOptions, sockets: &Sockets) -> Value {
    let ads = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    let mut out = json!({
        "node": {
            "id": options.node_id(),
            "cluster": options.service_cluster(),
            "metadata": options.metadata()
        },
        "admin": {"address": address("127.0.0.1", 15000)},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]
            },
            "cds_config": ads,
            "lds_config": ads
        },
        "static_resources": {
            "clusters": [
                by_tcp("prometheus_stats", 15000),
                by_tcp("agent", 15020),
                by_pipe("xds-grpc", &sockets.xds),
                by_pipe("sds-grpc", &sockets.sds)
            ],
            "listeners": [
                page("prometheus", 15090, "/stats/prometheus", "prometheus_stats"),
                page("agent", 15021, "/healthz/ready", "agent")
            ]
        }
    });
    if let Some([region, zone, sub_zone]) = options.locality() {
        out["node"]["locality"] = json!({"region": region, "zone": zone, "sub_zone": sub_zone});
    }
    if options.self_discovery() {
        if let Some(Value::Array(clusters)) = out.pointer_mut("/static_resources/clusters") {
            clusters.push(sidecar::local_cluster());
        }
        out["cluster_manager"] = json!({"local_cluster_name": LOCAL_CLUSTER});
    }
    out
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn cluster(name: &str, at: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}]
        }
    })
}

fn by_tcp(name: &str, port: u16) -> Value {
    cluster(name, &address("127.0.0.1", port))
}

/// gRPC to the agent; one stream must not be cut by limits made for requests.
fn by_pipe(name: &str, path: &Path) -> Value {
    let mut cluster = cluster(name, &json!({"pipe": {"path": path}}));
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}
        }
    });
    cluster["circuit_breakers"] = json!({"thresholds": [
        {"priority": "DEFAULT", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000},
        {"priority": "HIGH", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    ]});
    cluster
}

/// A port that shows one page of this pod.
fn page(name: &str, port: u16, path: &str, cluster: &str) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        // Probes and scrapers of old speak HTTP/1.0.
        "http_protocol_options": {"accept_http_10": true},
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{
            "name": "backend",
            "domains": ["*"],
            "routes": [{"match": {"prefix": path}, "route": {"cluster": cluster}}]
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        }]
    });
    json!({
        "name": name,
        "address": address("0.0.0.0", port),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager
        }]}]
    })
}

#[cfg(test)]
mod tests {
    use envoy_api::envoy::config::bootstrap::v3::Bootstrap;

    use super::*;

    #[test]
    fn envoy_knows_every_field_and_every_cluster_that_is_named() {
        let options = AgentOptions::sample();
        let sockets = Sockets::of(Path::new("/etc/istio/proxy"));
        let text = json(&options, &sockets);
        let bootstrap: Bootstrap = envoy_api::message_from_json(text.clone()).expect("a bootstrap");
        let node = bootstrap.node.expect("a node");
        assert_eq!(node.id, "sidecar~10.0.0.1~pay-1.production~production.svc.cluster.local");
        assert!(node.metadata.is_some_and(|m| m.fields.contains_key("LABELS")));
        let known = bootstrap.static_resources.expect("static resources").clusters;
        let known: Vec<_> = known.iter().map(|c| c.name.as_str()).collect();
        for named in ["prometheus_stats", "agent", "xds-grpc", "sds-grpc"] {
            assert!(known.contains(&named), "{named}");
        }
        assert!(text.to_string().contains("/etc/istio/proxy/XDS"));
        assert!(!text.to_string().contains(LOCAL_CLUSTER));
    }

    #[test]
    fn envoy_knows_its_replicas_and_where_it_is_when_it_is_told_to() {
        let mut options = AgentOptions::sample();
        options.node_metadata.insert("ENABLE_SELF_DISCOVERY".to_owned(), "true".to_owned());
        options.labels.insert("topology.istio.io/locality".to_owned(), "r1.z1.s1".to_owned());
        let text = json(&options, &Sockets::of(Path::new("/etc/istio/proxy")));
        let bootstrap: Bootstrap = envoy_api::message_from_json(text).expect("a bootstrap");
        let at = bootstrap.node.and_then(|node| node.locality).expect("a place");
        assert_eq!((at.region.as_str(), at.zone.as_str(), at.sub_zone.as_str()), ("r1", "z1", "s1"));
        assert_eq!(bootstrap.cluster_manager.expect("a manager").local_cluster_name, "local_cluster");
        let known = bootstrap.static_resources.expect("static resources").clusters;
        let own = known.iter().find(|c| c.name == "local_cluster").expect("the cluster");
        let eds = own.eds_cluster_config.as_ref().expect("its endpoints are asked for");
        assert_eq!(eds.service_name, "local_cluster");
    }
}
