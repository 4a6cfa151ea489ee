//! CustomResourceDefinitions of Istio's kinds.

mod rules;

use istio_api::openapi;
use kubernetes::{CRDS, Kind};
use serde_json::{Value, json};

/// All of them.
pub fn crds() -> Vec<Value> {
    CRDS.iter().map(crd).collect()
}

fn crd(kind: &Kind) -> Value {
    let mut names = json!({
        "kind": kind.kind, "listKind": format!("{}List", kind.kind), "plural": kind.plural,
        "singular": kind.kind.to_lowercase(), "categories": [CATEGORY, category(kind)],
    });
    let short = short_names(kind.kind);
    if !short.is_empty() {
        names["shortNames"] = json!(short);
    }
    let schema = schema(kind);
    let version = |(index, name): (usize, &&str)| {
        json!({
            "name": name, "served": true, "storage": index == 0, "subresources": {"status": {}},
            "additionalPrinterColumns": columns(kind.kind), "schema": {"openAPIV3Schema": schema},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", kind.plural, kind.group), "labels": {"app": "istio-pilot", "chart": "istio"}},
        "spec": {
            "group": kind.group, "scope": "Namespaced", "names": names,
            "versions": kind.versions.iter().enumerate().map(version).collect::<Vec<_>>(),
        },
    })
}

/// `kubectl get istio-io` shows all of them.
const CATEGORY: &str = "istio-io";

fn category(kind: &Kind) -> String {
    format!("{}-istio-io", kind.group.split('.').next().unwrap_or_default())
}

fn schema(kind: &Kind) -> Value {
    // A kind whose type no schema can describe is checked by the webhook alone; a test keeps that from happening.
    let open = || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut spec = openapi::spec(kind.group, kind.kind).unwrap_or_else(open);
    let rules = rules::of(kind.kind, &spec);
    if !rules.is_empty() {
        spec["x-kubernetes-validations"] = Value::Array(rules);
    }
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "format": "int64"});
    let condition = json!({"type": "object", "properties": {
        "type": text, "status": text, "reason": text, "message": text, "observedGeneration": number,
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "lastProbeTime": {"type": "string", "format": "date-time"},
    }});
    json!({"type": "object", "properties": {"spec": spec, "status": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "observedGeneration": number,
            "conditions": {"type": "array", "items": condition},
            "validationMessages": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        },
    }}})
}

/// As Istio has them.
fn short_names(kind: &str) -> &'static [&'static str] {
    match kind {
        "VirtualService" => &["vs"],
        "DestinationRule" => &["dr"],
        "ServiceEntry" => &["se"],
        "WorkloadEntry" => &["we"],
        "WorkloadGroup" => &["wg"],
        "Gateway" => &["gw"],
        "PeerAuthentication" => &["pa"],
        "AuthorizationPolicy" => &["ap"],
        "RequestAuthentication" => &["ra"],
        "Telemetry" => &["telemetry"],
        _ => &[],
    }
}

fn columns(kind: &str) -> Vec<Value> {
    let own: &[(&str, &str, &str)] = match kind {
        "VirtualService" => &[
            ("Gateways", ".spec.gateways", "Gateways and sidecars for which the routes count"),
            ("Hosts", ".spec.hosts", "Hosts whose requests are routed"),
        ],
        "DestinationRule" => &[("Host", ".spec.host", "The service whose traffic is meant")],
        "ServiceEntry" => &[
            ("Hosts", ".spec.hosts", "Hosts of the service"),
            ("Location", ".spec.location", "Whether the service is a part of the mesh"),
            ("Resolution", ".spec.resolution", "How endpoints are found"),
        ],
        "WorkloadEntry" => &[("Address", ".spec.address", "Address of the workload")],
        "WorkloadGroup" => &[],
        "PeerAuthentication" => &[("Mode", ".spec.mtls.mode", "How connections are taken")],
        "AuthorizationPolicy" => &[("Action", ".spec.action", "What happens to requests that match")],
        _ => &[],
    };
    let column = |(name, path, words): &(&str, &str, &str)| json!({"name": name, "type": "string", "jsonPath": path, "description": words});
    let mut columns: Vec<Value> = own.iter().map(column).collect();
    columns.push(json!({
        "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": "When it was made",
    }));
    columns
}
