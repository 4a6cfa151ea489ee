//! Volumes of injected pods, and where the sidecar sees them.

use serde_json::{Value, json};

use crate::annotations::Wishes;

/// How long a token is good for, in seconds; the kubelet renews it.
const TOKEN_SECONDS: u64 = 43_200;

/// The volumes that are added, and the user's for the sidecar.
pub(crate) fn volumes(wishes: &Wishes) -> Vec<Value> {
    let mut all = vec![
        json!({"name": "workload-socket"}),
        json!({"name": "credential-socket"}),
        json!({"name": "workload-certs"}),
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
    ];
    all.extend(identity());
    all.push(json!({"name": "istio-ca-crl", "configMap": {"name": "istio-ca-crl", "optional": true}}));
    all.extend(wishes.volumes.iter().map(|(name, volume)| named(name, volume)));
    all
}

/// What tells a proxy who it is, and whom it can believe.
pub(crate) fn identity() -> Vec<Value> {
    let label = |field: &str| json!({"path": field, "fieldRef": {"fieldPath": format!("metadata.{field}")}});
    let token = json!({"audience": "istio-ca", "expirationSeconds": TOKEN_SECONDS, "path": "istio-token"});
    vec![
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [label("labels"), label("annotations")]}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": token}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
    ]
}

/// Where SPIRE's agent, or whoever gives out certificates, is asked.
pub(crate) const SOCKET: &str = "/var/run/secrets/workload-spiffe-uds";

/// Places by volume.
pub(crate) const PLACES: [(&str, &str); 9] = [
    ("workload-socket", SOCKET),
    ("credential-socket", "/var/run/secrets/credential-uds"),
    ("workload-certs", "/var/run/secrets/workload-spiffe-credentials"),
    ("istiod-ca-cert", "/var/run/secrets/istio"),
    ("istio-ca-crl", "/var/run/secrets/istio/crl"),
    ("istio-data", "/var/lib/istio/data"),
    ("istio-envoy", "/etc/istio/proxy"),
    ("istio-token", "/var/run/secrets/tokens"),
    ("istio-podinfo", "/etc/istio/pod"),
];

/// Where the sidecar mounts them.
pub(crate) fn mounts(wishes: &Wishes) -> Vec<Value> {
    let own = PLACES.iter().map(|(name, path)| json!({"name": name, "mountPath": path}));
    own.chain(wishes.mounts.iter().map(|(name, mount)| named(name, mount))).collect()
}

fn named(name: &str, value: &Value) -> Value {
    let mut value = value.clone();
    if value.get("name").is_none() {
        value["name"] = name.into();
    }
    value
}
