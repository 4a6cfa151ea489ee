//! Objects of which only one may apply to a workload: Sidecar and Telemetry.

use std::collections::BTreeMap;

use crate::input::Object;
use crate::message::{Code, Message, codes};
use crate::world::{Labels, World, labels, shown, within};

/// Objects without selector, where there are several in one namespace.
fn several_defaults(objects: &[&Object], selector: &str, code: Code) -> Vec<Message> {
    let mut by_namespace: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for object in objects.iter().filter(|o| labels(o.value(), selector).is_empty()) {
        by_namespace.entry(&object.namespace).or_default().push(object);
    }
    let several = by_namespace.into_values().filter(|all| all.len() > 1);
    let mut found = Vec::new();
    for all in several {
        let names = all.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
        for object in all {
            let text = format!("several {}s are for the whole namespace ({names}); keep one", object.kind);
            found.push(object.message(code, "/spec", text));
        }
    }
    found
}

/// Objects whose selectors name nothing, or the same pod as another one's.
fn overlaps(world: &World<'_>, objects: &[&Object], selector: &str, code: Code) -> Vec<Message> {
    let mut found = Vec::new();
    let selecting: Vec<(&&Object, Labels<'_>)> =
        objects.iter().map(|o| (o, labels(o.value(), selector))).filter(|(_, labels)| !labels.is_empty()).collect();
    for (object, wanted) in &selecting {
        let pods: Vec<_> = world.workloads.iter().filter(|w| w.object.namespace == object.namespace).collect();
        let own: Vec<_> = pods.iter().filter(|w| within(wanted, &w.labels)).collect();
        let pointer = selector.rsplit_once('/').map_or(selector, |(parent, _)| parent);
        if own.is_empty() {
            let text = format!("no workload has the labels {}", shown(wanted));
            found.push(object.message(codes::REFERENCED_RESOURCE_NOT_FOUND, pointer, text));
        }
        let same = |other: &&(&&Object, Labels<'_>)| {
            !std::ptr::eq(*other.0, **object)
                && other.0.namespace == object.namespace
                && own.iter().any(|w| within(&other.1, &w.labels))
        };
        let others: Vec<&str> = selecting.iter().filter(same).map(|(o, _)| o.name.as_str()).collect();
        if !others.is_empty() {
            let text = format!("{} selects the same workloads; it is open which of them counts", others.join(", "));
            found.push(object.message(code, pointer, text));
        }
    }
    found
}

/// Sidecars that contradict each other, or stand where there are no sidecars.
pub(super) fn sidecars(world: &World<'_>) -> Vec<Message> {
    let all = world.networking("Sidecar");
    let ambient = |o: &Object| {
        let namespace = world.core("Namespace").iter().find(|n| n.name == o.namespace);
        namespace.is_some_and(|n| {
            n.label("istio.io/dataplane-mode") == Some("ambient")
                && n.label("istio-injection").is_none()
                && n.label("istio.io/rev").is_none()
        })
    };
    let (useless, real): (Vec<&Object>, Vec<&Object>) = all.iter().copied().partition(|o| ambient(o));
    let selector = "/spec/workloadSelector/labels";
    let mut found = several_defaults(&real, selector, codes::MULTIPLE_SIDECARS_WITHOUT_WORKLOAD_SELECTORS);
    found.extend(overlaps(world, &real, selector, codes::CONFLICTING_SIDECAR_WORKLOAD_SELECTORS));
    found.extend(useless.into_iter().map(|o| {
        let text = "the pods of this namespace are in ambient mode and have no sidecar; the Sidecar does nothing";
        o.message(codes::INEFFECTIVE_POLICY, "/spec", text)
    }));
    found
}

/// Telemetries with selectors.
pub(super) fn telemetry(world: &World<'_>) -> Vec<Message> {
    let all = world.kind("telemetry.istio.io", "Telemetry");
    overlaps(world, all, "/spec/selector/matchLabels", codes::CONFLICTING_TELEMETRY_WORKLOAD_SELECTORS)
}

/// Telemetries without selectors.
pub(super) fn telemetry_defaults(world: &World<'_>) -> Vec<Message> {
    let all = world.kind("telemetry.istio.io", "Telemetry");
    several_defaults(all, "/spec/selector/matchLabels", codes::MULTIPLE_TELEMETRIES_WITHOUT_WORKLOAD_SELECTORS)
}
