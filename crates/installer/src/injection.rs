//! Webhook configurations: which pods and resources istiod is asked about.

use serde_json::{Value, json};

use crate::rbac::validator;
use crate::values::Values;

/// The pod label by which users choose.
const INJECT: &str = "sidecar.istio.io/inject";
/// The namespace label by which users choose.
const NAMESPACE: &str = "istio-injection";
/// The label of a revision.
const REVISION: &str = "istio.io/rev";

fn within(key: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": "In", "values": values})
}

fn except(key: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": "NotIn", "values": values})
}

fn without(key: &str) -> Value {
    json!({"key": key, "operator": "DoesNotExist"})
}

/// The webhooks of a revision, or of a tag: for namespaces and pods that name it, and when it is the default also for
/// those that name none (Istio's rules).
pub(crate) fn webhooks(name: &str, service: &str, namespace: &str) -> Value {
    let hook = |prefix: &str, namespaces: Value, pods: Value| {
        json!({
            "name": format!("{prefix}.sidecar-injector.istio.io"),
            "clientConfig": {"service": {"name": service, "namespace": namespace, "path": "/inject", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "*"}],
            "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "reinvocationPolicy": "Never", "matchPolicy": "Equivalent", "timeoutSeconds": 10,
            "namespaceSelector": {"matchExpressions": namespaces}, "objectSelector": {"matchExpressions": pods},
        })
    };
    let mut all = vec![
        hook(
            "rev.namespace",
            json!([within(REVISION, &[name]), without(NAMESPACE)]),
            json!([except(INJECT, &["false"])]),
        ),
        hook(
            "rev.object",
            json!([without(REVISION), without(NAMESPACE)]),
            json!([except(INJECT, &["false"]), within(REVISION, &[name])]),
        ),
    ];
    if name == "default" {
        all.push(hook("namespace", json!([within(NAMESPACE, &["enabled"])]), json!([except(INJECT, &["false"])])));
        all.push(hook(
            "object",
            json!([without(NAMESPACE), without(REVISION)]),
            json!([within(INJECT, &["true"]), without(REVISION)]),
        ));
    }
    Value::Array(all)
}

/// Both configurations of a control plane.
pub(crate) fn configurations(values: &Values, labels: &Value) -> Vec<Value> {
    let (service, namespace) = (values.of_revision("istiod"), values.namespace());
    let injector = if namespace == "istio-system" {
        "istio-sidecar-injector".to_owned()
    } else {
        format!("istio-sidecar-injector-{namespace}")
    };
    let groups = ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"];
    // Another revision judges only what is meant for it.
    let objects = if values.revision() == "default" {
        json!({})
    } else {
        json!({"matchExpressions": [within(REVISION, &[values.revision()])]})
    };
    // Tools know injectors by this label, as they do Istio's.
    let mut known = labels.clone();
    known["app"] = "sidecar-injector".into();
    vec![
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": values.of_revision(&injector), "labels": known},
            "webhooks": webhooks(values.revision(), &service, namespace)}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": validator(values), "labels": labels},
        "webhooks": [{
            "name": "rev.validation.istio.io",
            "clientConfig": {"service": {"name": service, "namespace": namespace, "path": "/validate", "port": 443}},
            "rules": [{"apiGroups": groups, "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "*"}],
            // istiod makes it count as soon as it answers.
            "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "matchPolicy": "Equivalent", "timeoutSeconds": 10, "objectSelector": objects,
        }]}),
    ]
}
