//! What is known of the cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use istio_api::yaml::Document;
use istio_api::{Origin, Resource};
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use mesh::Snapshot;
use serde_json::Value;
use sources::{Loaded, Problem};

use crate::kind::Kind;
use crate::slim::slim;

/// Namespace and name.
type Key = (String, String);

/// An object: its last good version, and what is wrong with the newest.
#[derive(Debug, PartialEq)]
struct Kept {
    good: Option<Resource>,
    problems: Vec<Problem>,
}

/// The objects of one kind.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    objects: BTreeMap<Key, Kept>,
    /// A list under way; it replaces the objects when it is complete.
    listed: Option<BTreeMap<Key, Kept>>,
    /// A list was complete once.
    pub(crate) synced: bool,
}

impl Objects {
    /// Takes in what the server says; whether anything is different now.
    pub(crate) fn take(&mut self, kind: &Kind, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let (key, kept) = read(kind, object, |key| self.objects.get(key));
                self.listed.get_or_insert_default().insert(key, kept);
                false
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let news = !self.synced || listed != self.objects;
                self.objects = listed;
                self.synced = true;
                news
            }
            Event::Apply(object) => {
                let (key, kept) = read(kind, object, |key| self.objects.get(key));
                let news = self.objects.get(&key) != Some(&kept);
                self.objects.insert(key, kept);
                news
            }
            Event::Delete(object) => {
                let meta = object.metadata;
                let key = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                self.objects.remove(&key).is_some()
            }
        }
    }
}

fn read<'a>(kind: &Kind, object: DynamicObject, former: impl Fn(&Key) -> Option<&'a Kept>) -> (Key, Kept) {
    let meta = &object.metadata;
    let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let title = title(kind.kind, &key.0, &key.1);
    let problem = |reason: String| Problem { file: PathBuf::from(title.clone()), line: 0, column: 0, reason };
    let mut value = serde_json::to_value(object).unwrap_or_default();
    // Objects in a list do not say what they are.
    let group = if kind.group.is_empty() { String::new() } else { format!("{}/", kind.group) };
    if value["kind"].is_null() {
        let version = kind.versions.first().copied().unwrap_or("v1");
        value["kind"] = kind.kind.into();
        value["apiVersion"] = format!("{group}{version}").into();
    }
    slim(kind.kind, &mut value);
    if kind.kind == "ConfigMap" {
        // Another revision's has its name behind it.
        value["metadata"]["name"] = "istio".into();
    }
    let last_good = || former(&key).and_then(|kept| kept.good.clone());
    let kept = match istio_api::read(&Document::bare(value), "") {
        Ok(good) => Kept { good, problems: Vec::new() },
        Err(errors) => {
            let words = |e: istio_api::validate::FieldError| {
                let field = e.pointer.trim_start_matches('/').replace('/', ".");
                problem(if field.is_empty() { e.message } else { format!("{field}: {}", e.message) })
            };
            Kept { good: last_good(), problems: errors.into_iter().map(words).collect() }
        }
    };
    (key, kept)
}

fn title(kind: &str, namespace: &str, name: &str) -> String {
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") }
}

/// Everything known as one mesh.
pub(crate) fn assemble<'a>(all: impl Iterator<Item = &'a Objects>) -> Loaded {
    let mut resources: Vec<(Resource, Origin)> = Vec::new();
    let mut problems = Vec::new();
    for kept in all.flat_map(|objects| objects.objects.values()) {
        problems.extend(kept.problems.iter().cloned());
        if let Some(resource) = &kept.good {
            let (kind, namespace, name) = resource.key();
            let file = PathBuf::from(title(&kind, &namespace, &name));
            resources.push((resource.clone(), Origin { file, line: 0, column: 0 }));
        }
    }
    Loaded {
        snapshot: Snapshot::of_cluster(resources.iter().map(|(r, _)| r)),
        resources: Arc::new(resources),
        problems: Arc::new(problems),
    }
}

/// A value of an object's data, for the few objects that are read as they are.
pub(crate) fn data<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["data"][key].as_str()
}
