//! What the proxy of one pod is told when it starts.

use std::sync::Arc;

use istio_api::extensions::ProxyConfig;
use istio_api::mesh::{MeshConfig, ProxySettings};
use istio_api::{Object, ObjectMeta, levels};

/// The annotation by which a pod has settings of its own.
const ANNOTATION: &str = "proxy.istio.io/config";
/// Where mesh-wide resources live, unless the mesh configuration says otherwise.
const ROOT: &str = "istio-system";

/// The settings of a pod's proxy, the later over the earlier: the mesh's `defaultConfig`; ProxyConfigs of the root
/// namespace, of the pod's, and those that select it; the pod's annotation. On one level the oldest counts.
///
/// # Errors
/// What is wrong with the annotation.
pub fn proxy_settings(
    mesh: &MeshConfig,
    resources: &[Arc<Object<ProxyConfig>>],
    pod: &ObjectMeta,
) -> Result<ProxySettings, String> {
    let mut settings = mesh.default_config.clone().unwrap_or_default();
    let root = mesh.root_namespace.as_deref().unwrap_or(ROOT);
    for object in levels(resources, root, &pod.namespace, &pod.labels) {
        let own = &object.spec;
        settings.overlay(ProxySettings {
            concurrency: own.concurrency,
            proxy_metadata: own.environment_variables.clone(),
            image: own.image.clone(),
            ..ProxySettings::default()
        });
    }
    if let Some(text) = pod.annotations.get(ANNOTATION) {
        let own = ProxySettings::parse(text).map_err(|e| format!("annotation {ANNOTATION}: {e}"))?;
        settings.overlay(own);
    }
    Ok(settings)
}
