//! What the proxy of one pod is told when it starts.

use std::sync::Arc;

use istio_api::extensions::ProxyConfig;
use istio_api::mesh::{MeshConfig, ProxySettings};
use istio_api::{Object, ObjectMeta};

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
    let narrow = |o: &Object<ProxyConfig>| o.spec.selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
    let selects = |o: &Object<ProxyConfig>| {
        o.spec.selector.iter().flat_map(|s| &s.match_labels).all(|(key, value)| pod.labels.get(key) == Some(value))
    };
    let oldest = |fits: &dyn Fn(&Object<ProxyConfig>) -> bool| {
        resources.iter().filter(|o| fits(o)).min_by_key(|o| o.metadata.creation_timestamp.clone()).cloned()
    };
    let levels = [
        oldest(&|o| o.metadata.namespace == root && !narrow(o)),
        oldest(&|o| o.metadata.namespace == pod.namespace && pod.namespace != root && !narrow(o)),
        oldest(&|o| o.metadata.namespace == pod.namespace && narrow(o) && selects(o)),
    ];
    for object in levels.into_iter().flatten() {
        settings.overlay(ProxySettings {
            concurrency: object.spec.concurrency,
            proxy_metadata: object.spec.environment_variables.clone(),
            ..ProxySettings::default()
        });
    }
    if let Some(text) = pod.annotations.get(ANNOTATION) {
        let own = ProxySettings::parse(text).map_err(|e| format!("annotation {ANNOTATION}: {e}"))?;
        settings.overlay(own);
    }
    Ok(settings)
}
