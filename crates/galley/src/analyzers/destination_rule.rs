//! DestinationRules: hosts, subsets, verification of servers.

use serde_json::Value;

use crate::input::{Object, text};
use crate::message::{Code, Message, codes};
use crate::world::{Labels, World, exported_to, labels, shown, within};

/// Labels that endpoints take from their node, not from their pod.
const OF_NODES: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Hosts that do not exist, and subsets that select no pod.
pub(super) fn selection(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for rule in world.networking("DestinationRule") {
        let host = rule.text("/spec/host");
        if host.starts_with('*') {
            continue;
        }
        let mut seen_from = exported_to(rule);
        seen_from.push(&rule.namespace);
        let Some(service) = world.host(host, &rule.namespace, &seen_from) else {
            let text =
                format!("there is no service \"{host}\" that this DestinationRule can see; the rule does nothing");
            found.push(rule.message(codes::UNKNOWN_DESTINATION_RULE_HOST, "/spec/host", text));
            continue;
        };
        if service.object.kind != "Service" || service.object.value().pointer("/spec/selector").is_none() {
            continue;
        }
        let selector = labels(service.object.value(), "/spec/selector");
        for (i, subset) in rule.list("/spec/subsets").iter().enumerate() {
            let wanted = labels(subset, "/labels");
            if !any_pod(world, service.object, &selector, &wanted) {
                let text = format!(
                    "the subset \"{}\" ({}) selects no pod of the service; requests to it fail with 503 (UH)",
                    text(subset, "/name"),
                    shown(&wanted)
                );
                let pointer = format!("/spec/subsets/{i}");
                found.push(rule.message(codes::DESTINATION_RULE_SUBSET_NOT_SELECT_PODS, &pointer, text));
            }
        }
    }
    found
}

fn any_pod(world: &World<'_>, service: &Object, selector: &Labels<'_>, subset: &Labels<'_>) -> bool {
    let here = world.workloads.iter().filter(|w| w.object.namespace == service.namespace);
    here.filter(|w| within(selector, &w.labels)).any(|w| {
        let mut all = w.labels.clone();
        let node = world.core("Node").iter().find(|n| n.name == w.object.text("/spec/nodeName"));
        for key in OF_NODES {
            if let Some(value) = node.and_then(|n| n.label(key)) {
                all.insert(key, value);
            }
        }
        within(subset, &all)
    })
}

/// TLS without roots: whoever answers is believed.
pub(super) fn certificates(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for rule in world.networking("DestinationRule") {
        let selected = rule.value().pointer("/spec/workloadSelector").is_some();
        let mut check = |pointer: String, code: Code| {
            if rule.value().pointer(&pointer).is_some_and(|tls| unverified(tls, selected)) {
                let text = "the server's certificate is not verified: set caCertificates, or credentialName together \
                            with a workloadSelector";
                found.push(rule.message(code, &pointer, text));
            }
        };
        check("/spec/trafficPolicy/tls".to_owned(), codes::NO_SERVER_CERTIFICATE_VERIFICATION_DESTINATION_LEVEL);
        for i in 0..rule.list("/spec/trafficPolicy/portLevelSettings").len() {
            let pointer = format!("/spec/trafficPolicy/portLevelSettings/{i}/tls");
            check(pointer, codes::NO_SERVER_CERTIFICATE_VERIFICATION_PORT_LEVEL);
        }
    }
    found
}

fn unverified(tls: &Value, selected: bool) -> bool {
    let mode = text(tls, "/mode");
    let credential = selected && !text(tls, "/credentialName").is_empty();
    matches!(mode, "SIMPLE" | "MUTUAL") && text(tls, "/caCertificates").is_empty() && !credential
}
