//! Volumes of injected pods, and where the sidecar sees them.

use serde_json::{Value, json};

/// How long a token is good for, in seconds; the kubelet renews it.
const TOKEN_SECONDS: u64 = 43_200;

/// The volumes that are added.
pub(crate) fn volumes() -> Vec<Value> {
    let label = |field: &str| json!({"path": field, "fieldRef": {"fieldPath": format!("metadata.{field}")}});
    let token = json!({"audience": "istio-ca", "expirationSeconds": TOKEN_SECONDS, "path": "istio-token"});
    vec![
        json!({"name": "workload-socket"}),
        json!({"name": "credential-socket"}),
        json!({"name": "workload-certs"}),
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [label("labels"), label("annotations")]}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
        json!({"name": "istio-ca-crl", "configMap": {"name": "istio-ca-crl", "optional": true}}),
    ]
}

/// Where the sidecar mounts them.
pub(crate) fn mounts() -> Vec<Value> {
    let places = [
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
        ("credential-socket", "/var/run/secrets/credential-uds"),
        ("workload-certs", "/var/run/secrets/workload-spiffe-credentials"),
        ("istiod-ca-cert", "/var/run/secrets/istio"),
        ("istio-ca-crl", "/var/run/secrets/istio/crl"),
        ("istio-data", "/var/lib/istio/data"),
        ("istio-envoy", "/etc/istio/proxy"),
        ("istio-token", "/var/run/secrets/tokens"),
        ("istio-podinfo", "/etc/istio/pod"),
    ];
    places.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect()
}
