//! What is analysed: objects with their places, from texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use istio_api::Origin;
use istio_api::yaml::{self, Document, YamlError};
use serde_json::Value;

use crate::message::{Code, Message, codes};

/// One object, of any kind.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub document: Arc<Document>,
    pub file: PathBuf,
}

impl Object {
    fn new(document: Document, file: &Path, default_namespace: &str) -> Self {
        let text = |pointer: &str| text(&document.value, pointer).to_owned();
        let version = text("/apiVersion");
        let kind = text("/kind");
        let given = text("/metadata/namespace");
        let clusterwide = CLUSTER_WIDE.contains(&kind.as_str());
        Self {
            group: version.split_once('/').map_or_else(String::new, |(group, _)| group.to_owned()),
            namespace: if given.is_empty() && !clusterwide { default_namespace.to_owned() } else { given },
            name: text("/metadata/name"),
            kind,
            file: file.to_owned(),
            document: Arc::new(document),
        }
    }

    /// The whole object.
    pub(crate) fn value(&self) -> &Value {
        &self.document.value
    }

    /// Text at a pointer; empty where there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        text(self.value(), pointer)
    }

    /// List at a pointer; empty where there is none.
    pub(crate) fn list(&self, pointer: &str) -> &[Value] {
        list(self.value(), pointer)
    }

    /// A label of the object itself.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.value().pointer("/metadata/labels")?.get(key)?.as_str()
    }

    /// An annotation of the object itself.
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.value().pointer("/metadata/annotations")?.get(key)?.as_str()
    }

    /// `Kind namespace/name`.
    pub(crate) fn title(&self) -> String {
        if self.namespace.is_empty() {
            format!("{} {}", self.kind, self.name)
        } else {
            format!("{} {}/{}", self.kind, self.namespace, self.name)
        }
    }

    /// A finding about the value at a pointer.
    pub(crate) fn message(&self, code: Code, pointer: &str, text: impl Into<String>) -> Message {
        let place = self.document.place(pointer);
        Message {
            code,
            resource: self.title(),
            namespace: if self.kind == "Namespace" { self.name.clone() } else { self.namespace.clone() },
            text: text.into(),
            origin: Some(Origin { file: self.file.clone(), line: place.line, column: place.column }),
        }
    }
}

const CLUSTER_WIDE: [&str; 6] = [
    "Namespace",
    "Node",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ClusterRole",
    "ClusterRoleBinding",
];

/// Text at a pointer; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// List at a pointer; empty where there is none.
pub(crate) fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// All texts of a list at a pointer.
pub(crate) fn texts<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v str> {
    list(value, pointer).iter().filter_map(Value::as_str)
}

/// Everything that is analysed together.
#[derive(Debug, Default)]
pub struct Input {
    pub(crate) objects: Vec<Object>,
    pub(crate) unreadable: Vec<Message>,
    pub(crate) mesh_config: Value,
    pub(crate) mesh_networks: Option<Object>,
}

impl Input {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the objects of a text. Objects without a namespace get `default_namespace`. A text that is no YAML becomes
    /// a finding.
    pub fn add_text(&mut self, file: &Path, text: &str, default_namespace: &str) {
        let documents = match yaml::parse(text) {
            Ok(documents) => documents,
            Err(error) => {
                self.unreadable.push(unreadable(format!("File {}", file.display()), file, &error));
                return;
            }
        };
        for document in documents {
            let items = document.value.get("items").and_then(Value::as_array).map(Vec::len);
            match items.filter(|_| document.value["kind"] == "List") {
                Some(count) => {
                    let parts = (0..count).filter_map(|i| document.part(&format!("/items/{i}")));
                    self.objects.extend(parts.map(|part| Object::new(part, file, default_namespace)));
                }
                None => self.objects.push(Object::new(document, file, default_namespace)),
            }
        }
        if let Some(config) = self.mesh_config_of_map() {
            self.mesh_config = config;
        }
        if let Some(networks) = self.mesh_networks_of_map() {
            self.mesh_networks = Some(networks);
        }
    }

    /// Adds an object that stands in no text, such as one of a cluster.
    pub fn add_object(&mut self, value: Value) {
        let mut object = Object::new(Document::bare(value), Path::new(""), "default");
        object.file = PathBuf::from(object.title());
        self.objects.push(object);
    }

    /// The mesh configuration as a value.
    pub fn set_mesh_config(&mut self, config: Value) {
        self.mesh_config = config;
    }

    /// Adds a `MeshConfig` given as a text of its own; one that cannot be read becomes a finding.
    pub fn add_mesh_config(&mut self, file: &Path, text: &str) {
        match yaml::parse(text) {
            Ok(documents) => self.mesh_config = documents.into_iter().next().unwrap_or_default().value,
            Err(error) => self.unreadable.push(unreadable("MeshConfig".to_owned(), file, &error)),
        }
    }

    /// Adds `MeshNetworks` given as a text of its own; what cannot be read becomes a finding.
    pub fn add_mesh_networks(&mut self, file: &Path, text: &str) {
        match yaml::parse(text) {
            Ok(documents) => self.mesh_networks = documents.into_iter().next().map(|d| networks(d, file)),
            Err(error) => self.unreadable.push(unreadable("MeshNetworks".to_owned(), file, &error)),
        }
    }

    /// Whether an object of this kind, namespace and name was added.
    pub fn contains(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.objects.iter().any(|o| o.kind == kind && o.namespace == namespace && o.name == name)
    }

    fn mesh_networks_of_map(&self) -> Option<Object> {
        let map = self.objects.iter().rev().find(|o| o.kind == "ConfigMap" && o.name == "istio")?;
        let document = yaml::parse(map.text("/data/meshNetworks")).ok()?.into_iter().next()?;
        Some(networks(document, &map.file))
    }

    fn mesh_config_of_map(&self) -> Option<Value> {
        let map = self.objects.iter().rev().find(|o| o.kind == "ConfigMap" && o.name == "istio")?;
        yaml::parse(map.text("/data/mesh")).ok()?.into_iter().next().map(|d| d.value)
    }
}

/// The networks of a mesh as an object: they are a file or a ConfigMap's entry, and have no name of their own.
fn networks(document: Document, file: &Path) -> Object {
    Object {
        group: String::new(),
        kind: "MeshNetworks".to_owned(),
        namespace: "istio-system".to_owned(),
        name: "meshnetworks".to_owned(),
        document: Arc::new(document),
        file: file.to_owned(),
    }
}

fn unreadable(resource: String, file: &Path, error: &YamlError) -> Message {
    Message {
        code: codes::SCHEMA_VALIDATION_ERROR,
        resource,
        namespace: String::new(),
        text: format!("this is not YAML: {}", error.reason),
        origin: Some(Origin { file: file.to_owned(), line: error.place.line, column: error.place.column }),
    }
}
