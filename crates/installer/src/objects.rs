//! Objects and a cluster: where each belongs, and whether it is there.

use std::time::{Duration, Instant};

use kubernetes::{Cluster, ClusterError, Place};
use serde_json::Value;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// `Kind namespace/name`.
pub(crate) fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// Where an object of the manifest is found.
pub(crate) fn place(object: &Value) -> Place {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or_default().to_lowercase();
    // No kind of the manifest forms its plural in another way.
    let plural = format!("{kind}s");
    let list = Place::list(text("/apiVersion").unwrap_or_default(), &plural, text("/metadata/namespace"));
    list.object(text("/metadata/name").unwrap_or_default())
}

/// Applies an object; the API server may still be learning its kind.
pub(crate) async fn apply(cluster: &Cluster, object: &Value) -> Result<(), ClusterError> {
    cluster.apply(&place(object), object).await.map(|_| ())
}

/// Waits until `holds` of the object as it is in the cluster; whether it did in time.
pub(crate) async fn wait(
    cluster: &Cluster,
    object: &Value,
    until: Instant,
    holds: impl Fn(&Value) -> bool,
) -> Result<bool, ClusterError> {
    let place = place(object);
    loop {
        if cluster.read(&place).await?.is_some_and(|now| holds(&now)) {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a condition of the object is True.
pub(crate) fn condition(object: &Value, kind: &str) -> bool {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Whether a Deployment runs as it was last described.
pub(crate) fn rolled_out(object: &Value) -> bool {
    let (wanted, status) = (&object["spec"]["replicas"], &object["status"]);
    let seen = object["metadata"]["generation"] == status["observedGeneration"];
    seen && condition(object, "Available") && status["updatedReplicas"] == *wanted && status["replicas"] == *wanted
}
