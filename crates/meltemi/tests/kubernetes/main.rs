//! The mesh on a real cluster: real API server, kubelet, containers. Needs root and `scripts/kubernetes install`.

mod commands;
mod metrics;
mod node;

use node::{Node, PATIENCE};
use serde_json::Value;

/// What is installed: our image, as it was loaded into the node.
const SETTINGS: [&str; 8] = [
    "--set",
    "values.pilot.image=meltemi:test",
    "--set",
    "values.global.proxy.image=meltemi:test",
    "--set",
    "values.global.imagePullPolicy=Never",
    "--set",
    "values.pilot.replicaCount=2",
];

fn deployment(namespace: &str, name: &str, app: &str, version: &str, replicas: u32) -> String {
    format!(
        r#"---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {app}-sa, namespace: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {app}, version: {version}}}}}
  template:
    metadata: {{labels: {{app: {app}, version: {version}}}}}
    spec:
      serviceAccountName: {app}-sa
      # The image's own user is the sidecar's, whose traffic is not captured.
      securityContext: {{runAsUser: 1000, runAsGroup: 1000}}
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: meltemi:test
        imagePullPolicy: Never
        command: [/usr/local/bin/meltemi, app, --http, "8080", --name, {app}, --version, {version}]
"#
    )
}

/// Calls without end and reports each second.
const CALLER: &str = r#"---
apiVersion: apps/v1
kind: Deployment
metadata: {name: caller, namespace: production}
spec:
  selector: {matchLabels: {app: caller}}
  template:
    metadata: {labels: {app: caller}}
    spec:
      securityContext: {runAsUser: 1000, runAsGroup: 1000}
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: meltemi:test
        imagePullPolicy: Never
        command: [/usr/local/bin/meltemi, app, get, "http://payment-api:8080/pay", --rate, "40", -c, "4", --duration, 24h, --every, 1s, --json]
"#;

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: payment-api, namespace: production}
spec:
  selector: {app: payment-api}
  ports: [{name: http, port: 8080}]
"#;

/// Nine of ten to v1, users of the canary to v2.
const SPLIT: &str = include_str!("../../../../examples/shop/istio/payment-api.yaml");

/// mTLS alone, in the whole mesh.
const STRICT: &str = include_str!("../../../../examples/shop/istio/peer-authentication.yaml");

const DENY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-refunds, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/production/sa/order-service-sa"]}}]
    to: [{operation: {paths: ["/refund"]}}]
"#;

const URL: &str = "http://payment-api.production:8080/pay";

fn number(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn install(node: &Node) {
    let said = node.istioctl(&["precheck"]);
    assert!(said.contains("safe to install"), "{said}");
    node.istioctl(&["install", "--dry-run"]);
    assert!(!node.try_kubectl(&["get", "namespace", "istio-system"]).status.success(), "a dry run changes nothing");
    assert!(!node.try_istioctl(&["upgrade", "-y"]).status.success(), "there is nothing to upgrade");
    node.istioctl(&[&["install", "-y"], &SETTINGS[..], &["--verify"]].concat());
}

fn shop(node: &Node) {
    node.kubectl(&["create", "namespace", "production"]);
    node.kubectl(&["create", "namespace", "legacy"]);
    node.kubectl(&["label", "namespace", "production", "istio-injection=enabled"]);
    node.until("the webhook", || {
        let hook = node.get(&["mutatingwebhookconfiguration", "istio-sidecar-injector"]);
        hook["webhooks"][0]["clientConfig"]["caBundle"].is_string()
    });
    let mut text = SERVICE.to_owned();
    text += &deployment("production", "payment-api-v1", "payment-api", "v1", 2);
    text += &deployment("production", "payment-api-v2", "payment-api", "v2", 1);
    text += &deployment("production", "order-service", "order-service", "v1", 1);
    text += &deployment("legacy", "legacy-client", "legacy-client", "v1", 1);
    text += CALLER;
    node.apply(&text);
    for (namespace, name) in [
        ("production", "payment-api-v1"),
        ("production", "payment-api-v2"),
        ("production", "order-service"),
        ("production", "caller"),
        ("legacy", "legacy-client"),
    ] {
        let target = format!("deploy/{name}");
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        node.kubectl(&["rollout", "status", "-n", namespace, &target, &timeout]);
    }
}

#[test]
#[ignore = "needs root and a Kubernetes (scripts/kubernetes install)"]
fn the_mesh_on_a_cluster() {
    let node = Node::up();
    install(&node);
    shop(&node);
    injected(&node);
    traffic(&node);
    commands(&node);
    commands::pages_and_levels(&node);
    metrics::rates_of_a_real_prometheus(&node);
    commands::injection_by_hand_is_the_webhooks(&node);
    security(&node);
    refused(&node);
    survival(&node);
    uninstalled(&node);
}

fn injected(node: &Node) {
    let pods = node.get(&["pods", "-n", "production", "-l", "app=payment-api"]);
    let pods = pods["items"].as_array().unwrap();
    assert_eq!(pods.len(), 3);
    for pod in pods {
        let names: Vec<&Value> = pod["spec"]["initContainers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["istio-init", "istio-proxy"], "{pod:#}");
        assert_eq!(pod["metadata"]["labels"]["security.istio.io/tlsMode"], "istio");
    }
    let out = node.get(&["pods", "-n", "legacy"]);
    assert!(out["items"][0]["spec"]["initContainers"].is_null(), "legacy is no part of the mesh");
    let described = node.kubectl(&["describe", "pod", "-n", "production", "-l", "app=order-service"]);
    assert!(described.contains("istio-proxy:") && described.contains("app:"), "{described}");
}

fn traffic(node: &Node) {
    let calls = |words: &[&str]| node.load("production", "deploy/order-service", &[&[URL], words].concat());
    node.apply(SPLIT);
    node.until("the canary's route", || {
        let report = calls(&["-n", "20", "-H", "x-canary-user: true"]);
        number(&report, "/versions/v2") == 20
    });
    let report = calls(&["-n", "400"]);
    assert_eq!(number(&report, "/statuses/200"), 400, "{report:#}");
    let second = number(&report, "/versions/v2");
    assert!((15..=75).contains(&second), "about one of ten: {report:#}");
}

/// The commands reach istiod and pods through the API server, and istiod writes statuses.
fn commands(node: &Node) {
    node.until("every proxy to be SYNCED", || {
        let table = node.istioctl(&["proxy-status", "-v", "1"]);
        let rows: Vec<&str> = table.lines().skip(1).collect();
        rows.len() == 5 && rows.iter().all(|row| row.matches("SYNCED").count() == 4)
    });
    let clusters = node.istioctl(&["proxy-config", "cluster", "deploy/order-service.production"]);
    assert!(clusters.contains("payment-api.production.svc.cluster.local"), "{clusters}");
    let routes = ["virtualservice", "payment-api", "-n", "production"];
    node.until("the status", || {
        let object = node.get(&routes);
        let good = |kind: &str| {
            let all = object["status"]["conditions"].as_array().into_iter().flatten();
            all.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        good("Reconciled")
            && good("PassedAnalysis")
            && object["status"]["observedGeneration"] == object["metadata"]["generation"]
    });
}

fn security(node: &Node) {
    let inside = |path: &str| {
        let url = format!("http://payment-api.production:8080{path}");
        node.load("production", "deploy/order-service", &[&url, "-n", "10"])
    };
    let outside = || node.load("legacy", "deploy/legacy-client", &[URL, "-n", "10", "--fresh"]);
    assert_eq!(number(&outside(), "/statuses/200"), 10, "PERMISSIVE takes plain text");
    node.apply(STRICT);
    node.until("STRICT", || number(&outside(), "/statuses/200") == 0);
    assert_eq!(number(&inside("/pay"), "/statuses/200"), 10, "mTLS goes on");
    node.apply(DENY);
    node.until("the policy", || number(&inside("/refund"), "/statuses/403") == 10);
    assert_eq!(number(&inside("/pay"), "/statuses/200"), 10, "other paths are free");
}

fn refused(node: &Node) {
    let bad = SPLIT.replace("        host: payment-api\n        subset: v1\n", "        subset: v1\n");
    let output = node.try_apply(&bad);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("spec.http.1.route.0.destination.host: "), "{words}");
    // What may be meant is taken, with a warning.
    let all = "  http:\n  - route:\n    - destination:\n        host: payment-api\n        subset: v1\n";
    let doubtful = SPLIT.replace("  http:\n  - match", &format!("{all}  - match"));
    let output = node.try_apply(&doubtful);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && words.contains("Warning: IST0130"), "{words}");
    node.apply(SPLIT);
    let typo = SPLIT.replace("subset: v2", "subste: v2");
    let output = node.try_apply(&typo);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("subste"), "{words}");
}

/// What the caller's pod has reported: one report a second.
fn reports(node: &Node) -> Vec<Value> {
    let text = node.kubectl(&["logs", "-n", "production", "deploy/caller", "-c", "app", "--tail=-1"]);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// istiod and the API server die and come back under traffic.
fn survival(node: &Node) {
    let begun = reports(node).len();
    node.kubectl(&["delete", "pods", "-n", "istio-system", "-l", "app=istiod", "--grace-period=0", "--force"]);
    node.kubectl(&["rollout", "status", "-n", "istio-system", "deploy/istiod", "--timeout=180s"]);
    node.api("stop");
    std::thread::sleep(std::time::Duration::from_secs(3));
    node.api("start");
    // A change made afterwards still reaches sidecars.
    node.until("a change after the restart", || {
        node.try_apply(&SPLIT.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100")).status.success()
    });
    node.until("all to be v2", || {
        let report = node.load("production", "deploy/order-service", &[URL, "-n", "50"]);
        number(&report, "/versions/v2") == 50
    });
    let all = reports(node);
    let during = all.get(begun..).unwrap_or_default();
    let sum = |field: &str| during.iter().map(|r| number(r, field)).sum::<u64>();
    assert!(sum("/requests") > 200, "traffic went on: {}", during.len());
    assert_eq!(sum("/failed"), 0, "{:#?}", during.iter().find(|r| number(r, "/failed") > 0));
}

fn uninstalled(node: &Node) {
    node.kubectl(&["delete", "namespace", "production", "legacy", "--wait=true"]);
    node.istioctl(&["uninstall", "--purge", "-y"]);
    node.until("nothing to be left", || {
        let crds = node.get(&["customresourcedefinitions"]);
        let hooks = node.get(&["mutatingwebhookconfigurations,validatingwebhookconfigurations"]);
        let roles = node.get(&["clusterroles,clusterrolebindings", "-l", "app.kubernetes.io/managed-by=meltemi"]);
        let roots = node.get(&["configmaps", "-A", "--field-selector", "metadata.name=istio-ca-root-cert"]);
        let gone = !node.try_kubectl(&["get", "namespace", "istio-system"]).status.success();
        let none = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
        gone && [crds, hooks, roles, roots].iter().all(none)
    });
}
