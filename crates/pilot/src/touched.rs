//! Which resources of a proxy a change of the mesh touches; all others are what they were.

use std::collections::BTreeSet;

use mesh::{Changes, Snapshot};

use crate::{Proxy, names};

/// What is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the function of that name")]
pub enum Part {
    Clusters,
    Endpoints,
    Listeners,
    Routes,
    NameTable,
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
            // Few ask for their replicas; whether these are among the endpoints is seen when they are looked for.
            Self::Hosts(_) if cluster == names::LOCAL_CLUSTER => true,
            Self::Hosts(hosts) => names::parse_outbound(cluster).is_some_and(|(_, _, host)| hosts.contains(host)),
            Self::Everything => true,
        }
    }
}

/// What `changes`, which led to `snapshot`, touch of a part of a proxy.
pub fn touched<'a>(part: Part, changes: &'a Changes, snapshot: &Snapshot, proxy: &Proxy) -> Touched<'a> {
    let own = |w: &mesh::Workload| (w.namespace == proxy.namespace && w.name == proxy.name) || w.ip == proxy.ip;
    if changes.everything || changes.workloads.iter().any(|workload| own(workload)) {
        return Touched::Everything;
    }
    let hosts = if changes.endpoints.is_empty() { Touched::Nothing } else { Touched::Hosts(&changes.endpoints) };
    // A headless service is called at the addresses of its pods.
    let headless = || {
        let mut services = snapshot.services().filter(|service| service.headless);
        !changes.endpoints.is_empty() && services.any(|service| changes.endpoints.contains(&service.host))
    };
    match part {
        // With a Sidecar it matters where VirtualServices lead to.
        Part::Clusters if changes.routing && snapshot.sidecars().next().is_some() => Touched::Everything,
        // Servers' names are in the clusters, and addresses where DNS finds them.
        Part::Clusters | Part::Endpoints => hosts,
        Part::Routes if changes.routing => Touched::Everything,
        Part::Listeners if changes.routing || changes.policies || headless() => Touched::Everything,
        Part::NameTable if headless() => Touched::Everything,
        Part::Routes | Part::Listeners | Part::NameTable => Touched::Nothing,
    }
}
