//! What the mesh's own parts say: conditions in status, istiod's settings, providers of telemetry.

use serde_json::Value;

use super::injection::GATEWAY_OF_POD;
use crate::input::{Object, list, text};
use crate::message::{Message, codes};
use crate::world::{World, labels, within};

/// Conditions that say an object is not in force.
pub(super) fn conditions(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for object in world.objects {
        let own = object.group.ends_with("istio.io") || object.group == "gateway.networking.k8s.io";
        for (pointer, condition) in all_conditions(object) {
            let kind = text(condition, "/type");
            // Other controllers write conditions too, under their own domains.
            let ours =
                kind.starts_with("istio.io/") || (own && !kind.contains('/') && !WHERE_FALSE_IS_WELL.contains(&kind));
            let bad = text(condition, "/status") == "False" || text(condition, "/reason") == "PartiallyInvalid";
            if ours && bad {
                let text = format!(
                    "its condition {kind} says {}: {}",
                    text(condition, "/reason"),
                    text(condition, "/message")
                );
                found.push(object.message(codes::NEGATIVE_CONDITION_STATUS, &pointer, text));
            }
        }
    }
    found
}

/// Conditions that name a fault: not having it is well.
const WHERE_FALSE_IS_WELL: [&str; 4] = ["Conflicted", "Detached", "OverlappingTLSConfig", "PartiallyInvalid"];

fn all_conditions(object: &Object) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    let mut take = |at: String| {
        for (i, condition) in list(object.value(), &at).iter().enumerate() {
            all.push((format!("{at}/{i}"), condition));
        }
    };
    take("/status/conditions".to_owned());
    for part in ["parents", "ancestors", "listeners"] {
        for i in 0..list(object.value(), &format!("/status/{part}")).len() {
            take(format!("/status/{part}/{i}/conditions"));
        }
    }
    all
}

/// istiod fetches keys from any address that a RequestAuthentication names, unless it is told where not to.
pub(super) fn blocked_ranges(world: &World<'_>) -> Vec<Message> {
    const SETTING: &str = "BLOCKED_CIDRS_IN_JWKS_URIS";
    let fetches = world
        .kind("security.istio.io", "RequestAuthentication")
        .iter()
        .any(|r| r.list("/spec/jwtRules").iter().any(|rule| !text(rule, "/jwksUri").is_empty()));
    if !fetches {
        return Vec::new();
    }
    let mut found = Vec::new();
    for istiod in world.kind("apps", "Deployment").iter().filter(|d| d.label("app") == Some("istiod")) {
        let containers = istiod.list("/spec/template/spec/containers").iter().enumerate();
        for (i, container) in containers.filter(|(_, c)| c["name"] == "discovery") {
            let set = |variable: &&Value| variable["name"] == SETTING && !text(variable, "/value").is_empty();
            if list(container, "/env").iter().find(set).is_none() {
                let text = format!(
                    "whoever may write RequestAuthentications can have istiod call any address inside the cluster; set {SETTING} to the ranges it must not call"
                );
                let pointer = format!("/spec/template/spec/containers/{i}");
                found.push(istiod.message(codes::JWKS_URI_FETCH_UNRESTRICTED, &pointer, text));
            }
        }
    }
    found
}

const TELEMETRY: &str = "telemetry.istio.io";

/// Access logs for which nobody is named to write them.
pub(super) fn providers(world: &World<'_>) -> Vec<Message> {
    if !list(world.mesh, "/defaultProviders/accessLogging").is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for telemetry in world.kind(TELEMETRY, "Telemetry") {
        for (i, logging) in telemetry.list("/spec/accessLogging").iter().enumerate() {
            if logging["disabled"] != true && list(logging, "/providers").is_empty() {
                let text = "no provider is named, and the mesh has no default one: nothing is logged. Name a provider";
                let pointer = format!("/spec/accessLogging/{i}");
                found.push(telemetry.message(codes::INVALID_TELEMETRY_PROVIDER, &pointer, text));
            }
        }
    }
    found
}

/// Traces to Lightstep's own protocol, which is gone.
pub(super) fn lightstep(world: &World<'_>) -> Vec<Message> {
    let providers = list(world.mesh, "/extensionProviders").iter().filter(|p| p.get("lightstep").is_some());
    let names: Vec<&str> = providers.map(|p| text(p, "/name")).collect();
    let mut found = Vec::new();
    for telemetry in world.kind(TELEMETRY, "Telemetry") {
        for (i, tracing) in telemetry.list("/spec/tracing").iter().enumerate() {
            for (j, provider) in list(tracing, "/providers").iter().enumerate() {
                if names.contains(&text(provider, "/name")) {
                    let pointer = format!("/spec/tracing/{i}/providers/{j}");
                    let text = "the Lightstep provider is gone; use an opentelemetry provider";
                    found.push(telemetry.message(codes::DEPRECATED, &pointer, text));
                }
            }
        }
    }
    found
}

/// Kinds whose selector has no say over gateways of the Gateway API.
const POLICIES: [(&str, &str); 5] = [
    ("security.istio.io", "RequestAuthentication"),
    ("security.istio.io", "AuthorizationPolicy"),
    (TELEMETRY, "Telemetry"),
    ("extensions.istio.io", "WasmPlugin"),
    ("extensions.istio.io", "TrafficExtension"),
];

/// Selectors that name pods of a Gateway: there only targetRefs counts.
pub(super) fn gateway_selectors(world: &World<'_>) -> Vec<Message> {
    let gateways: Vec<_> = world.workloads.iter().filter(|w| w.labels.contains_key(GATEWAY_OF_POD)).collect();
    let mut found = Vec::new();
    for policy in POLICIES.iter().flat_map(|(group, kind)| world.kind(group, kind)) {
        let spec = |field: &str| policy.value().pointer(&format!("/spec/{field}")).is_some();
        let selector = labels(policy.value(), "/spec/selector/matchLabels");
        if selector.is_empty() || spec("targetRef") || spec("targetRefs") {
            continue;
        }
        let mut names =
            gateways.iter().filter(|w| within(&selector, &w.labels) && w.object.namespace == policy.namespace);
        if let Some(workload) = names.next() {
            let gateway = workload.labels.get(GATEWAY_OF_POD).copied().unwrap_or_default();
            let text = format!("a selector does not reach the Gateway {gateway}; name it in targetRefs");
            found.push(policy.message(codes::INEFFECTIVE_SELECTOR, "/spec/selector", text));
        }
    }
    found
}
