//! The objects of a control plane.

use serde_json::{Map, Value, json};

use crate::values::{Values, ValuesError};
use crate::{crd, injection, rbac};

/// Who put the objects there.
pub(crate) const MANAGER: (&str, &str) = ("app.kubernetes.io/managed-by", "meltemi");
/// User and group of our containers.
const ID: u32 = 1337;

/// Everything, in the order in which it is applied: CustomResourceDefinitions first.
///
/// # Errors
/// When the mesh configuration cannot be written as YAML.
pub fn manifest(values: &Values) -> Result<Vec<Value>, ValuesError> {
    let labels = labels(values);
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": values.namespace(), "labels": {MANAGER.0: MANAGER.1}},
    })];
    objects.extend(crd::crds());
    objects.extend(rbac::rbac(values, &labels));
    objects.push(mesh_config(values, &labels)?);
    objects.push(injector_values(values, &labels));
    objects.push(service(values, &labels));
    objects.push(deployment(values, &labels));
    objects.extend(injection::configurations(values, &labels));
    if replicas(values) > 1 {
        objects.push(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": values.of_revision("istiod"), "namespace": values.namespace(), "labels": labels},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": selector(values)}},
        }));
    }
    for object in &mut objects {
        object["metadata"]["labels"][MANAGER.0] = MANAGER.1.into();
    }
    Ok(objects)
}

/// Several objects as one YAML text.
///
/// # Errors
/// When one cannot be written.
pub fn to_yaml(objects: &[Value]) -> Result<String, ValuesError> {
    let mut out = String::new();
    for object in objects {
        if !out.is_empty() {
            out.push_str("---\n");
        }
        let text = serde_saphyr::to_string(object)
            .map_err(|e| ValuesError::Value { name: "manifest".to_owned(), reason: e.to_string() })?;
        out.push_str(text.trim_start_matches("---\n"));
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    Ok(out)
}

fn replicas(values: &Values) -> u32 {
    values.values.pilot.replica_count.unwrap_or(1)
}

fn labels(values: &Values) -> Value {
    json!({"app": "istiod", "istio.io/rev": values.revision()})
}

fn selector(values: &Values) -> Value {
    json!({"app": "istiod", "istio.io/rev": values.revision()})
}

fn mesh_config(values: &Values, labels: &Value) -> Result<Value, ValuesError> {
    let mut mesh: Map<String, Value> = values.mesh_config.as_object().cloned().unwrap_or_default();
    mesh.entry("trustDomain").or_insert_with(|| "cluster.local".into());
    mesh.entry("rootNamespace").or_insert_with(|| values.namespace().into());
    let text = to_yaml(&[Value::Object(mesh)])?;
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": values.of_revision("istio"), "namespace": values.namespace(), "labels": labels},
        "data": {"mesh": text},
    }))
}

/// What pods are injected with, under Istio's name and in its form, for tools: `kube-inject` and analyzers read it. istiod
/// itself has the same from its environment.
fn injector_values(values: &Values, labels: &Value) -> Value {
    let text = json!({
        "revision": values.revision(),
        "global": {
            "imagePullPolicy": values.pull_policy(), "istioNamespace": values.namespace(),
            "multiCluster": {"clusterName": values.cluster()}, "proxy": {"image": values.proxy_image()},
        },
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": values.of_revision("istio-sidecar-injector"), "namespace": values.namespace(), "labels": labels},
        "data": {"values": text.to_string()},
    })
}

fn service(values: &Values, labels: &Value) -> Value {
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": values.of_revision("istiod"), "namespace": values.namespace(), "labels": labels},
        "spec": {"selector": selector(values), "ports": [
            port("grpc-xds", 15010, 15010), port("https-dns", 15012, 15012),
            port("https-webhook", 443, 15017), port("http-monitoring", 15014, 15014),
        ]},
    })
}

fn deployment(values: &Values, labels: &Value) -> Value {
    let mut env = vec![
        json!({"name": "REVISION", "value": values.revision()}),
        json!({"name": "CLUSTER_ID", "value": values.cluster()}),
        json!({"name": "PROXY_IMAGE", "value": values.proxy_image()}),
        json!({"name": "PROXY_IMAGE_PULL_POLICY", "value": values.pull_policy()}),
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}),
    ];
    for (name, value) in &values.values.pilot.env {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        env.push(json!({"name": name, "value": text}));
    }
    let port = |name: &str, number: u16| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    let trust_domain = values.mesh_config["trustDomain"].as_str().unwrap_or("cluster.local");
    let mut container = json!({
        "name": "discovery", "image": values.pilot_image(), "command": ["/usr/local/bin/istiod"],
        "args": ["--address=0.0.0.0", format!("--trust-domain={trust_domain}")],
        "env": env,
        "ports": [
            port("http-debug", 8080), port("grpc-xds", 15010), port("tls-xds", 15012),
            port("http-monitoring", 15014), port("https-webhooks", 15017),
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "initialDelaySeconds": 1, "periodSeconds": 3, "timeoutSeconds": 5},
        "resources": values.values.pilot.resources.clone().unwrap_or_else(|| json!({"requests": {"cpu": "50m", "memory": "64Mi"}})),
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": ID, "runAsGroup": ID,
        },
    });
    if !values.pull_policy().is_empty() {
        container["imagePullPolicy"] = values.pull_policy().into();
    }
    let mut pod_labels = labels.clone();
    pod_labels["sidecar.istio.io/inject"] = "false".into();
    pod_labels["istio"] = "pilot".into();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": values.of_revision("istiod"), "namespace": values.namespace(), "labels": labels},
        "spec": {
            "replicas": replicas(values), "selector": {"matchLabels": selector(values)},
            "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": {
                    "prometheus.io/port": "15014", "prometheus.io/scrape": "true", "sidecar.istio.io/inject": "false"}},
                "spec": {"serviceAccountName": values.of_revision("istiod"), "containers": [container]},
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_values_give_the_same_manifest() {
        let values = Values::read([], ["hub=reg.example", "tag=t", "meshConfig.accessLogFile=/dev/stdout"]).unwrap();
        let objects = manifest(&values).unwrap();
        let text = to_yaml(&objects).unwrap();
        assert_eq!(text, to_yaml(&manifest(&values).unwrap()).unwrap());
        let read = istio_api::yaml::parse(&text).unwrap();
        assert_eq!(read.len(), objects.len());
        assert!(read.iter().zip(&objects).all(|(a, b)| a.value == *b), "YAML and objects are the same");
        let istiod = objects.iter().find(|o| o["kind"] == "Deployment").unwrap();
        assert_eq!(istiod.pointer("/spec/template/spec/containers/0/image").unwrap(), "reg.example/meltemi:t");
    }

    #[test]
    fn a_second_revision_shares_nothing_but_kinds_and_namespace() {
        let names = |settings: &[&str]| {
            let objects = manifest(&Values::read([], settings.iter().copied()).unwrap()).unwrap();
            let own = objects.iter().filter(|o| o["kind"] != "CustomResourceDefinition" && o["kind"] != "Namespace");
            own.map(|o| format!("{}/{}", o["kind"], o["metadata"]["name"])).collect::<std::collections::BTreeSet<_>>()
        };
        let (first, second) = (names(&[]), names(&["revision=canary"]));
        assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    }

    #[test]
    fn permissions_name_no_wildcard() {
        let text = to_yaml(&crate::rbac::rbac(&Values::default(), &json!({}))).unwrap();
        assert!(!text.contains('*'), "{text}");
        assert!(!text.contains("delete"), "istiod deletes nothing");
    }
}
