//! What of an object is kept: 5,000 pods must fit into little memory, and what changes nothing must look unchanged.

use serde_json::{Map, Value};

/// Annotations that mean something to a mesh.
const ANNOTATIONS: [&str; 3] = ["networking.istio.io/", "sidecar.istio.io/", "istio.io/autoRegistrationGroup"];

/// Cuts an object down to what the mesh reads.
pub(crate) fn slim(kind: &str, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let kept = ["name", "namespace", "labels", "annotations", "creationTimestamp", "ownerReferences"];
        metadata.retain(|key, _| kept.contains(&key.as_str()));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)));
        }
    }
    match kind {
        "Pod" => pod(object),
        "Node" | "Namespace" => {
            if let Some(object) = object.as_object_mut() {
                object.remove("spec");
                object.remove("status");
            }
        }
        "Service" => {
            remove(object, "status");
        }
        _ => {}
    }
}

fn pod(object: &mut Value) {
    let mut spec = Map::new();
    for key in ["serviceAccountName", "nodeName"] {
        if let Some(value) = object["spec"].get(key) {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    for list in ["containers", "initContainers"] {
        let containers = object["spec"][list].as_array().into_iter().flatten();
        let kept = containers.map(|c| {
            let ports = c["ports"].as_array().into_iter().flatten();
            let ports: Vec<Value> = ports
                .filter(|p| p["name"].is_string())
                .map(|p| serde_json::json!({"name": p["name"], "containerPort": p["containerPort"]}))
                .collect();
            serde_json::json!({"name": c["name"], "ports": ports})
        });
        // What has no named port and is no sidecar is nobody's concern.
        let matters = |c: &Value| c["name"] == "istio-proxy" || c["ports"].as_array().is_some_and(|p| !p.is_empty());
        let kept: Vec<Value> = kept.filter(matters).collect();
        if !kept.is_empty() {
            spec.insert(list.to_owned(), Value::Array(kept));
        }
    }
    let status = &object["status"];
    let ready = status["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    let ready = ready.map(|c| serde_json::json!({"type": "Ready", "status": c["status"]}));
    // A pod that has ended keeps its address for a while; another pod may have it by now.
    let over = ["Succeeded", "Failed"].iter().any(|phase| status["phase"] == *phase);
    let mut kept = Map::new();
    if let Some(ip) = status.get("podIP").filter(|_| !over) {
        kept.insert("podIP".to_owned(), ip.clone());
    }
    kept.insert("conditions".to_owned(), Value::Array(ready.into_iter().collect()));
    object["spec"] = Value::Object(spec);
    object["status"] = Value::Object(kept);
}

fn remove(object: &mut Value, key: &str) {
    if let Some(object) = object.as_object_mut() {
        object.remove(key);
    }
}
