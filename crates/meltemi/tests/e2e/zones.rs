//! Requests stay in their zone: istiod tells a proxy where its own replicas are, when it asks for them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use laptop::{Mesh, MeshOptions};

use crate::shop::{PATIENCE, binary, report};

const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: client, namespace: production}
spec: {selector: {app: client}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: production}
spec: {selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: production}
spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM, zoneAwareLbSetting: {minClusterSize: 4}}}}
"#;

/// A replica of the client on another machine, in the other zone.
const REPLICA: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n\
    metadata: {name: far, namespace: production, labels: {service.istio.io/workload-name: client}}\n\
    spec: {address: 192.0.2.7, locality: r1/z2, labels: {app: client}}\n";

fn pod(name: &str, app: &str, zone: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: production, labels: {{app: {app}, istio-locality: r1.{zone}}}, \
         annotations: {{{annotations}}}}}\nspec:\n  containers:\n  - name: app\n    image: app\n    ports: [{{containerPort: 8080}}]\n    \
         command: [meltemi, app, --name, {name}, --http, \"8080\"]\n    \
         env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n"
    )
}

/// The zones that serve a hundred requests; servers are named after theirs.
fn zones(mesh: &Mesh) -> BTreeSet<String> {
    let binary = binary();
    let words = [binary.to_str().unwrap(), "app", "get", "http://web:8080/", "--json", "-n", "100"];
    let told = report(&mesh.exec("production", "client", &words).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(told["ok"], 100, "{told}");
    let pods = told["pods"].as_object().expect("pods");
    pods.keys().map(|pod| pod.split('-').nth(1).unwrap_or_default().to_owned()).collect()
}

fn until(what: &str, so: impl Fn() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn requests_stay_in_the_zone_while_replicas_are_in_both() {
    let folder = tempfile::tempdir().unwrap();
    let knows = "proxy.istio.io/config: \"{proxyMetadata: {ISTIO_META_ENABLE_SELF_DISCOVERY: 'true'}}\"";
    let mut text = MESH.to_owned();
    text += &pod("client", "client", "z1", knows);
    for (zone, n) in [("z1", 0), ("z1", 1), ("z2", 2), ("z2", 3)] {
        let _ = write!(text, "{}", pod(&format!("web-{zone}-{n}"), "web", zone, ""));
    }
    std::fs::write(folder.path().join("mesh.yaml"), text).unwrap();
    let mut options = MeshOptions::new(binary(), vec![folder.path().to_owned()], folder.path().join(".state"));
    options.namespace = "production".to_owned();
    options.patience = PATIENCE;
    crate::sidecar::choose(&mut options);
    let mesh = Mesh::up(options).unwrap_or_else(|e| panic!("{e}"));
    let page = |path: &str| mesh.get("production", "client", 15000, path).unwrap();
    let replicas = || {
        let page = page("/clusters");
        let of = |line: &str| line.starts_with("local_cluster::") && line.contains("::health_flags::");
        page.lines().filter(|line| of(line)).count()
    };
    until("the client to know itself", || replicas() == 1);
    assert_eq!(zones(&mesh).len(), 2, "one replica tells nothing");

    std::fs::write(folder.path().join("replica.yaml"), REPLICA).unwrap();
    until("the client to know its replica", || replicas() == 2);
    until("all requests to stay", || zones(&mesh) == ["z1".to_owned()].into());
    let stats = page("/stats?filter=lb_zone_routing_all_directly");
    let counted = |line: &str| line.contains("|web.production") && !line.ends_with(": 0");
    assert!(stats.lines().any(counted), "{stats}");

    std::fs::remove_file(folder.path().join("replica.yaml")).unwrap();
    until("requests to go everywhere again", || zones(&mesh).len() == 2);
}
