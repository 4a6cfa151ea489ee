//! Which rule or policy counts for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use istio_api::Object;
use istio_api::networking::{DestinationRule, Subset, TrafficPolicy};
use istio_api::security::{AuthorizationPolicy, PeerAuthentication, Selector};

use crate::model::exported;
use crate::workload::Workload;

/// How a server takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtlsMode {
    /// Mesh mTLS only.
    Strict,
    /// Both.
    Permissive,
    /// Plain text.
    Disable,
}

/// All DestinationRules of one host, as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MergedDestinationRule {
    /// Name of the first of them.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The host, as it was written.
    pub host: String,
    /// The traffic policy.
    pub traffic_policy: Option<TrafficPolicy>,
    /// The subsets of all.
    pub subsets: Vec<Subset>,
    /// Namespaces that see it; empty: all.
    pub export_to: Vec<String>,
    /// Labels of the clients it is for; none: all that see it.
    pub selector: BTreeMap<String, String>,
}

/// AuthorizationPolicies of one workload, by action.
#[derive(Debug, Clone, Default)]
pub struct Authorization {
    /// AUDIT.
    pub audit: Vec<Arc<Object<AuthorizationPolicy>>>,
    /// CUSTOM.
    pub custom: Vec<Arc<Object<AuthorizationPolicy>>>,
    /// DENY.
    pub deny: Vec<Arc<Object<AuthorizationPolicy>>>,
    /// ALLOW.
    pub allow: Vec<Arc<Object<AuthorizationPolicy>>>,
}

impl Authorization {
    pub(crate) fn add(&mut self, policy: &Arc<Object<AuthorizationPolicy>>) {
        let list = match policy.spec.action.as_deref() {
            Some("AUDIT") => &mut self.audit,
            Some("CUSTOM") => &mut self.custom,
            Some("DENY") => &mut self.deny,
            _ => &mut self.allow,
        };
        list.push(policy.clone());
    }
}

fn empty(selector: Option<&Selector>) -> bool {
    selector.is_none_or(|s| s.match_labels.is_empty())
}

/// Whether a policy of a namespace selects a workload; one of the root namespace reaches all namespaces.
pub(crate) fn selects(selector: Option<&Selector>, namespace: &str, root: &str, workload: &Workload) -> bool {
    let here = namespace == workload.namespace || namespace == root;
    let labels = selector.map(|s| &s.match_labels);
    here && labels.is_none_or(|l| l.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
}

/// Port over workload over namespace over mesh; on one level the oldest counts.
pub(crate) fn mtls_mode(
    policies: &[Arc<Object<PeerAuthentication>>],
    root: &str,
    workload: &Workload,
    port: u16,
) -> MtlsMode {
    let mode = |text: Option<&String>| match text.map(String::as_str) {
        Some("STRICT") => Some(MtlsMode::Strict),
        Some("PERMISSIVE") => Some(MtlsMode::Permissive),
        Some("DISABLE") => Some(MtlsMode::Disable),
        _ => None,
    };
    let selecting = policies.iter().find(|p| {
        !empty(p.spec.selector.as_ref())
            && p.metadata.namespace == workload.namespace
            && selects(p.spec.selector.as_ref(), &p.metadata.namespace, root, workload)
    });
    let wide = |namespace: &str| {
        let found = policies.iter().find(|p| empty(p.spec.selector.as_ref()) && p.metadata.namespace == namespace);
        found.and_then(|p| mode(p.spec.mtls.as_ref().and_then(|m| m.mode.as_ref())))
    };
    let at_port = selecting.and_then(|p| p.spec.port_level_mtls.get(&port.to_string()));
    at_port
        .and_then(|m| mode(m.mode.as_ref()))
        .or_else(|| selecting.and_then(|p| mode(p.spec.mtls.as_ref().and_then(|m| m.mode.as_ref()))))
        .or_else(|| wide(&workload.namespace))
        .or_else(|| wide(root))
        .unwrap_or(MtlsMode::Permissive)
}

/// DestinationRules by namespace and full host, merged: the first traffic policy counts, subsets add up. Only rules for
/// the same clients are merged.
pub(crate) fn merge(
    rules: &[Arc<Object<DestinationRule>>],
    full: impl Fn(&str, &str) -> String,
) -> BTreeMap<(String, String), Vec<Arc<MergedDestinationRule>>> {
    let mut merged: BTreeMap<(String, String), Vec<MergedDestinationRule>> = BTreeMap::new();
    for rule in rules {
        let namespace = &rule.metadata.namespace;
        let all = merged.entry((namespace.clone(), full(&rule.spec.host, namespace))).or_default();
        let selector = rule.spec.workload_selector.as_ref().map(|s| s.match_labels.clone()).unwrap_or_default();
        let same = |m: &MergedDestinationRule| {
            m.selector == selector && same_namespaces(&m.export_to, &rule.spec.export_to, namespace)
        };
        let at = all.iter().position(same).unwrap_or_else(|| {
            all.push(MergedDestinationRule {
                name: rule.metadata.name.clone(),
                namespace: namespace.clone(),
                host: rule.spec.host.clone(),
                export_to: rule.spec.export_to.clone(),
                selector: selector.clone(),
                ..MergedDestinationRule::default()
            });
            all.len() - 1
        });
        let Some(entry) = all.get_mut(at) else { continue };
        if entry.traffic_policy.is_none() {
            entry.traffic_policy.clone_from(&rule.spec.traffic_policy);
        }
        for subset in &rule.spec.subsets {
            if !entry.subsets.iter().any(|s| s.name == subset.name) {
                entry.subsets.push(subset.clone());
            }
        }
    }
    merged.into_iter().map(|(key, rules)| (key, rules.into_iter().map(Arc::new).collect())).collect()
}

/// Whether two lists of `exportTo` mean the same.
fn same_namespaces(a: &[String], b: &[String], own: &str) -> bool {
    let meant = |list: &[String]| -> std::collections::BTreeSet<String> {
        if list.is_empty() {
            return ["*".to_owned()].into();
        }
        list.iter().map(|n| if n == "." { own.to_owned() } else { n.clone() }).collect()
    };
    meant(a) == meant(b)
}

/// Of the rules of one host and namespace the one for a client: one that selects it, else the oldest for all that it may
/// see. A selector reaches no other namespace.
pub(crate) fn choose(
    rules: &[Arc<MergedDestinationRule>],
    namespace: &str,
    client: &str,
    labels: &BTreeMap<String, String>,
) -> Option<Arc<MergedDestinationRule>> {
    let selects = |rule: &&Arc<MergedDestinationRule>| {
        !rule.selector.is_empty()
            && namespace == client
            && rule.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let open =
        |rule: &&Arc<MergedDestinationRule>| rule.selector.is_empty() && exported(&rule.export_to, namespace, client);
    rules.iter().find(selects).or_else(|| rules.iter().find(open)).cloned()
}
