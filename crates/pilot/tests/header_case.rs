//! `proxyHeaders.preserveHttp1HeaderCase`: the whole way from the node to the resources.

use envoy_api::envoy::config::core::v3::Node;
use mesh::Snapshot;
use pilot::Proxy;
use serde_json::{Value, json};

/// Every HTTP/1 option in the resources of a sidecar with this injected configuration.
fn options(proxy_config: &Value) -> (usize, usize) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "a"}, "ports": [
            {"name": "http", "port": 80}, {"name": "grpc", "port": 81}, {"name": "any", "port": 82}
        ]}
    });
    let documents = istio_api::yaml::parse(&service.to_string()).expect("YAML");
    let resources: Vec<_> =
        documents.iter().filter_map(|d| istio_api::object::read(d, "n").unwrap_or_else(|e| panic!("{e:?}"))).collect();
    let snapshot = Snapshot::build(&resources);
    let node = Node {
        id: "sidecar~10.1.1.1~p.n~n.svc.cluster.local".to_owned(),
        metadata: envoy_api::message_from_json(json!({"NAMESPACE": "n", "PROXY_CONFIG": proxy_config})).ok(),
        ..Node::default()
    };
    let proxy = Proxy::from_node(&node).expect("a node");
    let count = |resources: Vec<pilot::Resource>| {
        let name = b"PreserveCaseFormatterConfig";
        let found = |r: &pilot::Resource| r.body.value.windows(name.len()).filter(|w| w == name).count();
        resources.iter().map(found).sum()
    };
    (count(pilot::listeners(&snapshot, &proxy)), count(pilot::clusters(&snapshot, &proxy)))
}

#[test]
fn names_keep_their_case_on_both_sides_when_asked_for() {
    assert_eq!(options(&json!({})), (0, 0));
    assert_eq!(options(&json!({"proxyHeaders": {"preserveHttp1HeaderCase": false}})), (0, 0));
    let (listeners, clusters) = options(&json!({"proxyHeaders": {"preserveHttp1HeaderCase": true}}));
    assert!(listeners > 0, "towards clients");
    // The three fixed clusters, and http and any of the service; grpc is HTTP/2.
    assert_eq!(clusters, 5, "towards servers");
}
