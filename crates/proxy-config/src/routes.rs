//! A route configuration in force. One that came by its name may have a virtual host for each service of a mesh: those are
//! compiled when they come, so that what is wrong is refused, and again when a request takes them; in between they rest.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, OnceLock};

use envoy_api::envoy::config::route::v3 as proto;
use envoy_api::prost::Message;
use rules::RequestView;
use rules::route::Route;
use rules::table::{RouteTable, VirtualHost};
use upstream::ClusterSlot;

use crate::context::{Context, Refusal, Result, Under};
use crate::packed::{Packed, Packer};
use crate::route::virtual_host;

type Compiled = VirtualHost<Arc<ClusterSlot>>;

/// Key of fingerprints: the process's own.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A route configuration in force.
#[derive(Debug)]
pub struct Routes {
    table: RouteTable<Arc<Host>>,
}

/// One virtual host.
struct Host {
    /// What it is made of, where it rests.
    rest: Option<Rest>,
    /// `None`: it cannot be compiled any more.
    awake: OnceLock<Option<Box<Compiled>>>,
}

/// As what it does, if it is awake.
impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.awake.fmt(f)
    }
}

struct Rest {
    packed: Packed,
    packer: Packer,
    /// Of the bytes: hosts that did not change stay as they are.
    fingerprint: u64,
}

impl Host {
    fn get(&self, context: &Context) -> Option<&Compiled> {
        self.awake.get_or_init(|| self.wake(context).map(Box::new)).as_deref()
    }

    #[cold]
    fn wake(&self, context: &Context) -> Option<Compiled> {
        let rest = self.rest.as_ref()?;
        let host = proto::VirtualHost::decode(rest.packer.unpack(&rest.packed)?.as_slice()).ok()?;
        virtual_host(&host, context).ok()
    }
}

impl Routes {
    /// Virtual hosts that are used whatever is called: those of a listener itself.
    pub(crate) fn inline(proto: &proto::RouteConfiguration, context: &Context) -> Result<Self> {
        let hosts = proto.virtual_hosts.iter().map(|host| {
            let compiled = compile(host, context)?;
            let awake = OnceLock::from(Some(Box::new(compiled)));
            Ok((&host.domains, Arc::new(Host { rest: None, awake })))
        });
        Self::of(proto, hosts.collect::<Result<_>>()?)
    }

    /// Virtual hosts of which most are never used. What `former` had word for word is taken over.
    pub(crate) fn resting(proto: &proto::RouteConfiguration, context: &Context, former: Option<&Self>) -> Result<Self> {
        let known: HashMap<u64, &Arc<Host>> = former.into_iter().flat_map(Self::resting_hosts).collect();
        let mut packer = known.values().find_map(|host| Some(host.rest.as_ref()?.packer.clone())).unwrap_or_default();
        let hosts = proto.virtual_hosts.iter().map(|host| {
            let bytes = host.encode_to_vec();
            let fingerprint = FINGERPRINTS.hash_one(&bytes);
            if let Some(same) = known.get(&fingerprint) {
                return Ok((&host.domains, Arc::clone(same)));
            }
            compile(host, context)?;
            let packed = packer.pack(&bytes);
            let rest = Rest { packed, packer: packer.clone(), fingerprint };
            Ok((&host.domains, Arc::new(Host { rest: Some(rest), awake: OnceLock::new() })))
        });
        Self::of(proto, hosts.collect::<Result<_>>()?)
    }

    fn of(proto: &proto::RouteConfiguration, hosts: Vec<(&Vec<String>, Arc<Host>)>) -> Result<Self> {
        RouteTable::new(proto.name.as_str().into(), hosts, proto.ignore_port_in_host_matching)
            .map(|table| Self { table })
            .map_err(|e| Refusal::new("virtual_hosts", e))
    }

    fn resting_hosts(&self) -> impl Iterator<Item = (u64, &Arc<Host>)> {
        self.table.hosts().iter().filter_map(|host| Some((host.rest.as_ref()?.fingerprint, host)))
    }

    /// All virtual hosts; they wake by that.
    pub fn hosts(&self, context: &Context) -> impl Iterator<Item = &Compiled> {
        self.table.hosts().iter().filter_map(|host| host.get(context))
    }

    /// The virtual host and route a request takes.
    pub fn select(
        &self,
        request: &RequestView<'_>,
        context: &Context,
    ) -> Option<(&Compiled, &Route<Arc<ClusterSlot>>)> {
        let host = self.table.host(request.authority)?.get(context)?;
        host.route(request).map(|route| (host, route))
    }
}

fn compile(host: &proto::VirtualHost, context: &Context) -> Result<Compiled> {
    virtual_host(host, context).under(format!("virtual_hosts[{}]", host.name))
}

#[cfg(test)]
mod tests;
