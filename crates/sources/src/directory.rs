//! Several paths as one set of resources.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use istio_api::{Origin, Resource};
use mesh::Snapshot;

use crate::file;

/// Files of one source; more are a mistake.
const MAX_FILES: usize = 10_000;

/// A refused piece of configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file; for an object of a cluster `Kind namespace/name`.
    pub file: PathBuf,
    /// From 1; 0 for an object of a cluster.
    pub line: u64,
    /// From 1; 0 for an object of a cluster.
    pub column: u64,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}: {}", self.file.display(), self.reason);
        }
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.reason)
    }
}

/// What a source holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The mesh made of it.
    pub snapshot: Snapshot,
    /// All resources in force, with their places.
    pub resources: Arc<Vec<(Resource, Origin)>>,
    /// What was refused.
    pub problems: Arc<Vec<Problem>>,
}

/// When a file was last changed, its size and its inode (an atomic rename brings another one): what tells whether it
/// must be read again.
pub(crate) type Stamp = (Option<SystemTime>, u64, u64);

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    good: Vec<(Resource, Origin)>,
    problems: Vec<Problem>,
}

/// Directories (or files) of YAML, read as one.
#[derive(Debug)]
pub struct Directory {
    paths: Vec<PathBuf>,
    overlay: Vec<PathBuf>,
    namespace: String,
    files: BTreeMap<PathBuf, Kept>,
}

impl Directory {
    /// A source over some paths; objects without a namespace get `namespace`.
    pub fn new(paths: Vec<PathBuf>, namespace: &str) -> Self {
        Self { paths, overlay: Vec::new(), namespace: namespace.to_owned(), files: BTreeMap::new() }
    }

    /// Adds a path whose objects replace those of the same kind, namespace and name.
    #[must_use]
    pub fn with_overlay(mut self, path: PathBuf) -> Self {
        self.overlay.push(path);
        self
    }

    /// All paths to watch.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.paths.iter().chain(&self.overlay)
    }

    /// All files with their stamps: equal to an earlier answer, unless something was written in between.
    pub(crate) fn stamps(&self) -> Vec<(PathBuf, Stamp)> {
        let mut found = Vec::new();
        self.paths().for_each(|path| list(path, &mut found));
        found.into_iter().map(|path| (path.clone(), stamp_of(&path))).collect()
    }

    /// Whether these are the stamps of what was last read.
    pub(crate) fn has(&self, stamps: &[(PathBuf, Stamp)]) -> bool {
        stamps.len() == self.files.len() && stamps.iter().all(|(p, s)| self.files.get(p).is_some_and(|k| k.stamp == *s))
    }

    /// Whether a file that had content is empty now: whoever truncates a file is about to write it.
    pub(crate) fn is_truncated(&self, stamps: &[(PathBuf, Stamp)]) -> bool {
        stamps.iter().any(|(p, s)| s.1 == 0 && self.files.get(p).is_some_and(|k| k.stamp.1 > 0))
    }

    /// Reads what has changed since the last time; `None` when nothing has.
    pub fn refresh(&mut self) -> Option<Loaded> {
        let found = self.stamps();
        self.read(found)
    }

    /// Reads the files that have these stamps and are not read yet; one that is written to meanwhile stays as it was.
    pub(crate) fn read(&mut self, found: Vec<(PathBuf, Stamp)>) -> Option<Loaded> {
        let present: HashSet<&PathBuf> = found.iter().map(|(path, _)| path).collect();
        let before = self.files.len();
        self.files.retain(|path, _| present.contains(path));
        let mut changed = self.files.len() != before;
        for (path, stamp) in found {
            if self.files.get(&path).is_some_and(|k| k.stamp == stamp) {
                continue;
            }
            let content = file::read(&path, &self.namespace);
            if stamp_of(&path) != stamp {
                continue;
            }
            changed = true;
            let former = self.files.remove(&path).map(|k| k.good).unwrap_or_default();
            let kept = match content {
                Ok(good) => Kept { stamp, good, problems: Vec::new() },
                Err(problems) => Kept { stamp, good: former, problems },
            };
            self.files.insert(path, kept);
        }
        changed.then(|| self.assemble())
    }

    fn assemble(&self) -> Loaded {
        let mut taken: HashMap<(String, String, String), Origin> = HashMap::new();
        let mut resources: Vec<(Resource, Origin)> = Vec::new();
        let mut problems: Vec<Problem> = self.files.values().flat_map(|k| k.problems.clone()).collect();
        let (over, under): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|(path, _)| self.overlay.iter().any(|o| path.starts_with(o)));
        let over_keys: Vec<_> = over.iter().flat_map(|(_, k)| k.good.iter().map(|(r, _)| r.key())).collect();
        for (resource, origin) in under.iter().flat_map(|(_, k)| &k.good) {
            if over_keys.contains(&resource.key()) {
                continue;
            }
            let (kind, namespace, name) = resource.key();
            if let Some(first) = taken.get(&resource.key()) {
                let reason = format!("{kind} {namespace}/{name} is there already, at {first}; this one is passed over");
                problems.push(Problem { file: origin.file.clone(), line: origin.line, column: origin.column, reason });
                continue;
            }
            taken.insert(resource.key(), origin.clone());
            resources.push((resource.clone(), origin.clone()));
        }
        resources.extend(over.iter().flat_map(|(_, k)| k.good.iter().cloned()));
        Loaded {
            snapshot: Snapshot::build(resources.iter().map(|(r, _)| r)),
            resources: Arc::new(resources),
            problems: Arc::new(problems),
        }
    }
}

fn stamp_of(path: &Path) -> Stamp {
    std::fs::metadata(path).map_or((None, 0, 0), |m| (m.modified().ok(), m.len(), m.ino()))
}

fn list(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
        if entry.is_dir() && !hidden {
            list(&entry, found);
        } else if file::is_config(&entry) && found.len() < MAX_FILES {
            found.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: pay}\nspec: {ports: [{name: http, port: 80}]}\n";

    fn rule(host: &str) -> String {
        format!("apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: pay}}\nspec:\n  {host}\n")
    }

    #[test]
    fn a_bad_edit_is_reported_and_the_last_good_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", SERVICE);
        write("b.yaml", &rule("host: pay"));
        let mut source = Directory::new(vec![folder.path().to_owned()], "prod");
        let loaded = source.refresh().unwrap();
        assert!(loaded.problems.is_empty());
        let host = "pay.prod.svc.cluster.local";
        assert!(loaded.snapshot.destination_rule_for(host, "prod", &Default::default()).is_some());
        assert!(source.refresh().is_none(), "nothing has changed");

        for (bad, line, reason) in [
            ("hosst: pay", 5, "did you mean \"host\""),
            ("host: [pay]", 5, "spec.host"),
            ("host: {", 6, ""),
            ("host: ''", 5, "needs a host"),
        ] {
            write("b.yaml", &rule(bad));
            let loaded = source.refresh().unwrap();
            let problem = &loaded.problems[0];
            assert!(problem.reason.contains(reason), "{problem}");
            assert!(problem.line.abs_diff(line) <= 1, "{bad}: {problem}");
            assert!(
                loaded.snapshot.destination_rule_for(host, "prod", &Default::default()).is_some(),
                "{bad}: the last good one stays"
            );
        }
        std::fs::remove_file(folder.path().join("b.yaml")).unwrap();
        let loaded = source.refresh().unwrap();
        assert!(loaded.problems.is_empty());
        assert!(
            loaded.snapshot.destination_rule_for(host, "prod", &Default::default()).is_none(),
            "a deleted file is gone"
        );
    }

    #[test]
    fn duplicates_are_refused_and_overlays_replace() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = tempfile::tempdir().unwrap();
        let with_ip = SERVICE.replace("spec: {", "spec: {clusterIP: 10.96.0.9, ");
        std::fs::write(folder.path().join("a.yaml"), SERVICE).unwrap();
        std::fs::write(folder.path().join("b.yaml"), SERVICE).unwrap();
        std::fs::write(overlay.path().join("a.yaml"), with_ip).unwrap();
        let mut source = Directory::new(vec![folder.path().to_owned()], "prod");
        let loaded = source.refresh().unwrap();
        assert!(loaded.problems[0].reason.contains("is there already"), "{:?}", loaded.problems);
        let mut source = Directory::new(vec![folder.path().to_owned()], "prod").with_overlay(overlay.path().to_owned());
        let loaded = source.refresh().unwrap();
        assert_eq!(loaded.snapshot.service("pay.prod.svc.cluster.local").unwrap().vips.len(), 1);
    }
}
