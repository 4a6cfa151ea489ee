//! What is generated for the recorded mesh, against what a stock istiod sent for it.

mod compare;
mod features;
mod world;

use compare::{Ignored, recorded, report};
use pilot::Resource;

const METRICS: &[Ignored] = &[
    // Ours always measures; the recorded istiod had no metrics provider.
    Ignored::Filter("istio.stats"),
];

fn json(resources: &[Resource]) -> Vec<serde_json::Value> {
    resources.iter().map(|resource| envoy_api::any_to_json(&resource.body)).collect()
}

#[test]
fn clusters_are_those_of_istio() {
    let Some(expected) = recorded("order/clusters.json") else { return };
    let got = pilot::clusters(&world::snapshot(world::Mode::Strict), &world::proxy("order-service-v1-0"));
    report("clusters", "name", expected, json(&got), METRICS);
}

#[test]
fn routes_are_those_of_istio() {
    let Some(expected) = recorded("order/routes.json") else { return };
    let names = ["7000", "8080", "undeclared.production.svc.cluster.local:9000"].map(str::to_owned);
    let got = pilot::routes(&world::snapshot(world::Mode::Strict), &world::proxy("order-service-v1-0"), &names);
    report("routes", "name", expected, json(&got), METRICS);
}

#[test]
fn endpoints_are_those_of_istio() {
    let Some(expected) = recorded("order/endpoints.json") else { return };
    let names: Vec<String> =
        expected.iter().filter_map(|json| json["cluster_name"].as_str().map(str::to_owned)).collect();
    let got = pilot::endpoints(&world::snapshot(world::Mode::Strict), &world::proxy("order-service-v1-0"), &names);
    report("endpoints", "cluster_name", expected, json(&got), METRICS);
}

#[test]
fn the_name_table_is_that_of_istio() {
    let Some(expected) = recorded("order/nametable.json") else { return };
    let got = pilot::name_table(&world::snapshot(world::Mode::Strict), &world::proxy("order-service-v1-0"));
    report("name table", "name", expected, json(&got), METRICS);
}

fn listeners(folder: &str, pod: &str, mode: world::Mode) {
    let Some(expected) = recorded(&format!("{folder}/listeners.json")) else { return };
    let got = pilot::listeners(&world::snapshot(mode), &world::proxy(pod));
    report(folder, "name", expected, json(&got), METRICS);
}

#[test]
fn listeners_of_a_client_are_those_of_istio() {
    listeners("order", "order-service-v1-0", world::Mode::Strict);
}

#[test]
fn listeners_of_a_strict_server_are_those_of_istio() {
    listeners("payment", "payment-api-v1-0", world::Mode::Strict);
}

#[test]
fn listeners_of_a_permissive_server_are_those_of_istio() {
    listeners("payment-permissive", "payment-api-v1-0", world::Mode::Permissive);
}

#[test]
fn listeners_of_a_tcp_server_are_those_of_istio() {
    listeners("database", "database-service-v1-0", world::Mode::Strict);
}

#[test]
fn equal_input_gives_equal_versions() {
    let versions = || -> Vec<String> {
        let (snapshot, proxy) = (world::snapshot(world::Mode::Strict), world::proxy("order-service-v1-0"));
        let all = [pilot::clusters(&snapshot, &proxy), pilot::listeners(&snapshot, &proxy)].concat();
        all.into_iter().map(|resource| resource.version).collect()
    };
    let first = versions();
    assert!(first.len() > 10, "{first:?}");
    assert_eq!(first, versions());
}

#[test]
fn a_stock_envoy_is_sent_only_what_it_has() {
    let snapshot = world::snapshot(world::Mode::Strict);
    let proxy = world::stock_envoy("order-service-v1-0");
    let all = [pilot::clusters(&snapshot, &proxy), pilot::listeners(&snapshot, &proxy)].concat();
    let text = serde_json::to_string(&json(&all)).expect("JSON prints");
    for absent in ["\"istio.alpn\"", "\"istio.stats\"", "\"istio.metadata_exchange\""] {
        assert!(!text.contains(absent), "{absent} was sent");
    }
    let payment = "outbound|8080||payment-api.production.svc.cluster.local";
    let cluster = all.iter().find(|resource| resource.name == payment).expect("the service has a cluster");
    let socket = &envoy_api::any_to_json(&cluster.body)["transport_socket_matches"][0]["transport_socket"];
    let alpn = &socket["typed_config"]["common_tls_context"]["alpn_protocols"];
    assert_eq!(alpn, &serde_json::json!(["istio-http/1.1", "istio", "http/1.1"]));
}
