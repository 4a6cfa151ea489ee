//! Which resources of a proxy a change of the mesh touches; all others are what they were.

use std::collections::BTreeSet;

use mesh::{Changes, Snapshot};

use crate::{Proxy, names};

/// What is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the function of that name")]
pub enum Part {
    CalledClusters,
    OwnClusters,
    CalledEndpoints,
    Replicas,
    Listeners,
    CalledRoutes,
    CalledNames,
}

impl Part {
    /// Whether it is about the proxy itself; all others are the same for all of an [`Outlook`](crate::Outlook).
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Self::OwnClusters | Self::Replicas | Self::Listeners)
    }
}

/// What of a part must be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched<'a> {
    /// Nothing.
    Nothing,
    /// The clusters or endpoints of these hosts.
    Hosts(&'a BTreeSet<String>),
    /// All of it.
    Everything,
}

impl Touched<'_> {
    /// Whether a cluster, or the endpoints of one, must be made anew.
    pub fn has(&self, cluster: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Hosts(hosts) => names::parse_outbound(cluster).is_some_and(|(_, _, host)| hosts.contains(host)),
            Self::Everything => true,
        }
    }
}

/// What `changes`, which led to `snapshot`, touch of a part of a proxy.
pub fn touched<'a>(part: Part, changes: &'a Changes, snapshot: &Snapshot, proxy: &Proxy) -> Touched<'a> {
    let own = |w: &mesh::Workload| (w.namespace == proxy.namespace && w.name == proxy.name) || w.ip == proxy.ip;
    if changes.everything || (part.is_own() && changes.workloads.iter().any(|workload| own(workload))) {
        return Touched::Everything;
    }
    let endpoints = !changes.endpoints.is_empty();
    // A headless service is called at the addresses of its pods.
    let headless = || {
        let mut services = snapshot.services().filter(|service| service.headless);
        endpoints && services.any(|service| changes.endpoints.contains(&service.host))
    };
    let everything = match part {
        // With a Sidecar it matters where VirtualServices lead to.
        Part::CalledClusters => changes.routing && snapshot.sidecars().next().is_some(),
        Part::Replicas => endpoints,
        Part::CalledRoutes => changes.routing,
        Part::Listeners => changes.routing_of_bytes || changes.policies || headless(),
        Part::CalledNames => headless(),
        Part::OwnClusters | Part::CalledEndpoints => false,
    };
    match part {
        _ if everything => Touched::Everything,
        // Servers' names are in the clusters, and addresses where DNS finds them.
        Part::CalledClusters | Part::CalledEndpoints if endpoints => Touched::Hosts(&changes.endpoints),
        _ => Touched::Nothing,
    }
}
