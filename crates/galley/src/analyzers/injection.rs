//! Namespaces and pods that should have sidecars.

use serde_json::Value;

use super::service::SYSTEM;
use crate::input::{Object, list, text};
use crate::message::{Message, codes};
use crate::world::World;

/// Namespaces without injection or with contradicting labels, and pods that missed it.
pub(super) fn sidecars(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let by_default = enabled_by_default(world);
    for namespace in world.core("Namespace") {
        if SYSTEM.contains(&namespace.name.as_str()) || namespace.name == world.root {
            continue;
        }
        let injection = namespace.label("istio-injection").unwrap_or_default();
        let revision = namespace.label("istio.io/rev").is_some();
        let ambient = namespace.label("istio.io/dataplane-mode") == Some("ambient");
        let wanted = [injection == "enabled", revision, ambient].into_iter().filter(|w| *w).count();
        if injection != "disabled" && wanted > 1 {
            let text = "the labels istio-injection, istio.io/rev and istio.io/dataplane-mode contradict each other; keep \
                        one of them";
            found.push(namespace.message(codes::NAMESPACE_MULTIPLE_INJECTION_LABELS, "/metadata/labels", text));
        } else if injection.is_empty() && !revision && !ambient {
            if by_default {
                let text =
                    "pods get a sidecar because injection is on by default; label the namespace to make it plain";
                found.push(namespace.message(codes::NAMESPACE_INJECTION_ENABLED_BY_DEFAULT, "/metadata", text));
            } else {
                let text = format!(
                    "pods here get no sidecar; run 'kubectl label namespace {0} istio-injection=enabled' to have them \
                     in the mesh, or '{0} istio-injection=disabled' to say that this is meant",
                    namespace.name
                );
                found.push(namespace.message(codes::NAMESPACE_NOT_INJECTED, "/metadata", text));
            }
        }
    }
    found.extend(world.workloads.iter().filter(|w| !w.in_mesh).filter_map(|w| missing(world, w.object)));
    found
}

fn missing(world: &World<'_>, pod: &Object) -> Option<Message> {
    let off = |value: Option<&str>| value == Some("false");
    let meant = pod.kind == "Pod"
        && world.injected(&pod.namespace)
        && !off(pod.label("sidecar.istio.io/inject"))
        && (pod.label("sidecar.istio.io/inject").is_some() || !off(pod.annotation("sidecar.istio.io/inject")))
        && pod.value().pointer("/spec/hostNetwork").and_then(Value::as_bool) != Some(true);
    let text = "this pod has no sidecar although its namespace is injected; it was probably made before. Restart it";
    meant.then(|| pod.message(codes::POD_MISSING_PROXY, "", text))
}

/// Whether the injector's values say that namespaces without a label are injected.
fn enabled_by_default(world: &World<'_>) -> bool {
    let injector = world.core("ConfigMap").iter().find(|c| c.name == "istio-sidecar-injector");
    let values: Value =
        injector.and_then(|c| serde_json::from_str(text(c.value(), "/data/values")).ok()).unwrap_or_default();
    values.pointer("/sidecarInjectorWebhook/enableNamespacesByDefault").and_then(Value::as_bool).unwrap_or(false)
}

/// The label of pods that run a Gateway of the Gateway API.
pub(super) const GATEWAY_OF_POD: &str = "gateway.networking.k8s.io/gateway-name";

/// The sidecar among a pod's containers, ordinary or native.
pub(super) fn proxy_container<'v>(value: &'v Value, spec: &str) -> Option<&'v Value> {
    let fields = ["containers", "initContainers"].into_iter();
    fields.flat_map(|field| list(value, &format!("{spec}/{field}"))).find(|c| c["name"] == "istio-proxy")
}
