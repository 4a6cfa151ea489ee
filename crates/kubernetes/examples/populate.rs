//! Fills an API server with services, pods, EndpointSlices and, for every fifth service, a VirtualService and a
//! DestinationRule: `populate SERVICES` (KUBECONFIG says where). For scripts/bench-istiod.

use kubernetes::{Cluster, ClusterError, Place};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PODS: usize = 5;
/// Writers at the same time.
const AT_ONCE: usize = 32;

#[tokio::main]
async fn main() -> Result<(), ClusterError> {
    let services: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1000);
    let cluster = Cluster::connect(None, None, "istio-system").await?;
    for name in ["istio-system", "bench"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ignore_conflict(cluster.create(&Place::list("v1", "namespaces", None), &object).await)?;
    }
    let mut writers = JoinSet::new();
    for index in 0..services {
        if writers.len() >= AT_ONCE {
            writers.join_next().await;
        }
        let cluster = cluster.clone();
        writers.spawn(async move {
            if let Err(error) = service(&cluster, index).await {
                eprintln!("service {index}: {error}");
            }
        });
    }
    while writers.join_next().await.is_some() {}
    Ok(())
}

fn ignore_conflict(answer: Result<Value, ClusterError>) -> Result<(), ClusterError> {
    match answer {
        Err(error) if !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

async fn service(cluster: &Cluster, index: usize) -> Result<(), ClusterError> {
    let name = format!("svc-{index}");
    let list = |api: &str, plural: &str| Place::list(api, plural, Some("bench"));
    let meta = |name: &str, labels: Value| json!({"name": name, "namespace": "bench", "labels": labels});
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta(&name, json!({"app": name})),
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8080}]},
    });
    ignore_conflict(cluster.create(&list("v1", "services"), &object).await)?;
    let mut endpoints = Vec::new();
    for pod in 0..PODS {
        let ip = format!("10.{}.{}.{}", 128 + index / 250, index % 250, pod + 1);
        let pod_name = format!("{name}-{pod}");
        let version = if pod % 2 == 0 { "v1" } else { "v2" };
        let labels = json!({"app": name, "version": version, "security.istio.io/tlsMode": "istio"});
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta(&pod_name, labels),
            "spec": {"serviceAccountName": name, "nodeName": "node", "containers": [
                {"name": "app", "image": "app", "ports": [{"containerPort": 8080}]},
                {"name": "istio-proxy", "image": "proxy"}]},
        });
        ignore_conflict(cluster.create(&list("v1", "pods"), &object).await)?;
        let status = json!([{"op": "replace", "path": "/status", "value": {
            "podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}]);
        cluster.patch(&list("v1", "pods").object(&format!("{pod_name}/status")), &status).await?;
        endpoints.push(json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": "node",
            "targetRef": {"kind": "Pod", "name": pod_name, "namespace": "bench"}}));
    }
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": meta(&name, json!({"kubernetes.io/service-name": name})),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    ignore_conflict(cluster.create(&list("discovery.k8s.io/v1", "endpointslices"), &object).await)?;
    if !index.is_multiple_of(5) {
        return Ok(());
    }
    let subset = |v: &str| json!({"name": v, "labels": {"version": v}});
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta(&name, json!({})),
        "spec": {"host": name, "subsets": [subset("v1"), subset("v2")]},
    });
    ignore_conflict(cluster.create(&list("networking.istio.io/v1", "destinationrules"), &rule).await)?;
    let to = |v: &str, weight: u32| json!({"destination": {"host": name, "subset": v}, "weight": weight});
    let routes = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta(&name, json!({})),
        "spec": {"hosts": [name], "http": [{"route": [to("v1", 90), to("v2", 10)]}]},
    });
    ignore_conflict(cluster.create(&list("networking.istio.io/v1", "virtualservices"), &routes).await)
}
