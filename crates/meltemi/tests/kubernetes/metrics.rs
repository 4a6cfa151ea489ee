//! `istioctl experimental metrics` with a real Prometheus that scrapes our sidecars where the injector's annotations say.

use serde_json::{Value, json};

use crate::node::{Node, PATIENCE};

/// The program is the machine's own, with the libraries of our image; it keeps nothing. Debian's knows no Kubernetes: it is
/// told where pods are.
const PROMETHEUS: &str = r#"---
apiVersion: v1
kind: ConfigMap
metadata: {name: prometheus, namespace: istio-system}
data:
  prometheus.yml: |
    global: {scrape_interval: 2s}
    scrape_configs:
    - {job_name: pods, static_configs: TARGETS}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: prometheus, namespace: istio-system}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: prometheus}}
  template:
    metadata: {labels: {app.kubernetes.io/name: prometheus}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
      containers:
      - name: prometheus
        image: meltemi:test
        imagePullPolicy: Never
        command: [/program/prometheus, --config.file=/config/prometheus.yml, --storage.tsdb.path=/data]
        readinessProbe: {httpGet: {path: /-/ready, port: 9090}, periodSeconds: 1}
        volumeMounts:
        - {name: program, mountPath: /program, readOnly: true}
        - {name: config, mountPath: /config, readOnly: true}
        - {name: data, mountPath: /data}
      volumes:
      - {name: program, hostPath: {path: FOLDER, type: Directory}}
      - {name: config, configMap: {name: prometheus}}
      - {name: data, emptyDir: {}}
"#;

/// Where the pods of a namespace are scraped, as their annotations say.
fn targets(node: &Node, namespace: &str) -> Value {
    let pods = node.get(&["pods", "-n", namespace]);
    let of = |pod: &Value| {
        let says =
            |key: &str| pod["metadata"]["annotations"][format!("prometheus.io/{key}")].as_str().map(str::to_owned);
        let (port, path) = (says("port")?, says("path")?);
        let address = format!("{}:{port}", pod["status"]["podIP"].as_str()?);
        says("scrape")
            .filter(|s| s == "true")
            .map(|_| json!({"targets": [address], "labels": {"__metrics_path__": path}}))
    };
    pods["items"].as_array().unwrap().iter().filter_map(of).collect()
}

fn rates(node: &Node, workload: &str) -> Value {
    let text = node.istioctl(&["experimental", "metrics", workload, "-d", "30s", "-o", "json"]);
    let rows: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    rows[0].clone()
}

/// While the caller calls: requests a second of a workload, their errors, and how long they take.
pub fn rates_of_a_real_prometheus(node: &Node) {
    let Some(program) = Node::prometheus() else { return };
    let targets = targets(node, "production");
    assert_eq!(targets.as_array().map(Vec::len), Some(5), "{targets}");
    let folder = program.parent().unwrap().to_str().unwrap();
    node.apply(&PROMETHEUS.replace("FOLDER", folder).replace("TARGETS", &targets.to_string()));
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    node.kubectl(&["rollout", "status", "-n", "istio-system", "deploy/prometheus", &timeout]);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
    node.until("rates of v1", || number(&rates(node, "payment-api-v1.production"), "totalRPS") > 1.0);
    // Each pod is scraped at a moment of its own, and a rate takes two scrapes.
    node.until("rates of v2", || number(&rates(node, "payment-api-v2.production"), "totalRPS") > 0.1);
    let row = rates(node, "payment-api-v1.production");
    // The caller makes 40 requests a second for both versions; errors and other callers there are none.
    assert!(number(&row, "totalRPS") <= 60.0 && number(&row, "errorRPS") == 0.0, "{row}");
    // The three are asked for one after another, and a scrape may come between.
    node.until("latencies of v1, the rarer the longer", || {
        let row = rates(node, "payment-api-v1.production");
        let latencies = ["p50Latency", "p90Latency", "p99Latency"].map(|key| number(&row, key));
        latencies[0] > 0.0 && latencies.is_sorted()
    });
    // Nobody calls the caller.
    let idle = rates(node, "caller.production");
    assert_eq!((number(&idle, "totalRPS"), number(&idle, "p99Latency")), (0.0, 0.0), "{idle}");

    let table = node.istioctl(&["x", "metrics", "payment-api-v1.production", "payment-api-v2.production"]);
    eprintln!("{table}");
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines.iter().skip(1).all(|l| l.len() == 6 && l[1] != "0.000" && l[2] == "0.000"), "{table}");
    node.kubectl(&["delete", "deployment,configmap", "prometheus", "-n", "istio-system"]);
}
