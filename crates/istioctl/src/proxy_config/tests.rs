//! Tables from Istio's own dumps, and from dumps of our own making.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

fn folder() -> PathBuf {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    shared.join("conformance/proxy-config")
}

/// A file of the folder; `None`, saying so, where the folder is not.
fn recorded(name: &str) -> Option<String> {
    let path = folder().join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("skipped: {} is not here", path.display());
    }
    text
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("a recorded dump is JSON")
}

/// Lines as they are compared: Istio's own test leaves the ends of lines out.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|l| l.trim_end().to_owned()).filter(|l| !l.is_empty()).collect()
}

#[test]
fn secrets_are_istios_table() {
    for case in ["istio", "spire"] {
        let Some(dump) = recorded(&format!("secret/{case}/config_dump.json")) else { return };
        let wanted = recorded(&format!("secret/{case}/output")).expect("a table beside the dump");
        let table = table_of_secrets(&json_of(&dump));
        assert_eq!(lines(&table), lines(&wanted), "{case}");
    }
}

fn table_of_secrets(dump: &Value) -> String {
    secrets::table(&secrets::rows(dump), false)
}

#[test]
fn endpoints_that_were_sent_are_istios_table() {
    for (case, port) in [("emptyfilter", 0), ("portfilter", 8080)] {
        let Some(all) = recorded(&format!("endpoint/{case}_output.json")) else { return };
        let wanted = recorded(&format!("endpoint/{case}_output.txt")).expect("a table beside the dump");
        let all: Vec<Value> = json_of(&all).as_array().expect("a list").clone();
        let configs: Vec<Value> = all.iter().map(|a| json!({"endpointConfig": a})).collect();
        let dump = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamicEndpointConfigs": configs,
        }]});
        let filter = endpoints::Filter { port, ..endpoints::Filter::default() };
        let assignments = endpoints::assignments(&dump, &filter);
        assert_eq!(lines(&endpoints::eds_table(&assignments, &filter)), lines(&wanted), "{case}");
        let values: Vec<Value> = assignments.iter().map(dump::camel).collect();
        assert_eq!(values, all, "{case}");
    }
}

#[test]
fn extensions_are_istios_table() {
    let Some(yaml) = recorded("ecds/output.yaml") else { return };
    let wanted = recorded("ecds/output.txt").expect("a table beside the dump");
    let value = istio_api::yaml::parse(&yaml).expect("YAML").remove(0).value;
    let filters = list(&value, "ecds_filters").to_vec();
    assert_eq!(lines(&ecds::table(&filters)), lines(&wanted));
    assert_eq!(ecds::value(&filters), value);
}

#[test]
fn versions_are_istios_summary() {
    let Some(dump) = recorded("bootstrapdump.json") else { return };
    let wanted = recorded("versionsummary.txt").expect("a summary beside the dump");
    assert_eq!(lines(&ecds::versions(&ecds::bootstrap(&json_of(&dump)))), lines(&wanted));
}

/// A dump as the recorded tables of routes were made from: names and matches are in the tables.
fn routes_dump(configs: Value) -> Value {
    json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": configs}]})
}

#[test]
fn routes_are_istios_table() {
    let backend = json!({"route_config": {"virtual_hosts": [{"name": "backend", "domains": ["*"], "routes": [
        {"match": {"prefix": "/stats/prometheus"}, "route": {"cluster": "prometheus_stats"}},
        {"match": {"prefix": "/healthz/ready"}, "route": {"cluster": "agent"}},
    ]}]}});
    let metadata = json!({"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1alpha3/namespaces/default/virtual-service/httpbin"}}});
    let gateway = json!({"route_config": {"name": "http.8080", "virtual_hosts": [{
        "name": "httpbin.example.com:80", "domains": ["httpbin.example.com"],
        "routes": [{"match": {"prefix": "/get"}, "route": {"cluster": "c"}, "metadata": metadata}],
    }]}});
    let table = routes::table(&routes_dump(json!([gateway, backend])), "", true, false);
    let Some(wanted) = recorded("routes/istio-gateway-http-route-prefix/output.txt") else { return };
    assert_eq!(lines(&table), lines(&wanted));
}

#[test]
fn domains_are_the_shortest_ones() {
    let domains = ["a.ns.svc.cluster.local", "a.ns.svc.cluster.local.", "a.ns", "a.ns.svc", "10.0.0.1", "a.ns:80"];
    let config =
        json!({"route_config": {"name": "80", "virtual_hosts": [{"name": "v", "domains": domains, "routes": []}]}});
    let table = routes::table(&routes_dump(json!([config])), "", true, false);
    assert!(table.contains("a.ns.svc.cluster.local., a.ns + 1 more...     /*        404"), "{table}");
}

#[test]
fn listeners_say_what_they_match_and_where_it_goes() {
    let http = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {"rds": {"route_config_name": "80"}}});
    let tcp = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {"cluster": "PassthroughCluster"}});
    let dump = json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": [
        {"active_state": {"listener": {
            "name": "0.0.0.0_80", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}},
            "filter_chains": [{
                "filter_chain_match": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]},
                "filters": [http],
            }],
            "default_filter_chain": {"filters": [tcp]},
        }}},
    ]}]});
    let table = listeners::table(&dump, &listeners::Filter::default(), true, false);
    let wanted = "ADDRESSES PORT MATCH                                DESTINATION\n\
                  0.0.0.0   80   Trans: raw_buffer; App: http/1.1,h2c Route: 80\n\
                  0.0.0.0   80   ALL                                  PassthroughCluster\n";
    assert_eq!(table, wanted);
    let short = listeners::table(&dump, &listeners::Filter::default(), false, false);
    assert!(short.contains("0.0.0.0   80   HTTP+TCP"), "{short}");
    let none = listeners::Filter { port: 81, ..listeners::Filter::default() };
    assert_eq!(listeners::value(&dump, &none), json!([]));
}

#[test]
fn a_listener_at_a_unix_socket_is_shown_by_its_path() {
    let tcp = json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {"cluster": "outbound|1||a"}});
    let dump = json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": [{"active_state": {"listener": {
        "name": "unix:///run/a_0", "address": {"pipe": {"path": "/run/a"}}, "filter_chains": [{"filters": [tcp]}]
    }}}]}]});
    let table = listeners::table(&dump, &listeners::Filter::default(), false, false);
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("unix:///run/a 0 ")), "{table}");
    let filter = listeners::Filter { address: "unix:///run/a".to_owned(), ..listeners::Filter::default() };
    assert_eq!(listeners::value(&dump, &filter).as_array().map(Vec::len), Some(1));
}

#[test]
fn clusters_of_a_stock_istiod_have_their_columns() {
    let path = folder().join("../../contract/xds/order/clusters.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not here", path.display());
        return;
    };
    let all = json_of(&text);
    let all = all.as_array().cloned().or_else(|| all["resources"].as_array().cloned()).expect("a list of clusters");
    let wrapped: Vec<Value> = all.iter().map(|c| json!({"cluster": c})).collect();
    let dump = json!({"configs": [{"@type": "x.ClustersConfigDump", "dynamic_active_clusters": wrapped}]});
    let subset = clusters::Filter { subset: "v1".to_owned(), ..clusters::Filter::default() };
    let table = clusters::table(&dump, &subset, false);
    assert!(table.lines().count() >= 2, "{table}");
    assert!(table.contains("payment-api.production.svc.cluster.local"), "{table}");
    let rule = table.lines().nth(1).unwrap_or_default();
    assert!(rule.ends_with("payment-api.production"), "{rule}");
}
