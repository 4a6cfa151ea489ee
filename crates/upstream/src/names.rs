//! Clusters whose callers bring the name: it is asked of DNS when somebody calls it, as often as its answer runs out
//! while somebody calls, and forgotten when nobody has called for long (Envoy's dynamic forward proxy).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::cluster::{Cluster, PickContext};
use crate::config::{Discovery, HostConfig, NameLimits};
use crate::dns::{PAUSE, STALE};
use crate::host::{self, Host};
use crate::resolver::Resolver;

/// Where a caller wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name in lower case, or an address.
    host: Box<str>,
    port: u16,
}

impl Target {
    /// The longest name (RFC 1035, 2.3.4).
    const LONGEST: usize = 253;

    /// A host and a port; `None` when it can be no host.
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let is_name = !host.is_empty() && host.len() <= Self::LONGEST && host.bytes().all(known);
        let is_host = port != 0 && (is_name || bare.parse::<IpAddr>().is_ok());
        is_host.then(|| Self { host: bare.to_ascii_lowercase().into(), port })
    }

    /// What a request's authority names; the port where it names none.
    pub fn of_authority(authority: &str, port: u16) -> Option<Self> {
        match authority.rsplit_once(':') {
            Some((host, digits)) if !digits.contains(']') => Self::new(host, digits.parse().ok()?),
            _ => Self::new(authority, port),
        }
    }
}

/// Why a name leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// As many names are known as may be.
    Overflow,
    /// DNS has no address for it.
    NoAddress,
}

/// The names that were called.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: ArcSwap<HashMap<Target, Arc<Named>>>,
    /// Held by whoever changes the set of names; never while a host is picked.
    changing: Mutex<()>,
}

/// One name and its addresses.
#[derive(Debug)]
pub(crate) struct Named {
    target: Target,
    limits: NameLimits,
    hosts: ArcSwap<Vec<Arc<Host>>>,
    /// Held while DNS is asked, so that many first callers ask once.
    asking: tokio::sync::Mutex<()>,
    /// Times on [`host::now`]'s clock, as those of a cluster that knows its names.
    fresh_until: AtomicU64,
    unresolved_at: AtomicU64,
    used_at: AtomicU64,
    called: AtomicBool,
}

impl Named {
    fn is_known(&self) -> bool {
        !self.hosts.load().is_empty()
    }

    fn is_due(&self) -> bool {
        self.called.load(Relaxed) && host::now() >= self.fresh_until.load(Relaxed)
    }

    /// Whether there is no address, or it has long run out, and DNS may be asked.
    fn must_ask(&self) -> bool {
        let failed = self.unresolved_at.load(Relaxed);
        let over = !self.is_known() || host::now() >= self.fresh_until.load(Relaxed).saturating_add(STALE);
        over && (failed == 0 || host::now() >= failed.saturating_add(PAUSE))
    }

    async fn ask(&self, cluster: &Cluster, resolver: &Resolver) {
        self.called.store(false, Relaxed);
        let found = resolver.lookup(&self.target.host).await;
        let now = host::now();
        let wanted = |ip: &IpAddr| ip.is_ipv4() || !self.limits.ipv4_only;
        match found.map(|found| (found.addresses.into_iter().filter(wanted).collect::<Vec<_>>(), found.life)) {
            Ok((addresses, life)) if !addresses.is_empty() => {
                self.unresolved_at.store(0, Relaxed);
                self.fresh_until.store(now.saturating_add(host::millis(life)), Relaxed);
                self.put(cluster, &addresses);
            }
            // What was known stays in force (as Envoy).
            other => {
                self.unresolved_at.store(now, Relaxed);
                self.fresh_until.store(now.saturating_add(PAUSE), Relaxed);
                let error = other.err().unwrap_or_else(|| "no IPv4 address".to_owned());
                tracing::warn!(cluster = %cluster.config.name, host = %self.target.host, error, "DNS gave no answer");
            }
        }
    }

    fn put(&self, cluster: &Cluster, addresses: &[IpAddr]) {
        let former = self.hosts.load();
        let made = |ip: &IpAddr| {
            let address = SocketAddr::new(*ip, self.target.port);
            let known = former.iter().find(|h| h.address.ip() == Some(address)).cloned();
            known.unwrap_or_else(|| Host::new(HostConfig::new(address), None))
        };
        let hosts: Vec<Arc<Host>> = addresses.iter().map(made).collect();
        let is_gone = |h: &&Arc<Host>| !hosts.iter().any(|now| now.id == h.id);
        if hosts.len() == former.len() && former.iter().all(|h| !is_gone(&h)) {
            return;
        }
        former.iter().filter(is_gone).for_each(|h| h.remove());
        self.hosts.store(Arc::new(hosts));
        cluster.names.tell(cluster);
    }
}

impl Names {
    fn find_or_add(&self, target: &Target, limits: NameLimits) -> Result<Arc<Named>, NameError> {
        if let Some(known) = self.known.load().get(target) {
            return Ok(known.clone());
        }
        let _changing = self.changing.lock();
        let known = self.known.load();
        if let Some(known) = known.get(target) {
            return Ok(known.clone());
        }
        if known.len() >= limits.most as usize {
            return Err(NameError::Overflow);
        }
        let fresh = Arc::new(Named {
            target: target.clone(),
            limits,
            hosts: ArcSwap::default(),
            asking: tokio::sync::Mutex::default(),
            fresh_until: AtomicU64::new(0),
            unresolved_at: AtomicU64::new(0),
            used_at: AtomicU64::new(host::now()),
            called: AtomicBool::new(false),
        });
        let mut all = HashMap::clone(&known);
        all.insert(target.clone(), fresh.clone());
        self.known.store(Arc::new(all));
        Ok(fresh)
    }

    /// The first address of a name that was not tried and is not aside; as with Envoy, the order is DNS's.
    pub(crate) fn pick(&self, context: &PickContext<'_>) -> Option<Arc<Host>> {
        let known = self.known.load();
        let hosts = known.get(context.target?)?.hosts.load();
        let fresh = |h: &&Arc<Host>| !context.tried.contains(&h.address);
        let well = hosts.iter().filter(fresh).find(|h| h.is_available());
        well.or_else(|| hosts.iter().find(fresh)).or_else(|| hosts.first()).cloned()
    }

    /// All hosts of all names are the cluster's.
    fn tell(&self, cluster: &Cluster) {
        let _changing = self.changing.lock();
        let known = self.known.load();
        cluster.put_hosts(known.values().flat_map(|named| named.hosts.load().to_vec()).collect());
    }

    /// Forgets names that nobody has called for long.
    fn forget(&self, cluster: &Cluster) {
        let over = |named: &Named| {
            host::now() >= named.used_at.load(Relaxed).saturating_add(host::millis(named.limits.unused))
        };
        if !self.known.load().values().any(|named| over(named)) {
            return;
        }
        {
            let _changing = self.changing.lock();
            let (gone, kept): (HashMap<_, _>, HashMap<_, _>) =
                HashMap::clone(&self.known.load()).into_iter().partition(|(_, named)| over(named));
            gone.values().for_each(|named| named.hosts.load().iter().for_each(|h| h.remove()));
            self.known.store(Arc::new(kept));
        }
        self.tell(cluster);
    }
}

/// Finds the addresses of a name, when its cluster is one whose callers bring the name. Callers at the same time share
/// one question; an answer that ran out is used while another is fetched.
pub(crate) async fn ready(
    cluster: &Cluster,
    target: &Target,
    limits: NameLimits,
    resolver: &Resolver,
) -> Result<(), NameError> {
    let Discovery::Names(own) = cluster.config.discovery else { return Ok(()) };
    let both = NameLimits {
        most: own.most.min(limits.most),
        unused: own.unused.min(limits.unused),
        ipv4_only: own.ipv4_only || limits.ipv4_only,
    };
    let named = cluster.names.find_or_add(target, both)?;
    let now = host::now();
    named.used_at.store(now, Relaxed);
    let fresh_until = named.fresh_until.load(Relaxed);
    if named.is_known() && now < fresh_until {
        return Ok(());
    }
    named.called.store(true, Relaxed);
    if named.is_known() && now < fresh_until.saturating_add(STALE) {
        return Ok(());
    }
    let _asking = named.asking.lock().await;
    // Another caller may have asked meanwhile.
    if named.must_ask() {
        named.ask(cluster, resolver).await;
    }
    if named.is_known() { Ok(()) } else { Err(NameError::NoAddress) }
}

/// Forgets what nobody calls, and gives the names that somebody has called since their answers ran out.
pub(crate) fn due(cluster: &Cluster) -> Vec<Arc<Named>> {
    if !cluster.is_named() {
        return Vec::new();
    }
    cluster.names.forget(cluster);
    cluster.names.known.load().values().filter(|named| named.is_known() && named.is_due()).cloned().collect()
}

/// Asks again for a name that is due.
pub(crate) async fn refresh(cluster: &Cluster, named: &Named, resolver: &Resolver) {
    let _asking = named.asking.lock().await;
    if named.is_due() {
        named.ask(cluster, resolver).await;
    }
}

#[cfg(test)]
mod tests;
