//! The kinds that are watched.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its group; empty for Kubernetes' core.
    pub group: &'static str,
    /// The versions in which it may be served, the preferred first. All hold the same objects: one is watched.
    pub versions: &'static [&'static str],
    /// Its name.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
}

impl Kind {
    /// The kind in one of its versions, counted from 0 and around.
    pub(crate) fn resource(&self, version: usize) -> ApiResource {
        let version = self.versions.iter().cycle().nth(version % self.versions.len().max(1)).copied().unwrap_or("v1");
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, version, self.kind), self.plural)
    }

    /// Whether it is Istio's, and so may not be installed yet.
    pub(crate) fn is_istio(&self) -> bool {
        self.group.ends_with("istio.io")
    }
}

const fn core(kind: &'static str, plural: &'static str) -> Kind {
    Kind { group: "", versions: &["v1"], kind, plural }
}

/// Kubernetes' own kinds that a mesh is made of. The ConfigMap is one by name, see [`watch`](crate::watch()).
pub(crate) const KUBERNETES: [Kind; 6] = [
    core("Namespace", "namespaces"),
    core("Node", "nodes"),
    core("ConfigMap", "configmaps"),
    core("Service", "services"),
    core("Pod", "pods"),
    Kind { group: "discovery.k8s.io", versions: &["v1"], kind: "EndpointSlice", plural: "endpointslices" },
];

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const THREE: &[&str] = &["v1", "v1beta1", "v1alpha3"];

/// Istio's kinds, in every version in which Istio serves them.
pub const CRDS: [Kind; 15] = [
    Kind { group: NETWORKING, versions: THREE, kind: "VirtualService", plural: "virtualservices" },
    Kind { group: NETWORKING, versions: THREE, kind: "DestinationRule", plural: "destinationrules" },
    Kind { group: NETWORKING, versions: THREE, kind: "ServiceEntry", plural: "serviceentries" },
    Kind { group: NETWORKING, versions: THREE, kind: "WorkloadEntry", plural: "workloadentries" },
    Kind { group: NETWORKING, versions: THREE, kind: "WorkloadGroup", plural: "workloadgroups" },
    Kind { group: NETWORKING, versions: THREE, kind: "Sidecar", plural: "sidecars" },
    Kind { group: NETWORKING, versions: THREE, kind: "Gateway", plural: "gateways" },
    Kind { group: NETWORKING, versions: &["v1alpha3"], kind: "EnvoyFilter", plural: "envoyfilters" },
    Kind { group: NETWORKING, versions: &["v1beta1"], kind: "ProxyConfig", plural: "proxyconfigs" },
    Kind { group: SECURITY, versions: &["v1", "v1beta1"], kind: "PeerAuthentication", plural: "peerauthentications" },
    Kind {
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
    },
    Kind {
        group: SECURITY,
        versions: &["v1", "v1beta1"],
        kind: "RequestAuthentication",
        plural: "requestauthentications",
    },
    Kind { group: "telemetry.istio.io", versions: &["v1", "v1alpha1"], kind: "Telemetry", plural: "telemetries" },
    Kind { group: "extensions.istio.io", versions: &["v1alpha1"], kind: "WasmPlugin", plural: "wasmplugins" },
    Kind {
        group: "extensions.istio.io",
        versions: &["v1alpha1"],
        kind: "TrafficExtension",
        plural: "trafficextensions",
    },
];
