//! Workloads: pods, as the mesh sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use istio_api::Object;
use istio_api::kubernetes::{PodSpec, PodStatus};

use crate::model::ServicePort;

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod, as the mesh sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: String,
    /// What made it, such as its Deployment.
    pub workload_name: String,
    /// Whether it has a sidecar.
    pub in_mesh: bool,
    /// Whether it takes requests.
    pub ready: bool,
    /// Istio's canonical service.
    pub canonical_service: String,
    /// Istio's canonical revision.
    pub canonical_revision: String,
    /// Who vouches for it.
    pub trust_domain: String,
    /// Container ports by name.
    pub named_ports: BTreeMap<String, u16>,
    /// Its own name under the headless service that `subdomain` names, as a StatefulSet's pods have it.
    pub hostname: Option<String>,
    /// That service's name.
    pub subdomain: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
}

impl Workload {
    pub(crate) fn read(pod: &Object<PodSpec>, status: &PodStatus, trust_domain: &str) -> Self {
        let meta = &pod.metadata;
        let label = |key: &str| meta.labels.get(key).cloned();
        let owner = meta.owner_references.first();
        let workload_name = owner.map_or_else(|| meta.name.clone(), |o| owner_name(&o.kind, &o.name));
        let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        let sidecar = containers.any(|c| c.name == "istio-proxy");
        let ready = status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
        let ports = pod.spec.containers.iter().flat_map(|c| &c.ports);
        Self {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            service_account: pod.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            in_mesh: label("security.istio.io/tlsMode").map_or(sidecar, |mode| mode == "istio"),
            ready,
            canonical_service: label("service.istio.io/canonical-name")
                .or_else(|| label("app.kubernetes.io/name"))
                .or_else(|| label("app"))
                .unwrap_or_else(|| workload_name.clone()),
            canonical_revision: label("service.istio.io/canonical-revision")
                .or_else(|| label("app.kubernetes.io/version"))
                .or_else(|| label("version"))
                .unwrap_or_else(|| "latest".to_owned()),
            trust_domain: trust_domain.to_owned(),
            named_ports: ports.filter_map(|p| Some((p.name.clone()?, p.container_port))).collect(),
            hostname: pod.spec.hostname.clone(),
            subdomain: pod.spec.subdomain.clone(),
            node: pod.spec.node_name.clone(),
            labels: meta.labels.clone(),
            workload_name,
        }
    }

    /// Its identity.
    pub fn identity(&self) -> Identity {
        Identity(format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account))
    }

    /// The port a service port leads to; `None` when it goes by a name that the pod does not have.
    pub fn target_port(&self, port: &ServicePort) -> Option<u16> {
        match &port.target_name {
            Some(name) => self.named_ports.get(name).copied(),
            None => Some(port.target_port),
        }
    }
}

/// A ReplicaSet is named after its Deployment, with a hash behind.
fn owner_name(kind: &str, name: &str) -> String {
    match name.rsplit_once('-') {
        Some((deployment, _)) if kind == "ReplicaSet" => deployment.to_owned(),
        _ => name.to_owned(),
    }
}
