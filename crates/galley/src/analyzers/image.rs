//! Images: sidecars of another version than the injector's, and `auto` without an injector.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::injection::proxy_container;
use crate::input::{Object, list, text};
use crate::message::{Message, codes};
use crate::world::World;

/// Pods whose sidecar is not the one the injector would give them now; one finding a namespace.
pub(super) fn mismatch(world: &World<'_>) -> Vec<Message> {
    let images = injected_images(world);
    let mut outdated: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pod in world.core("Pod") {
        let Some(namespace) = world.core("Namespace").iter().find(|n| n.name == pod.namespace) else { continue };
        let revision = match (namespace.label("istio-injection"), namespace.label("istio.io/rev")) {
            (Some("enabled"), _) => "default",
            (None, Some(revision)) => revision,
            _ => continue,
        };
        let Some(image) = images.get(revision).filter(|_| pod.annotation("sidecar.istio.io/proxyImage").is_none())
        else {
            continue;
        };
        let Some(own) = proxy_container(pod.value(), "/spec").map(|c| text(c, "/image")) else { continue };
        if own != image && !VARIANTS.iter().any(|v| own.strip_suffix(v) == Some(image)) {
            outdated.entry(&namespace.name).or_default().push(&pod.name);
        }
    }
    let mut found = Vec::new();
    for namespace in world.core("Namespace") {
        let Some(pods) = outdated.get(namespace.name.as_str()) else { continue };
        let text = format!(
            "the sidecars of {} are of another version than the injector's; restart these pods to update them",
            pods.join(", ")
        );
        found.push(namespace.message(codes::PODS_ISTIO_PROXY_IMAGE_MISMATCH_IN_NAMESPACE, "/metadata", text));
    }
    found
}

/// The same proxy with another base: what ProxyConfig's imageType chooses.
const VARIANTS: [&str; 2] = ["-distroless", "-debug"];

/// The proxy's image by revision, from the injectors' values.
fn injected_images(world: &World<'_>) -> HashMap<String, String> {
    let mut images = HashMap::new();
    for map in world.core("ConfigMap") {
        let Some(rest) = map.name.strip_prefix("istio-sidecar-injector") else { continue };
        let revision = map.label("istio.io/rev").or(rest.strip_prefix('-')).unwrap_or("default");
        let values: Value = serde_json::from_str(text(map.value(), "/data/values")).unwrap_or_default();
        let of = |pointer: &str| text(&values, pointer);
        let image = of("/global/proxy/image");
        if image.contains(['/', ':']) {
            images.insert(revision.to_owned(), image.to_owned());
        } else if !image.is_empty() {
            let tag = values.pointer("/global/tag").map(|t| t.as_str().map_or_else(|| t.to_string(), str::to_owned));
            images.insert(revision.to_owned(), format!("{}/{image}:{}", of("/global/hub"), tag.unwrap_or_default()));
        }
    }
    images
}

/// Containers with the image `auto`, which only an injector replaces.
pub(super) fn auto(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for workload in &world.workloads {
        let object = workload.object;
        let template = object.kind != "Pod";
        let spec = if template { "/spec/template/spec" } else { "/spec" };
        let Some(at) = auto_container(object, spec) else { continue };
        let pointer = format!("{at}/image");
        if !template {
            let text = "the image is still \"auto\": the pod was not injected, and cannot start. Make it anew where \
                        injection is on";
            found.push(object.message(codes::IMAGE_AUTO_WITHOUT_INJECTION_ERROR, &pointer, text));
        } else if !workload.in_mesh {
            let text = "the image \"auto\" is replaced by the injector only, and injection is off for this pod. Label \
                        the namespace, or the pod with sidecar.istio.io/inject: \"true\"";
            found.push(object.message(codes::IMAGE_AUTO_WITHOUT_INJECTION_WARNING, &pointer, text));
        }
    }
    found
}

fn auto_container(object: &Object, spec: &str) -> Option<String> {
    ["containers", "initContainers"].into_iter().find_map(|field| {
        let at = format!("{spec}/{field}");
        let index = list(object.value(), &at).iter().position(|c| c["image"] == "auto")?;
        Some(format!("{at}/{index}"))
    })
}
