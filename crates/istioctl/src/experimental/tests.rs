//! Commands over a mesh of our own making: pods and pages in memory.

use serde_json::{Value, json};

use super::describe::Objects;
use super::{authz, check_inject, wait};
use crate::access::Pod;

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn pod() -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: "pay-1".to_owned(),
        labels: labels(&[("app", "pay"), ("version", "v1")]),
        containers: vec!["app".to_owned(), "istio-proxy".to_owned()],
        ..Pod::default()
    }
}

fn object(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn mesh() -> Objects {
    let selector = json!({"app": "pay"});
    Objects(vec![
        object(
            "Service",
            "pay",
            "shop",
            json!({"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        ),
        object(
            "DestinationRule",
            "pay",
            "shop",
            json!({"host": "pay", "subsets": [
                {"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}},
            ]}),
        ),
        object(
            "VirtualService",
            "pay",
            "shop",
            json!({"hosts": ["pay"], "http": [{"timeout": "3s", "route": [
                {"destination": {"host": "pay", "subset": "v1"}, "weight": 90},
            ]}]}),
        ),
        object("PeerAuthentication", "default", "istio-system", json!({"mtls": {"mode": "STRICT"}})),
        object("AuthorizationPolicy", "no", "shop", json!({"action": "DENY", "selector": {"matchLabels": selector}})),
    ])
}

#[test]
fn a_pod_is_described_with_all_that_is_for_it() {
    let wanted = "Pod: pay-1.shop\n\
        --------------------\n\
        Service: pay.shop\n   Port: http 80/HTTP targets pod port 8080\n\
        DestinationRule: pay.shop for \"pay\"\n   Matching subsets: v1\n      (Non-matching subsets v2)\n   No Traffic Policy\n\
        VirtualService: pay.shop\n   Weight 90: Route to host \"pay\" subset v1\n   Timeout: 3s\n\
        --------------------\n\
        Effective PeerAuthentication:\n   Workload mTLS mode: STRICT\n\
        Applied PeerAuthentication:\n   default.istio-system\n\
        Applied AuthorizationPolicy:\n   no.shop (DENY)\n";
    assert_eq!(mesh().pod(&pod(), false), wanted);
    let alone = Pod { labels: labels(&[]), containers: Vec::new(), ..pod() };
    let said = mesh().pod(&alone, false);
    assert!(said.contains("not part of mesh") && said.contains("No Kubernetes Services select"), "{said}");
}

#[test]
fn machines_are_told_the_same() {
    let value = mesh().pod_value(&pod());
    let service = &value["services"][0];
    assert_eq!((&value["mtlsMode"], &value["inMesh"]), (&json!("STRICT"), &json!(true)), "{value:#}");
    assert_eq!(value["authorizationPolicies"], json!([{"name": "no.shop", "action": "DENY"}]));
    assert_eq!(service["ports"][0]["protocol"], "HTTP");
    assert_eq!(service["destinationRules"][0]["matchingSubsets"], json!(["v1"]));
    assert_eq!(service["destinationRules"][0]["otherSubsets"], json!(["v2"]));
    assert_eq!(service["virtualServices"][0]["http"][0]["timeout"], "3s");
    let named = mesh().named_value("pay", "shop", &[pod()]).expect("a service");
    assert_eq!(
        (&named["pods"], &named["peerAuthentications"]),
        (&json!(["pay-1.shop"]), &json!(["default.istio-system"]))
    );
    assert_eq!(mesh().named_value("pay", "shop", &[]).expect("a service")["pods"], json!([]));
}

#[test]
fn a_service_is_found_by_name_and_namespace() {
    assert!(mesh().named("pay.shop", "default", &[pod()]).is_ok_and(|t| t.contains("Workload mTLS mode: STRICT")));
    assert!(mesh().named("pay", "shop", &[]).is_ok_and(|t| t.contains("has no pods")));
    assert!(mesh().named("nobody", "shop", &[]).is_err_and(|e| e.contains("nobody")));
}

#[test]
fn policies_are_counted_once_and_denials_come_first() {
    let filter = |action: &str, rules: &[&str]| {
        let policies: serde_json::Map<String, Value> = rules.iter().map(|r| ((*r).to_owned(), json!({}))).collect();
        json!({"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": action, "policies": policies},
        }})
    };
    let deny = filter("DENY", &["ns[shop]-policy[no]-rule[0]", "ns[shop]-policy[no]-rule[1]"]);
    let allow = filter("", &["ns[shop]-policy[yes]-rule[0]"]);
    let chain = json!({"filters": [deny, allow]});
    let dump = json!({"configs": [{"@type": "x.ListenersConfigDump", "dynamic_listeners": [
        {"active_state": {"listener": {"name": "virtualInbound", "filter_chains": [chain.clone(), chain]}}},
    ]}]});
    let wanted = "ACTION     AuthorizationPolicy     RULES\nDENY       no.shop                 2\nALLOW      yes.shop                1\n";
    assert_eq!(authz::table(&authz::policies(&dump)), wanted);
}

#[test]
fn injection_follows_the_labels_in_istios_order() {
    let decide =
        |namespace: &[(&str, &str)], pod: &[(&str, &str)]| check_inject::decide(&labels(namespace), &labels(pod));
    let (on, off) = (("istio-injection", "enabled"), ("istio-injection", "disabled"));
    assert!(decide(&[on], &[]).0);
    assert!(!decide(&[on], &[("sidecar.istio.io/inject", "false")]).0);
    assert!(!decide(&[off], &[("sidecar.istio.io/inject", "true")]).0);
    assert!(decide(&[], &[("sidecar.istio.io/inject", "true")]).0);
    assert!(decide(&[("istio.io/rev", "canary")], &[]).1.contains("istio.io/rev=canary"));
    assert!(!decide(&[], &[]).0);
}

#[test]
fn a_wait_ends_when_nobody_is_behind() {
    let rows =
        |word: &str| json!([{"proxy": "a.b", "resources": {"x/envoy.config.cluster.v3.Cluster": {"status": word}}}]);
    assert_eq!(wait::behind(&rows("SYNCED")), None);
    assert_eq!(wait::behind(&rows("STALE")).as_deref(), Some("a.b is STALE (Cluster)"));
}
