//! Resources as they came, at rest. A mesh has thousands of clusters of which one workload calls a few: each is compiled
//! when it comes, so that what is wrong with it is refused, and again when it is first called; in between it is some
//! hundred bytes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_api::{Any, unpack};
use parking_lot::Mutex;
use upstream::{ClusterConfig, HostConfig};

use crate::context::Context;
use crate::packed::{Packed, Packer};
use crate::{compile_cluster, compile_endpoints};

/// Bare type name of clusters.
pub const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
/// Bare type name of endpoints.
pub const ENDPOINT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Resources as they came, by bare type name and name.
#[derive(Debug, Default)]
pub struct Resources {
    kinds: Mutex<BTreeMap<String, Kind>>,
    context: OnceLock<Weak<Context>>,
}

/// All resources of a type. `None`: the control plane said that there is none of this name.
#[derive(Debug, Default)]
struct Kind {
    packer: Packer,
    all: HashMap<Box<str>, Option<Packed>>,
}

impl Kind {
    fn find(&self, name: &str) -> Option<Vec<u8>> {
        self.packer.unpack(self.all.get(name)?.as_ref()?)
    }
}

fn any(kind: &str, value: Vec<u8>) -> Any {
    Any { type_url: format!("type.googleapis.com/{kind}"), value: value.into() }
}

impl Resources {
    /// Says what clusters are compiled with when they are called.
    pub fn compile_with(&self, context: &Arc<Context>) {
        // Said once, at the start.
        let _ = self.context.set(Arc::downgrade(context));
    }

    /// Keeps a resource.
    pub fn insert(&self, kind: &str, name: &str, resource: &Any) {
        let mut kinds = self.kinds.lock();
        let of_kind = kinds.entry(kind.to_owned()).or_default();
        let packed = of_kind.packer.pack(&resource.value);
        of_kind.all.insert(name.into(), Some(packed));
    }

    /// Remembers that there is no such resource.
    pub fn insert_none(&self, kind: &str, name: &str) {
        self.kinds.lock().entry(kind.to_owned()).or_default().all.insert(name.into(), None);
    }

    /// Forgets a resource.
    pub fn remove(&self, kind: &str, name: &str) {
        if let Some(of_kind) = self.kinds.lock().get_mut(kind) {
            of_kind.all.remove(name);
        }
    }

    /// Whether the control plane has answered for a name, be it that there is nothing.
    pub fn is_known(&self, kind: &str, name: &str) -> bool {
        self.kinds.lock().get(kind).is_some_and(|of_kind| of_kind.all.contains_key(name))
    }

    /// The names of a type's resources, in order.
    pub fn names(&self, kind: &str) -> Vec<String> {
        let kinds = self.kinds.lock();
        let all = kinds.get(kind).into_iter().flat_map(|of_kind| &of_kind.all);
        let mut names: Vec<String> =
            all.filter(|(_, there)| there.is_some()).map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    /// A resource as it came.
    pub fn find(&self, kind: &str, name: &str) -> Option<Any> {
        self.kinds.lock().get(kind)?.find(name).map(|bytes| any(kind, bytes))
    }

    /// Whether an address is among the endpoints of any assignment.
    pub fn has_endpoint(&self, ip: IpAddr) -> bool {
        let text = ip.to_string();
        let kinds = self.kinds.lock();
        let Some(of_kind) = kinds.get(ENDPOINT) else { return false };
        of_kind.all.values().flatten().filter_map(|packed| of_kind.packer.unpack(packed)).any(|bytes| {
            // Few have the address, and only those are worth decoding.
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
                && endpoints(&any(ENDPOINT, bytes))
                    .is_some_and(|all| all.iter().any(|host| host.address.ip().is_some_and(|at| at.ip() == ip)))
        })
    }
}

fn endpoints(resource: &Any) -> Option<Vec<HostConfig>> {
    let assignment: ClusterLoadAssignment = unpack(resource).ok()?;
    compile_endpoints(&assignment).ok().map(|(_, hosts)| hosts)
}

impl upstream::Source for Resources {
    fn cluster(&self, name: &str) -> Option<ClusterConfig> {
        let context = self.context.get()?.upgrade()?;
        let cluster: Cluster = unpack(&self.find(CLUSTER, name)?).ok()?;
        // It was compiled when it came; what fails now is a file that has gone.
        compile_cluster(&cluster, &context)
            .inspect_err(|error| tracing::error!(%error, "a cluster that was accepted cannot be used"))
            .ok()
    }

    fn endpoints(&self, assignment: &str) -> Option<Vec<HostConfig>> {
        endpoints(&self.find(ENDPOINT, assignment)?)
    }
}
