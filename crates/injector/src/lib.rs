//! Adds the sidecar to whatever runs pods.
//!
//! Promise: names, arguments, environment, volumes, labels and annotations are those of Istio's injector. What cannot
//! be honoured is refused by name. This crate knows Kubernetes objects as JSON; it knows no mesh, and reads no files.
//! Two things stay as the user wrote them: probes of the application, and its own `prometheus.io` annotations.

mod annotations;
mod containers;
mod labels;
mod volumes;

use istio_api::yaml;
use serde_json::{Map, Value};

use annotations::Wishes;

/// What the mesh decides for all its pods.
#[derive(Debug, Clone)]
pub struct Options {
    /// Image of both containers that are added.
    pub image: String,
    /// Where proxies find istiod, `HOST:PORT`.
    pub discovery: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Name of the cluster.
    pub cluster: String,
    /// The revision of the control plane, written to `istio.io/rev`.
    pub revision: String,
    /// Namespace of objects that name none.
    pub namespace: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: "meltemi:latest".to_owned(),
            discovery: "istiod.istio-system.svc:15012".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster: "Kubernetes".to_owned(),
            revision: "default".to_owned(),
            namespace: "default".to_owned(),
        }
    }
}

/// Why an object or a text cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A wish of the user that would not be honoured.
    #[error("{object}: annotation {name}: {reason}")]
    Annotation {
        /// `Kind name`.
        object: String,
        /// Its key.
        name: String,
        /// What to do instead.
        reason: String,
    },
    /// The object is not shaped as Kubernetes wants it.
    #[error("{object}: {field} must be {expected}")]
    Shape {
        /// `Kind name`.
        object: String,
        /// Where.
        field: &'static str,
        /// What is wanted.
        expected: &'static str,
    },
    /// The user has a container of the sidecar's name; two of one name make no pod.
    #[error("{object}: the container {name} is the injector's; remove it or give it another name")]
    Container {
        /// `Kind name`.
        object: String,
        /// Its name.
        name: &'static str,
    },
    /// The text is no YAML.
    #[error("line {line}: this is not YAML: {reason}")]
    Yaml {
        /// From 1.
        line: u64,
        /// What the reader says.
        reason: String,
    },
    /// The result cannot be written.
    #[error("the result cannot be written as YAML: {0}")]
    Write(String),
}

/// The object with a sidecar. Objects without pods, on the host's network, already injected, or that say
/// `sidecar.istio.io/inject: "false"` come back as they are; the items of a `List` are injected one by one.
///
/// # Errors
/// An annotation of Istio's that is not supported, or a pod that is none.
pub fn inject(object: &Value, options: &Options) -> Result<Value, Refused> {
    let mut object = object.clone();
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        for item in items {
            *item = inject(item, options)?;
        }
        return Ok(object);
    }
    let owner = Owner::of(&object, options);
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let Some(place) = place_of_pod(text("/kind")) else { return Ok(object) };
    let title = format!("{} {}", text("/kind"), text("/metadata/name"));
    let Some(pod) = object.pointer(place.spec).filter(|pod| pod.is_object()) else {
        return Err(Refused::Shape { object: title, field: place.spec, expected: "a pod's spec" });
    };
    let empty = Value::Object(Map::new());
    let metadata = object.pointer(place.meta).unwrap_or(&empty);
    if stays_out(pod, metadata) {
        return Ok(object);
    }
    if let Some(name) = containers::taken(pod) {
        return Err(Refused::Container { object: title, name });
    }
    let wishes = Wishes::read(&title, metadata)?;
    let containers = containers::both(pod, &owner, &wishes, options);
    let metadata = labels::metadata(metadata, pod, &owner, &wishes, options);
    let shape = |field, expected| Refused::Shape { object: title.clone(), field, expected };
    let pod = object.pointer_mut(place.spec).ok_or_else(|| shape(place.spec, "a pod's spec"))?;
    put(pod, "containers", containers.beside, false).ok_or_else(|| shape("containers", "a list"))?;
    put(pod, "initContainers", containers.before, true).ok_or_else(|| shape("initContainers", "a list"))?;
    put(pod, "volumes", volumes::volumes(), true).ok_or_else(|| shape("volumes", "a list"))?;
    let parent = place.meta.strip_suffix("/metadata").unwrap_or_default();
    let parent = object.pointer_mut(parent).ok_or_else(|| shape("metadata", "an object"))?;
    parent["metadata"] = metadata;
    Ok(object)
}

/// A text of several documents with sidecars. Comments do not survive.
///
/// # Errors
/// The first document that cannot be read or injected.
pub fn kube_inject(text: &str, options: &Options) -> Result<String, Refused> {
    let documents =
        yaml::parse(text).map_err(|error| Refused::Yaml { line: error.place.line, reason: error.reason })?;
    let mut out = String::new();
    for document in documents {
        let injected = inject(&document.value, options)?;
        let text = serde_saphyr::to_string(&injected).map_err(|error| Refused::Write(error.to_string()))?;
        if !out.is_empty() {
            out.push_str("---\n");
        }
        out.push_str(text.trim_start_matches("---\n"));
        if !out.ends_with('\n') {
            out.push('\n');
        }
    }
    Ok(out)
}

/// Where the pod is within the object.
struct Place {
    meta: &'static str,
    spec: &'static str,
}

/// JSON pointers to a kind's pod metadata and spec. For a CronJob the metadata is the Job's: it is where Istio puts it.
fn place_of_pod(kind: &str) -> Option<Place> {
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
    fn of(object: &Value, options: &Options) -> Self {
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

fn stays_out(pod: &Value, metadata: &Value) -> bool {
    let word = |of: &str, key: &str| metadata[of][key].as_str();
    let inject = word("labels", "sidecar.istio.io/inject").or_else(|| word("annotations", "sidecar.istio.io/inject"));
    // Only what is written as a "no" is one: the command was asked to inject.
    let refused = inject.is_some_and(|word| !["true", "y", "yes", "on", "1"].contains(&word.to_lowercase().as_str()));
    let done = word("annotations", "sidecar.istio.io/status").is_some();
    pod["hostNetwork"] == true || refused || done
}

/// Adds to a list of the pod, at its start or its end; `None` when it is there and is no list.
fn put(pod: &mut Value, field: &str, mut new: Vec<Value>, first: bool) -> Option<()> {
    if new.is_empty() {
        return Some(());
    }
    let list = pod.as_object_mut()?.entry(field).or_insert(Value::Null);
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    let list = list.as_array_mut()?;
    if first {
        new.append(list);
        *list = new;
    } else {
        list.append(&mut new);
    }
    Some(())
}
