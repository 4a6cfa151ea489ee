//! Resources of which the whole mesh, a namespace and a workload may each have one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Object;
use crate::edge::Sidecar;
use crate::extensions::{ProxyConfig, Telemetry};

/// A resource that may select workloads by their labels.
pub trait Leveled: Default {
    /// The labels asked for; none: every workload within reach.
    fn asked(&self) -> Option<&BTreeMap<String, String>>;
}

impl Leveled for ProxyConfig {
    fn asked(&self) -> Option<&BTreeMap<String, String>> {
        self.selector.as_ref().map(|s| &s.match_labels)
    }
}

impl Leveled for Telemetry {
    fn asked(&self) -> Option<&BTreeMap<String, String>> {
        self.selector.as_ref().map(|s| &s.match_labels)
    }
}

impl Leveled for Sidecar {
    fn asked(&self) -> Option<&BTreeMap<String, String>> {
        self.workload_selector.as_ref().map(|s| &s.labels)
    }
}

/// Those that count for a workload, the widest first: of the root namespace, of its own, and the one that selects it. On
/// one level the oldest counts, of two as old the first.
pub fn levels<'a, T: Leveled>(
    all: &'a [Arc<Object<T>>],
    root: &str,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> impl DoubleEndedIterator<Item = &'a Arc<Object<T>>> {
    let narrow = |o: &Object<T>| o.spec.asked().is_some_and(|asked| !asked.is_empty());
    let selects = |o: &Object<T>| o.spec.asked().into_iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let oldest = |fits: &dyn Fn(&Object<T>) -> bool| {
        all.iter().filter(|o| fits(o)).min_by_key(|o| o.metadata.creation_timestamp.as_deref())
    };
    let levels = [
        oldest(&|o| o.metadata.namespace == root && !narrow(o)),
        oldest(&|o| o.metadata.namespace == namespace && namespace != root && !narrow(o)),
        oldest(&|o| o.metadata.namespace == namespace && narrow(o) && selects(o)),
    ];
    levels.into_iter().flatten()
}
