//! The objects that a cluster's own parts would write: Pods with addresses and conditions, Services with cluster IPs.
//!
//! istiod reads them as an overlay over the user's files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::{Service, Template};
use crate::paths::write_atomic;

/// A pod as the API server would show it.
#[derive(Debug)]
pub struct PodView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The Deployment, and the hash of its ReplicaSet; `None` for a bare pod.
    pub owner: Option<(&'a str, &'a str)>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// What it was made from.
    pub template: &'a Template,
    /// Its address, once it has one.
    pub address: Option<Ipv4Addr>,
    /// Gets traffic.
    pub ready: bool,
    /// Is to end.
    pub terminating: bool,
    /// Has a sidecar.
    pub injected: bool,
    /// When it was made.
    pub created: SystemTime,
}

/// Labels of a pod: the template's, and those that Kubernetes and the injector add.
pub fn pod_labels(template: &Template, hash: Option<&str>, owner: &str, injected: bool) -> BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    if let Some(hash) = hash {
        labels.insert("pod-template-hash".to_owned(), hash.to_owned());
    }
    if injected {
        let mut add = |key: &str, value: String| {
            labels.entry(key.to_owned()).or_insert(value);
        };
        add("security.istio.io/tlsMode", "istio".to_owned());
        let named = ["app.kubernetes.io/name", "app"].iter().find_map(|k| template.labels.get(*k));
        add("service.istio.io/canonical-name", named.cloned().unwrap_or_else(|| owner.to_owned()));
        let revision = ["app.kubernetes.io/version", "version"].iter().find_map(|k| template.labels.get(*k));
        add("service.istio.io/canonical-revision", revision.cloned().unwrap_or_else(|| "latest".to_owned()));
    }
    labels
}

/// A Pod object.
pub fn pod(view: &PodView<'_>) -> Value {
    let created = rfc3339(view.created);
    let mut metadata = json!({
        "name": view.name,
        "namespace": view.namespace,
        "uid": format!("{:016x}", xxhash_rust::xxh64::xxh64(format!("{}/{}", view.namespace, view.name).as_bytes(), 1)),
        "labels": view.labels,
        "annotations": view.template.annotations,
        "creationTimestamp": created,
    });
    if let Some((workload, hash)) = view.owner {
        metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{workload}-{hash}"), "controller": true}]);
    }
    if view.terminating {
        metadata["deletionTimestamp"] = created.clone().into();
    }
    let mut spec = view.template.spec.clone();
    spec["nodeName"] = "laptop".into();
    spec["serviceAccountName"] = view.template.service_account.clone().into();
    if let (true, Some(containers)) = (view.injected, spec["containers"].as_array_mut()) {
        containers.push(json!({"name": crate::sidecar::CONTAINER, "image": "meltemi"}));
        metadata["annotations"]["sidecar.istio.io/status"] = r#"{"containers":["istio-proxy"]}"#.into();
    }
    let ready = if view.ready { "True" } else { "False" };
    let mut status = json!({
        "phase": if view.ready { "Running" } else { "Pending" },
        "hostIP": crate::address::GATEWAY,
        "startTime": created,
        "conditions": [
            {"type": "Ready", "status": ready},
            {"type": "ContainersReady", "status": ready},
        ],
    });
    if let Some(address) = view.address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{"ip": address}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

/// The user's Service with its cluster IP and its namespace filled in.
pub fn service(service: &Service, address: Option<Ipv4Addr>) -> Value {
    let mut value = service.value.clone();
    value["metadata"]["namespace"] = service.namespace.clone().into();
    if let Some(address) = address {
        value["spec"]["clusterIP"] = json!(address);
        value["spec"]["clusterIPs"] = json!([address]);
    }
    value
}

/// A Namespace object for one that is used and not written down.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).replace_nanosecond(0).ok().and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_default()
}

/// The folder of objects: writes what has changed, removes what is gone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    written: BTreeMap<String, String>,
}

impl Folder {
    /// An empty folder at `path`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(path: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        Ok(Self { path, written: BTreeMap::new() })
    }

    /// Makes the folder hold exactly these objects, by file name without the ending.
    ///
    /// Objects that come or change are written before others are removed.
    ///
    /// # Errors
    /// What the file system says; the next call tries again.
    pub fn hold(&mut self, objects: &BTreeMap<String, Value>) -> std::io::Result<()> {
        for (name, object) in objects {
            let text = object.to_string();
            if self.written.get(name) != Some(&text) {
                write_atomic(&self.path.join(format!("{name}.json")), text.as_bytes())?;
                self.written.insert(name.clone(), text);
            }
        }
        let gone: BTreeSet<String> = self.written.keys().filter(|n| !objects.contains_key(*n)).cloned().collect();
        for name in gone {
            match std::fs::remove_file(self.path.join(format!("{name}.json"))) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => self.written.remove(&name),
            };
        }
        Ok(())
    }
}
