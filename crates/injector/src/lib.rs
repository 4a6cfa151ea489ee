//! Adds the sidecar to whatever runs pods.
//!
//! Promise: names, arguments, environment, volumes, labels and annotations are those of Istio's injector
//! (docs/injection.md has the differences). What the image's agent cannot do is refused by name. This crate knows
//! Kubernetes objects as JSON; it knows no mesh, and reads no files.

mod annotations;
mod containers;
mod merge;
mod metadata;
mod options;
mod owner;
mod probes;
mod templates;
mod volumes;

use std::collections::BTreeMap;

use istio_api::yaml;
use serde_json::{Map, Value, json};

pub use options::{Abilities, Capture, Options, Readiness};

use annotations::Wishes;
use containers::PROXY;
use owner::{Owner, place_of_pod};
use templates::Addition;

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
    /// A setting of the mesh that the image would not hold to.
    #[error("{object}: {setting}: {reason}")]
    Setting {
        /// `Kind name`.
        object: String,
        /// Its name in the injector's values.
        setting: &'static str,
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
/// A wish that would not be honoured, or a pod that is none.
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
    let shape = |field, expected| Refused::Shape { object: title.clone(), field, expected };
    let Some(pod) = object.pointer(place.spec).filter(|pod| pod.is_object()) else {
        return Err(shape(place.spec, "a pod's spec"));
    };
    let empty = Value::Object(Map::new());
    let metadata = object.pointer(place.meta).unwrap_or(&empty);
    if stays_out(pod, metadata) {
        return Ok(object);
    }
    for field in ["containers", "initContainers", "volumes"] {
        if pod.get(field).is_some_and(|list| !list.is_array() && !list.is_null()) {
            return Err(shape(field, "a list"));
        }
    }
    let wishes = Wishes::read(&title, &owner.namespace, metadata, options)?;
    let (metadata, pod) = injected(metadata, pod, &owner, &wishes).map_err(|reason| Refused::Annotation {
        object: title.clone(),
        name: "inject.istio.io/templates".to_owned(),
        reason,
    })?;
    *object.pointer_mut(place.spec).ok_or_else(|| shape(place.spec, "a pod's spec"))? = pod;
    let parent = place.meta.strip_suffix("/metadata").unwrap_or_default();
    let parent = object.pointer_mut(parent).ok_or_else(|| shape("metadata", "an object"))?;
    parent["metadata"] = metadata;
    Ok(object)
}

/// What each template adds to a pod without wishes of its own, as YAML: Istio's templates, which are code here, and those
/// of the user as they are written. What the image cannot do says so in its place.
pub fn templates(options: &Options) -> BTreeMap<String, String> {
    let pod = json!({"containers": [{"name": "app"}]});
    let object = json!({"kind": "Pod", "metadata": {"name": "app"}, "spec": pod});
    let owner = Owner::of(&object, options);
    let of = |name: &str| -> Result<String, String> {
        let metadata = json!({"annotations": {"inject.istio.io/templates": name}});
        let wishes = Wishes::read("Pod app", &owner.namespace, &metadata, options).map_err(|e| e.to_string())?;
        let (metadata, spec) = injected(&json!({}), &pod, &owner, &wishes)?;
        serde_saphyr::to_string(&json!({"metadata": metadata, "spec": spec})).map_err(|e| e.to_string())
    };
    let built_in = templates::NAMES.iter().map(|name| {
        let text = of(name).unwrap_or_else(|reason| format!("# refused: {reason}\n"));
        ((*name).to_owned(), text)
    });
    let own = options.templates.iter().map(|(name, text)| (name.clone(), text.clone()));
    built_in.chain(own).collect()
}

/// Metadata and spec of the pod with all its templates.
fn injected(metadata: &Value, pod: &Value, owner: &Owner, wishes: &Wishes) -> Result<(Value, Value), String> {
    let mut all = Addition::default();
    let mut taken: Vec<&str> = Vec::new();
    for name in &wishes.templates {
        if !taken.contains(&name.as_str()) {
            taken.push(name);
            join(&mut all, templates::addition(name, pod, owner, wishes)?);
        }
    }
    let mut pod = pod.clone();
    let overrides = place(&mut pod, &all, wishes.hold);
    let secrets: Vec<Value> = wishes.options.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    let mut spec = Map::from_iter([("volumes".to_owned(), Value::Array(all.volumes.clone()))]);
    if !secrets.is_empty() {
        spec.insert("imagePullSecrets".to_owned(), secrets.into());
    }
    spec.extend(all.spec.clone());
    // What the user wrote stands above what a template says.
    let mut base = Value::Object(spec);
    merge::over(&mut base, &pod);
    let metadata = metadata::metadata(metadata, &mut base, &all, &overrides, owner, wishes);
    Ok((metadata, base))
}

/// Adds one template's additions to those of others.
fn join(all: &mut Addition, new: Addition) {
    let put = |old: &mut Vec<Value>, new: Vec<Value>, field: &str| {
        let mut base = json!({ field: std::mem::take(old) });
        merge::over(&mut base, &json!({ field: new }));
        *old = base[field].as_array_mut().map(std::mem::take).unwrap_or_default();
    };
    put(&mut all.before, new.before, "initContainers");
    put(&mut all.beside, new.beside, "containers");
    put(&mut all.volumes, new.volumes, "volumes");
    all.labels.extend(new.labels);
    all.annotations.extend(new.annotations);
    let mut spec = Value::Object(std::mem::take(&mut all.spec));
    merge::over(&mut spec, &Value::Object(new.spec));
    if let Value::Object(spec) = spec {
        all.spec = spec;
    }
}

/// Puts the containers into the pod; the user's of the same names stand above them, and come back for the record.
fn place(pod: &mut Value, all: &Addition, hold: bool) -> Map<String, Value> {
    let mut list = |field: &str| pod[field].as_array_mut().map(std::mem::take).unwrap_or_default();
    let (mut init, mut containers) = (list("initContainers"), list("containers"));
    let mut record: Map<String, Value> = Map::new();
    let mut keep = |field: &str, users: &Value| {
        let entry = record.entry(field).or_insert_with(|| json!([]));
        let mut kept = users.clone();
        if kept.get("resources").is_none() {
            kept["resources"] = json!({});
        }
        if let Some(entry) = entry.as_array_mut() {
            entry.push(kept);
        }
    };
    let mut before = Vec::new();
    for template in &all.before {
        let mut container = template.clone();
        let own = |list: &mut Vec<Value>| {
            let at = list.iter().position(|c| c["name"] == template["name"])?;
            Some(list.remove(at))
        };
        if let Some(users) = own(&mut init).or_else(|| own(&mut containers)).map(without_auto) {
            keep("initContainers", &users);
            merge::over(&mut container, &users);
        }
        before.push(container);
    }
    for template in &all.beside {
        let mut container = template.clone();
        match containers.iter_mut().find(|c| c["name"] == template["name"]) {
            Some(users) => {
                let own = without_auto(users.take());
                keep("containers", &own);
                merge::over(&mut container, &own);
                *users = container;
            }
            None if hold && template["name"] == PROXY => containers.insert(0, container),
            None => containers.push(container),
        }
    }
    before.append(&mut init);
    if !before.is_empty() {
        pod["initContainers"] = before.into();
    }
    pod["containers"] = containers.into();
    record
}

/// The image `auto` stands for the injector's.
fn without_auto(mut container: Value) -> Value {
    if container["image"] == "auto"
        && let Some(map) = container.as_object_mut()
    {
        map.shift_remove("image");
    }
    container
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

fn stays_out(pod: &Value, metadata: &Value) -> bool {
    let word = |of: &str, key: &str| metadata[of][key].as_str();
    let inject = word("labels", "sidecar.istio.io/inject").or_else(|| word("annotations", "sidecar.istio.io/inject"));
    // Only what is written as a "no" is one: the command was asked to inject.
    let refused = inject.is_some_and(|word| !["true", "y", "yes", "on", "1"].contains(&word.to_lowercase().as_str()));
    let done = word("annotations", "sidecar.istio.io/status").is_some();
    pod["hostNetwork"] == true || refused || done
}
