//! Security policies: what they select, and whom they lock out.

use std::collections::BTreeSet;

use crate::input::{Object, list, texts};
use crate::message::{Message, codes};
use crate::world::{World, labels, shown};

const SECURITY: &str = "security.istio.io";

/// A finding when a policy selects no workload.
fn selects_nothing(world: &World<'_>, policy: &Object) -> Option<Message> {
    let selector = labels(policy.value(), "/spec/selector/matchLabels");
    if selector.is_empty() && policy.namespace == world.root {
        return None;
    }
    if world.selected(&policy.namespace, &selector).next().is_some() {
        return None;
    }
    let text = if selector.is_empty() {
        format!("there is no workload in the namespace {}", policy.namespace)
    } else {
        format!("no workload has the labels {}; the policy does nothing", shown(&selector))
    };
    Some(policy.message(codes::NO_MATCHING_WORKLOADS_FOUND, "/spec/selector", text))
}

/// AuthorizationPolicies that select nothing, or speak of namespaces that do not exist.
pub(super) fn authorization(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let namespaces: BTreeSet<&str> = world
        .core("Namespace")
        .iter()
        .map(|n| n.name.as_str())
        .chain(world.workloads.iter().map(|w| w.object.namespace.as_str()))
        .collect();
    for policy in world.kind(SECURITY, "AuthorizationPolicy") {
        if policy.list("/spec/targetRefs").is_empty() && policy.value().pointer("/spec/targetRef").is_none() {
            found.extend(selects_nothing(world, policy));
        }
        for (i, rule) in policy.list("/spec/rules").iter().enumerate() {
            for (j, from) in list(rule, "/from").iter().enumerate() {
                for field in ["namespaces", "notNamespaces"] {
                    for (k, wanted) in texts(from, &format!("/source/{field}")).enumerate() {
                        if !namespaces.iter().any(|n| matches(wanted, n)) {
                            let pointer = format!("/spec/rules/{i}/from/{j}/source/{field}/{k}");
                            let text = format!("there is no namespace \"{wanted}\"");
                            found.push(policy.message(codes::REFERENCED_RESOURCE_NOT_FOUND, &pointer, text));
                        }
                    }
                }
            }
        }
    }
    found
}

fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => name.ends_with(suffix),
        (None, Some(prefix)) => name.starts_with(prefix),
        (None, None) => pattern == name,
    }
}

/// PeerAuthentications and RequestAuthentications that select nothing.
pub(super) fn authentication(world: &World<'_>) -> Vec<Message> {
    let kinds = ["PeerAuthentication", "RequestAuthentication"].into_iter();
    let selecting = |p: &&&Object| p.value().pointer("/spec/selector/matchLabels").is_some();
    kinds
        .flat_map(|k| world.kind(SECURITY, k).iter().filter(selecting))
        .filter_map(|p| selects_nothing(world, p))
        .collect()
}

/// How many workloads a message names.
const NAMED: usize = 5;

/// STRICT where workloads without sidecar are: they can no longer call, and those it selects cannot be protected.
pub(super) fn strict(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let outside: Vec<&Object> = world
        .workloads
        .iter()
        .filter(|w| !w.in_mesh && !w.object.namespace.starts_with("kube-") && w.object.namespace != world.root)
        .map(|w| w.object)
        .collect();
    if outside.is_empty() {
        return found;
    }
    let mut names: Vec<String> = outside.iter().map(|o| format!("{}/{}", o.namespace, o.name)).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let mut named = names.join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    for policy in world.kind(SECURITY, "PeerAuthentication") {
        if policy.text("/spec/mtls/mode") != "STRICT" {
            continue;
        }
        let reach = match (policy.namespace == world.root, policy.value().pointer("/spec/selector").is_some()) {
            (true, false) => "the mesh".to_owned(),
            (_, true) => format!("the workloads it selects in {}", policy.namespace),
            (false, false) => format!("the namespace {}", policy.namespace),
        };
        let text = format!(
            "STRICT mTLS holds in {reach}, but these workloads have no sidecar and can no longer call it: {named}. Add \
             them to the mesh, or use PERMISSIVE until then"
        );
        found.push(policy.message(codes::STRICT_WITH_WORKLOADS_OUTSIDE_MESH, "/spec/mtls/mode", text));
    }
    found
}
