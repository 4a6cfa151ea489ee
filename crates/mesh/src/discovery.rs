//! Which namespaces belong to the mesh: `discoverySelectors` of the mesh configuration.

use std::collections::{BTreeMap, BTreeSet};

use istio_api::Resource;
use istio_api::mesh::MeshConfig;

/// The resources of namespaces that are selected. Without selectors, and in namespaces that nothing declares: all.
pub(crate) fn discovered<'a>(mut resources: Vec<&'a Resource>, mesh: &MeshConfig) -> Vec<&'a Resource> {
    if mesh.discovery_selectors.is_empty() {
        return resources;
    }
    let chosen = |labels: &BTreeMap<String, String>| mesh.discovery_selectors.iter().any(|s| s.selects(labels));
    let left_out: BTreeSet<&str> = resources
        .iter()
        .filter_map(|resource| match resource {
            Resource::Namespace(o) if !chosen(&o.metadata.labels) => Some(o.metadata.name.as_str()),
            _ => None,
        })
        .collect();
    resources.retain(|resource| match resource {
        Resource::MeshConfig(_) => true,
        Resource::Namespace(o) => !left_out.contains(o.metadata.name.as_str()),
        other => !left_out.contains(other.key().1.as_str()),
    });
    resources
}
