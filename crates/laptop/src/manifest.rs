//! The Kubernetes objects of a directory, as the laptop's kubelet and controllers need them.
//!
//! Only Kubernetes kinds are looked at, and what decides how a sidecar starts; the rest belongs to istiod, which reads the
//! same files and judges them. A file that
//! cannot be read keeps its last good objects.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use istio_api::yaml::Document;
use istio_api::{Resource, extensions, mesh};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Namespace, Service, Workload};

/// The largest file that is read; Kubernetes itself stores no object above 1.5 MiB.
const MAX_FILE: u64 = 1 << 20;
/// The deepest folder that is entered.
const MAX_DEPTH: usize = 8;
/// A file that never rests is read all the same after this many looks.
const PATIENCE: u32 = 5;

/// When a file was last changed, its size and its inode: what tells whether it must be read again.
type Stamp = (SystemTime, u64, u64);

/// Something in a file that cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Counted from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Counted from 1; 0 when unknown.
    pub column: u64,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column.max(1))?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What is wanted, from all files together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// By name; also those that are only used by other objects.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Those of them that have an object of their own.
    pub written_namespaces: BTreeSet<String>,
    /// By namespace and name.
    pub workloads: BTreeMap<(String, String), Workload>,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), Service>,
    /// The mesh's configuration.
    pub mesh: mesh::MeshConfig,
    /// Settings of proxies.
    pub proxy_configs: Vec<std::sync::Arc<istio_api::Object<extensions::ProxyConfig>>>,
}

/// Reads the files again and again, and remembers the last good content of each.
pub struct Manifests {
    roots: Vec<PathBuf>,
    default_namespace: String,
    files: BTreeMap<PathBuf, File>,
    /// What the last look saw; nothing before the first.
    seen: Option<BTreeMap<PathBuf, Stamp>>,
    /// How many looks in a row a file was seen changing.
    restless: BTreeMap<PathBuf, u32>,
}

struct File {
    stamp: Stamp,
    objects: Vec<Object>,
    problems: Vec<Problem>,
}

/// One document.
#[derive(Clone, Debug)]
struct Object {
    kind: String,
    line: u64,
    value: Value,
}

impl Manifests {
    /// Over these files and folders; objects without a namespace belong to `default_namespace`.
    pub fn new(roots: Vec<PathBuf>, default_namespace: &str) -> Self {
        Self {
            roots,
            default_namespace: default_namespace.to_owned(),
            files: BTreeMap::new(),
            seen: None,
            restless: BTreeMap::new(),
        }
    }

    /// Looks whether any file has come, gone or changed, and reads those. True when something did.
    ///
    /// A change counts when two looks in a row have seen the same: an editor truncates a file, or moves it away, before it
    /// writes it, and half a file (or none) must not be taken for the user's wish. The first look takes what is there.
    pub fn refresh(&mut self) -> bool {
        let mut found = BTreeMap::new();
        for root in &self.roots {
            find(root, 0, &mut found);
        }
        let seen = self.seen.replace(found.clone());
        let stamp_of = |path: &PathBuf| self.files.get(path).map(|file| file.stamp);
        let differ = self.files.keys().chain(found.keys()).filter(|path| stamp_of(path) != found.get(*path).copied());
        let differ: BTreeSet<PathBuf> = differ.cloned().collect();
        self.restless.retain(|path, _| differ.contains(path));
        let mut changed = false;
        for path in differ {
            let stamp = found.get(&path).copied();
            let looks = self.restless.entry(path.clone()).or_default();
            *looks += 1;
            let rests = seen.as_ref().is_none_or(|seen| seen.get(&path).copied() == stamp);
            if (rests || *looks > PATIENCE) && self.take_over(&path, stamp) {
                self.restless.remove(&path);
                changed = true;
            }
        }
        changed
    }

    /// Reads one file, or forgets one that is gone. False when it was written to meanwhile: the next look tells more.
    fn take_over(&mut self, path: &Path, stamp: Option<Stamp>) -> bool {
        let Some(stamp) = stamp else { return self.files.remove(path).is_some() };
        let content = read(path, stamp.1);
        if std::fs::metadata(path).ok().map(|meta| stamp_of(&meta)) != Some(stamp) {
            return false;
        }
        let file = match content {
            Ok(objects) => File { stamp, objects, problems: Vec::new() },
            Err(problem) => {
                let kept = self.files.remove(path).map(|file| file.objects).unwrap_or_default();
                File { stamp, objects: kept, problems: vec![problem] }
            }
        };
        self.files.insert(path.to_owned(), file);
        true
    }

    /// What the files ask for, and what in them cannot be used.
    pub fn desired(&self) -> (Desired, Vec<Problem>) {
        let mut desired = Desired::default();
        let mut problems = Vec::new();
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for object in &file.objects {
                if let Err(reason) = self.take(object, &mut desired) {
                    problems.push(Problem { file: path.clone(), line: object.line, column: 1, reason });
                }
            }
        }
        let used: Vec<String> = desired.workloads.keys().chain(desired.services.keys()).map(|k| k.0.clone()).collect();
        for name in used {
            desired.namespaces.entry(name).or_default();
        }
        (desired, problems)
    }

    fn take(&self, object: &Object, desired: &mut Desired) -> Result<(), String> {
        let value = &object.value;
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(format!("a {} without metadata.name", object.kind));
        }
        let namespace = value.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(&self.default_namespace);
        let key = (namespace.to_owned(), name.clone());
        let twice = |kind: &str| format!("{kind} {}/{} is defined twice; the first one stays", key.0, key.1);
        match object.kind.as_str() {
            "Namespace" => {
                desired.namespaces.insert(name.clone(), Namespace::parse(value)?);
                desired.written_namespaces.insert(name);
            }
            "Deployment" | "Pod" => {
                let workload = Workload::parse(&object.kind, &key.0, &name, value)?;
                if desired.workloads.contains_key(&key) {
                    return Err(twice(&object.kind));
                }
                desired.workloads.insert(key, workload);
            }
            "Service" => {
                let service = Service::parse(&key.0, &name, value)?;
                if desired.services.contains_key(&key) {
                    return Err(twice("Service"));
                }
                desired.services.insert(key, service);
            }
            // Only for what sidecars are told when they start; istiod judges these.
            "ConfigMap" | "ProxyConfig" => {
                match istio_api::read(&Document::bare(value.clone()), &self.default_namespace) {
                    Ok(Some(Resource::MeshConfig(config))) => desired.mesh = config.spec.clone(),
                    Ok(Some(Resource::ProxyConfig(config))) => desired.proxy_configs.push(config),
                    _ => {}
                }
            }
            "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "CronJob" => {
                return Err(format!("{} {name}: the laptop mesh runs only Deployments and Pods", object.kind));
            }
            _ => {}
        }
        Ok(())
    }
}

fn stamp_of(meta: &std::fs::Metadata) -> Stamp {
    (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), meta.ino())
}

fn find(path: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    if meta.is_file() {
        found.insert(path.to_owned(), stamp_of(&meta));
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if yaml || (path.is_dir() && depth < MAX_DEPTH) {
            find(&path, depth + 1, found);
        }
    }
}

fn read(path: &Path, size: u64) -> Result<Vec<Object>, Problem> {
    let problem = |line, column, reason| Problem { file: path.to_owned(), line, column, reason };
    if size > MAX_FILE {
        return Err(problem(0, 0, format!("{size} bytes; files above {MAX_FILE} bytes are not read")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| problem(0, 0, e.to_string()))?;
    let mut objects = Vec::new();
    for (line, document) in documents(&text) {
        let value: Value = parse(document).map_err(|(at, column, reason)| problem(line + at, column, reason))?;
        flatten(value, line + 1, &mut objects).map_err(|reason| problem(line + 1, 1, reason))?;
    }
    Ok(objects)
}

/// The documents of a file, each with the number of lines before it.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut all = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in (0_u64..).zip(text.split_inclusive('\n')) {
        let end = offset + line.len();
        if line.trim_end() == "---" || line.starts_with("--- ") {
            all.push((start_line, text.get(start..offset).unwrap_or_default()));
            (start, start_line) = (end, number + 1);
        }
        offset = end;
    }
    all.push((start_line, text.get(start..).unwrap_or_default()));
    all.retain(|(_, document)| document.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    all
}

fn parse(document: &str) -> Result<Value, (u64, u64, String)> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |l| (l.line(), l.column()));
        let text = error.without_snippet().to_string();
        (line, column, text.lines().next().unwrap_or_default().to_owned())
    })
}

/// Takes the items out of a `List`.
fn flatten(value: Value, line: u64, objects: &mut Vec<Object>) -> Result<(), String> {
    let Some(kind) = value.get("kind").and_then(Value::as_str).map(str::to_owned) else {
        return Err("not a Kubernetes object: it has no `kind`".to_owned());
    };
    if kind != "List" {
        objects.push(Object { kind, line, value });
        return Ok(());
    }
    match value {
        Value::Object(mut fields) => match fields.remove("items") {
            Some(Value::Array(items)) => items.into_iter().try_for_each(|item| flatten(item, line, objects)),
            _ => Err("a List without `items`".to_owned()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
