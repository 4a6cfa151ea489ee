//! Where a kind keeps its pod, and who owns it.

use serde_json::Value;

use crate::options::Options;

/// Where the pod is within the object.
pub(crate) struct Place {
    pub meta: &'static str,
    pub spec: &'static str,
}

/// JSON pointers to a kind's pod metadata and spec. For a CronJob the metadata is the Job's: it is where Istio puts it.
pub(crate) fn place_of_pod(kind: &str) -> Option<Place> {
    let (meta, spec) = match kind {
        "Pod" => ("/metadata", "/spec"),
        "CronJob" => ("/spec/jobTemplate/metadata", "/spec/jobTemplate/spec/template/spec"),
        "Deployment"
        | "DaemonSet"
        | "StatefulSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job"
        | "DeploymentConfig" => ("/spec/template/metadata", "/spec/template/spec"),
        _ => return None,
    };
    Some(Place { meta, spec })
}

/// Who owns the pods.
pub(crate) struct Owner {
    pub kind: String,
    pub version: String,
    pub name: String,
    pub namespace: String,
}

impl Owner {
    pub(crate) fn of(object: &Value, options: &Options) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let first = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
        let owner = Self {
            kind: text("/kind").to_owned(),
            version: text("/apiVersion").to_owned(),
            name: first(text("/metadata/name"), text("/metadata/generateName").trim_end_matches('-')),
            namespace: first(text("/metadata/namespace"), &options.namespace),
        };
        owner.or_controller(object)
    }

    /// A pod belongs to its controller, and one of a ReplicaSet's to the Deployment that made that.
    fn or_controller(self, object: &Value) -> Self {
        let references = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let controller = references.into_iter().flatten().find(|r| r["controller"] == true);
        let Some(controller) = controller.filter(|_| self.kind == "Pod") else { return self };
        let text = |key: &str| controller[key].as_str().unwrap_or_default().to_owned();
        let mut owner = Self { kind: text("kind"), version: text("apiVersion"), name: text("name"), ..self };
        let hash = object.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
        if let Some(deployment) = deployment.filter(|_| owner.kind == "ReplicaSet").map(str::to_owned) {
            owner.kind = "Deployment".to_owned();
            owner.name = deployment;
        }
        owner
    }

    /// The owner as Istio writes it in the proxy's metadata.
    pub(crate) fn reference(&self) -> String {
        let plural = format!("{}s", self.kind.to_lowercase());
        format!("kubernetes://apis/{}/namespaces/{}/{plural}/{}", self.version, self.namespace, self.name)
    }
}
