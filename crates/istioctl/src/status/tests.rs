//! Istio's recorded tables, from the statuses that they show; and comparisons.

use std::path::{Path, PathBuf};

use super::*;

fn recorded(name: &str) -> Option<String> {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = shared.join("conformance/proxy-config").join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("skipped: {} is not here", path.display());
    }
    text
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|l| l.trim_end().to_owned()).filter(|l| !l.is_empty()).collect()
}

/// An answer of an istiod about one proxy.
fn answer(proxy: &str, cluster: &str, istiod: &str, version: &str, subscribed: bool) -> Answer {
    let words = if subscribed { ["STALE", "SYNCED", "SYNCED", "NOT_SENT", "SYNCED"] } else { ["UNKNOWN"; 5] };
    let configs: Vec<Value> = TYPES
        .iter()
        .zip(words)
        .map(|((_, kind), word)| json!({"typeUrl": format!("type.googleapis.com/{kind}"), "configStatus": word}))
        .collect();
    json!({
        "controlPlane": {"identifier": json!({"ID": istiod}).to_string()},
        "resources": [{
            "node": {"id": proxy, "metadata": {"CLUSTER_ID": cluster, "ISTIO_VERSION": version}},
            "genericXdsConfigs": configs,
        }],
    })
}

#[test]
fn tables_are_istios() {
    let answers = [
        answer("proxy3", "cluster3", "istiod3", "1.20", true),
        answer("proxy1", "cluster1", "istiod1", "1.20", true),
        answer("proxy2", "cluster2", "istiod2", "1.19", true),
        answer("proxy4", "cluster4", "istiod4", "1.20", false),
    ];
    let Some(wanted) = recorded("multiXdsStatusMultiPilot.txt") else { return };
    assert_eq!(lines(&table(&answers)), lines(&wanted));
    let wanted = recorded("multiXdsStatusMultiPilot_verbose.txt").expect("beside the other");
    let now = OffsetDateTime::UNIX_EPOCH;
    assert_eq!(lines(&verbose(&answers[1..2], now)), lines(&wanted));
}

#[test]
fn an_answer_for_machines_is_istios() {
    let Some(wanted) = recorded("multiXdsStatusSingleNamespace.yaml") else { return };
    let mut value = istio_api::yaml::parse(&wanted).expect("YAML").remove(0).value;
    let before = value.clone();
    only(&mut value, "foo");
    assert_eq!(value, before);
    only(&mut value, "bar");
    assert_eq!(value["resources"], json!([]));
    assert_eq!(lines(&table(&[before]))[1], "proxy1     cluster1     istiod1     1.20        5 (CDS,LDS,EDS,RDS,ECDS)");
}

/// What a stock istiod answers to `istio.io/debug/syncz`, as messages on the wire, gives the table that Istio's own command
/// printed of it.
#[test]
fn a_stock_istiods_answer_is_read() {
    let Some(sample) = recorded("../../contract/cli/sample-proxy-status-and-config.txt") else { return };
    let json = sample.split_once("== ps json\n").expect("the answer").1;
    // The recording breaks off behind the resources.
    let end = json.find("\"typeUrl\": \"istio.io/debug/syncz\"").expect("its type");
    let json = format!("{} \"typeUrl\": \"{SYNCZ}\"}}", &json[..end]);
    let value: Value = serde_json::from_str(&json).expect("JSON");
    let resources = list(&value, "resources").iter().map(|r| envoy_api::any_from_json(r.clone()).expect("a message"));
    let response = DiscoveryResponse {
        resources: resources.collect(),
        type_url: SYNCZ.to_owned(),
        control_plane: Some(envoy_api::envoy::config::core::v3::ControlPlane {
            identifier: json!({"Component": "istiod", "ID": "istiod-0"}).to_string(),
        }),
        ..DiscoveryResponse::default()
    };
    assert_eq!(response.resources[0].type_url, "type.googleapis.com/envoy.service.status.v3.ClientConfig");
    let shown = sample.split_once("== ps\n").expect("the table").1.split("\n\n").next().expect("its end");
    assert_eq!(lines(&table(&[of_response(&response)])), lines(shown));
    // Our istiod's rows lead to the same messages.
    let ours = of_rows(&json!([{"proxy": "svc0-0.ns0", "cluster_id": "Kubernetes", "istio_version": "1.32.0"}]));
    assert_eq!(ours["resources"][0]["@type"], value["resources"][0]["@type"]);
    assert_eq!(ours["typeUrl"], value["typeUrl"]);
}

#[test]
fn ages_are_in_gos_words() {
    let client = |sent: &str| json!({"genericXdsConfigs": [{"typeUrl": "x/k", "lastUpdated": sent}]});
    let now = OffsetDateTime::parse("2026-01-01T02:03:04Z", &Rfc3339).expect("a time");
    assert_eq!(age(&client("2026-01-01T02:02:46Z"), "k", now).as_deref(), Some("18s"));
    assert_eq!(age(&client("2026-01-01T02:00:04Z"), "k", now).as_deref(), Some("3m0s"));
    assert_eq!(age(&client("2026-01-01T00:00:04Z"), "k", now).as_deref(), Some("2h3m0s"));
}

#[test]
fn rows_of_the_page_become_an_answer() {
    let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let rows = json!([{
        "proxy": "web-1.shop", "cluster_id": "Kubernetes", "istio_version": "0.1.0", "istiod": "istiod-a",
        "resources": {url: {"status": "NOT SENT", "sentTime": null}},
    }]);
    let answer = of_rows(&rows);
    assert_eq!(
        lines(&table(std::slice::from_ref(&answer)))[1],
        "web-1.shop     Kubernetes     istiod-a     0.1.0       1 (CDS)"
    );
    assert_eq!(versions(&answer), [("0.1.0".to_owned(), 1)]);
}

#[test]
fn differences_are_named_and_what_a_proxy_was_started_with_is_none() {
    let dump = |timeout: &str, more: &[&str]| {
        let mut all = vec![json!({"cluster": {"name": "outbound|80||a", "connect_timeout": timeout}})];
        all.extend(more.iter().map(|name| json!({"cluster": {"name": name}})));
        json!({"configs": [{"@type": "x.ClustersConfigDump", "dynamic_active_clusters": all}]})
    };
    let (text, same) = diff::compare(&dump("10s", &[]), &dump("10s", &["prometheus_stats"]));
    assert_eq!((text.as_str(), same), ("Clusters Match\nListeners Match\nRoutes Match\n", true));
    let (text, same) = diff::compare(&dump("10s", &[]), &dump("1s", &[]));
    assert!(
        !same
            && text
                .contains("@@ outbound|80||a @@\n-    \"connectTimeout\": \"10s\"\n+    \"connectTimeout\": \"1s\"\n"),
        "{text}"
    );
}
