//! What istiod may do: nothing that it does not.

use kubernetes::CRDS;
use serde_json::{Value, json};

use crate::values::Values;

const LOOK: [&str; 3] = ["get", "list", "watch"];
const GROUP: &str = "rbac.authorization.k8s.io";

/// The service account and its permissions.
pub(crate) fn rbac(values: &Values, labels: &Value) -> Vec<Value> {
    let namespace = values.namespace();
    let account = values.of_revision("istiod");
    // Two control planes may have their own namespaces.
    let wide = format!("{account}-{namespace}");
    let subject = json!([{"kind": "ServiceAccount", "name": account, "namespace": namespace}]);
    let api = format!("{GROUP}/v1");
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace, "labels": labels}}),
        json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": wide, "labels": labels}, "rules": cluster_rules(values)}),
        json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": wide, "labels": labels},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": wide}, "subjects": subject}),
        json!({"apiVersion": api, "kind": "Role", "metadata": {"name": account, "namespace": namespace, "labels": labels},
            "rules": own_rules(values)}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": {"name": account, "namespace": namespace, "labels": labels},
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": account}, "subjects": subject}),
    ]
}

fn cluster_rules(values: &Values) -> Vec<Value> {
    let look = LOOK;
    let mut rules = vec![
        json!({"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "services"], "verbs": look}),
        json!({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": look}),
        // The root certificate of the mesh, in every namespace, and no other ConfigMap.
        json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["istio-ca-root-cert"],
            "verbs": ["get", "list", "watch", "create", "patch"]}),
        json!({"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}),
        // What a credentialName names: users choose name and namespace. Nothing else is asked for.
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}),
        // Whether a sidecar's service account may read such a Secret itself.
        json!({"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}),
        // Tags have names that users choose.
        json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
            "verbs": ["list", "watch", "patch"]}),
        json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"],
            "verbs": ["list", "watch"]}),
        json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"],
            "resourceNames": [validator(values)], "verbs": ["patch"]}),
    ];
    let mut groups: Vec<&str> = CRDS.iter().map(|k| k.group).collect();
    groups.dedup();
    for group in groups {
        let kinds: Vec<&str> = CRDS.iter().filter(|k| k.group == group).map(|k| k.plural).collect();
        rules.push(json!({"apiGroups": [group], "resources": kinds, "verbs": look}));
        if values.writes_status() {
            let statuses: Vec<String> = kinds.iter().map(|kind| format!("{kind}/status")).collect();
            rules.push(json!({"apiGroups": [group], "resources": statuses, "verbs": ["patch"]}));
        }
    }
    rules
}

fn own_rules(values: &Values) -> Vec<Value> {
    let look = LOOK;
    vec![
        json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [values.of_revision("istio")],
            "verbs": look}),
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["cacerts", "istio-ca-secret"], "verbs": look}),
        // Its self-signed root is renewed in time.
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["istio-ca-secret"], "verbs": ["update"]}),
        // Names cannot be asked for when something is made.
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "resourceNames": [values.of_revision("istio-leader")], "verbs": ["get", "update"]}),
    ]
}

/// Name of the validating webhook's configuration.
pub(crate) fn validator(values: &Values) -> String {
    format!("{}-{}", values.of_revision("istio-validator"), values.namespace())
}
