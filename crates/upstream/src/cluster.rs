//! A cluster at run time: its configuration, hosts, limits and counters.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use telemetry::ResponseFlags;

use crate::address::Address;
use crate::balance::{Around, HostSet, Replicas};
use crate::config::{Balance, ClusterConfig, Discovery, HostConfig, Outlier, Security};
use crate::host::{self, Host, Outcome};
use crate::names::{Names, Target};
use crate::recent::Recent;
use crate::stats::ClusterStats;

/// What a pick looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// Hash of the request, for consistent hashing.
    pub hash: Option<u64>,
    /// Hosts to avoid.
    pub tried: &'a [Address],
    /// Priorities to avoid while another has a host that is well.
    pub priorities: &'a [u32],
    /// The address the client dialled.
    pub original: Option<SocketAddr>,
    /// Where the caller wants to go, where callers bring the name.
    pub target: Option<&'a Target>,
}

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// There is none, or none is well.
    NoHealthyHost,
}

impl PickError {
    /// Envoy's response flag.
    pub fn flag(self) -> ResponseFlags {
        ResponseFlags::UH
    }
}

/// A place under a limit, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    stats: Arc<ClusterStats>,
    of: fn(&ClusterStats) -> &AtomicU64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.of)(&self.stats).fetch_sub(1, Relaxed);
    }
}

/// Where the replicas of the workload beside this proxy are; nothing when it does not know them. All clusters share it.
pub(crate) type Beside = Arc<ArcSwapOption<Replicas>>;

/// A cluster at run time.
#[derive(Debug)]
pub struct Cluster {
    /// Identity of this configuration within the process; pools are kept by it.
    pub id: u64,
    /// Its configuration.
    pub config: ClusterConfig,
    /// Its counters; they outlive a new configuration.
    pub stats: Arc<ClusterStats>,
    hosts: ArcSwap<HostSet>,
    beside: Beside,
    /// What callers named; it outlives a new configuration.
    pub(crate) names: Arc<Names>,
    /// Requests of late, where the retry budget looks at them.
    recent: Option<Recent>,
    /// Held by whoever makes a new host set of the present one; never while a host is picked.
    writing: Mutex<()>,
    retired: AtomicBool,
    /// The last good answer of DNS for each target; held while DNS is asked, so that many first callers ask once.
    pub(crate) answers: tokio::sync::Mutex<Vec<Vec<HostConfig>>>,
    /// When DNS last gave no answer, and when ejections last faded, on [`host::now`]'s clock.
    pub(crate) unresolved_at: AtomicU64,
    /// Until when the answers of DNS hold, on [`host::now`]'s clock, and whether somebody has called since.
    pub(crate) fresh_until: AtomicU64,
    pub(crate) called: AtomicBool,
    faded_at: AtomicU64,
}

impl Cluster {
    pub(crate) fn new(config: ClusterConfig, former: Option<&Self>, beside: Beside) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let hosts = former.map(|f| f.hosts.load().all.clone()).unwrap_or_default();
        let stats: Arc<ClusterStats> = former.map(|f| f.stats.clone()).unwrap_or_default();
        let set = host_set(hosts, &config, &beside, &stats);
        let cluster = Self {
            id: NEXT.fetch_add(1, Relaxed),
            stats,
            hosts: ArcSwap::from_pointee(set),
            beside,
            names: former.map(|f| f.names.clone()).unwrap_or_default(),
            recent: config.thresholds.retry_budget.and_then(|budget| budget.interval).map(Recent::new),
            writing: Mutex::default(),
            retired: AtomicBool::new(false),
            answers: tokio::sync::Mutex::default(),
            unresolved_at: AtomicU64::new(0),
            fresh_until: AtomicU64::new(0),
            called: AtomicBool::new(false),
            faded_at: AtomicU64::new(host::now()),
            config,
        };
        if let Discovery::Static(hosts) = &cluster.config.discovery {
            let hosts = hosts.clone();
            cluster.set_hosts(hosts);
        }
        Arc::new(cluster)
    }

    /// Whether another configuration took its place, or it was taken away; its idle connections are then closed.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Puts new hosts in force; those whose address stays keep their memory. Of two with one address the first counts.
    pub(crate) fn set_hosts(&self, configs: Vec<HostConfig>) {
        let _writing = self.writing.lock();
        let former = self.hosts.load();
        let known: HashMap<&Address, &Arc<Host>> = former.all.iter().map(|h| (&h.address, h)).collect();
        let mut made: Vec<Arc<Host>> = Vec::with_capacity(configs.len());
        let mut seen = HashSet::with_capacity(configs.len());
        for config in configs {
            if seen.insert(config.address.clone()) {
                made.push(match known.get(&config.address) {
                    Some(host) if host.config == config => (*host).clone(),
                    former => Host::new(config, former.map(|h| &***h)),
                });
            }
        }
        let kept: HashSet<u64> = made.iter().map(|h| h.id).collect();
        former.all.iter().filter(|h| !kept.contains(&h.id)).for_each(|h| h.remove());
        self.store(made);
    }

    /// Puts hosts in force that are made already.
    pub(crate) fn put_hosts(&self, hosts: Vec<Arc<Host>>) {
        let _writing = self.writing.lock();
        self.store(hosts);
    }

    fn store(&self, hosts: Vec<Arc<Host>>) {
        self.hosts.store(Arc::new(host_set(hosts, &self.config, &self.beside, &self.stats)));
    }

    /// Whether the proxy knows its own replicas.
    pub(crate) fn knows_replicas(&self) -> bool {
        self.beside.load().is_some()
    }

    /// Sorts the hosts anew by zone: the replicas are elsewhere.
    pub(crate) fn follow_replicas(&self) {
        if self.config.zone_aware.is_some() {
            let _writing = self.writing.lock();
            self.store(self.hosts.load().all.clone());
        }
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.load().all.clone()
    }

    /// Whether there is no host.
    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.load().all.is_empty()
    }

    /// Whether callers bring the name.
    pub fn is_named(&self) -> bool {
        matches!(self.config.discovery, Discovery::Names(_))
    }

    /// Picks a host.
    ///
    /// # Errors
    /// When there is none that may be used.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Arc<Host>, PickError> {
        if self.is_named() {
            return self.names.pick(context).ok_or(PickError::NoHealthyHost);
        }
        if self.config.balance == Balance::Original {
            return Ok(self.original(context.original.ok_or(PickError::NoHealthyHost)?));
        }
        self.refresh();
        let hosts = self.hosts.load();
        hosts.pick(self.config.balance, context).cloned().ok_or(PickError::NoHealthyHost)
    }

    /// Lets hosts whose time aside is over come back.
    fn refresh(&self) {
        if self.hosts.load().is_stale() {
            let _writing = self.writing.lock();
            let hosts = self.hosts.load();
            if hosts.is_stale() {
                self.store(hosts.all.clone());
            }
        }
    }

    /// A host made for one dialled address; pools find it again by its identity.
    fn original(&self, address: SocketAddr) -> Arc<Host> {
        /// Dialled addresses remembered; beyond that the oldest go.
        const MAX_ORIGINAL: usize = 1024;
        let find = |set: &HostSet| set.all.iter().find(|h| h.address.ip() == Some(address)).cloned();
        if let Some(known) = find(&self.hosts.load()) {
            return known;
        }
        let _writing = self.writing.lock();
        let hosts = self.hosts.load();
        if let Some(known) = find(&hosts) {
            return known;
        }
        let fresh = Host::new(HostConfig::new(address), None);
        let mut all = hosts.all.clone();
        if all.len() >= MAX_ORIGINAL {
            all.remove(0).remove();
        }
        all.push(fresh.clone());
        self.store(all);
        fresh
    }

    /// Transport security towards a host.
    pub fn security(&self, host: &Host) -> &Security {
        let fits = |wanted: &[(String, String)]| wanted.iter().all(|pair| host.config.transport.contains(pair));
        self.config.transport_matches.iter().find(|m| fits(&m.metadata)).map_or(&self.config.security, |m| &m.security)
    }

    /// One more request has come, whatever becomes of it: retry budgets look at them.
    pub fn note_request(&self) {
        if let Some(recent) = &self.recent {
            recent.add();
        }
    }

    /// A place for a request that has a connection; `None` when the circuit is open.
    pub(crate) fn request_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.rq_active, self.config.thresholds.requests, |s| &s.rq_pending_overflow)
    }

    /// A place for a request that waits for a connection.
    pub fn pending_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.rq_pending_active, self.config.thresholds.pending, |s| &s.rq_pending_overflow)
    }

    /// A place for a retry in flight.
    pub fn retry_permit(&self) -> Option<Permit> {
        let limit = match &self.config.thresholds.retry_budget {
            Some(budget) => {
                let in_flight = || self.stats.rq_active.load(Relaxed) + self.stats.rq_pending_active.load(Relaxed);
                let requests = self.recent.as_ref().map_or_else(in_flight, Recent::count);
                let share = u128::from(requests) * u128::from(budget.per_million) / 1_000_000;
                u32::try_from(share).unwrap_or(u32::MAX - 1).max(budget.least)
            }
            None => self.config.thresholds.retries,
        };
        self.permit(|s| &s.rq_retry_active, limit, |s| &s.rq_retry_overflow)
    }

    /// A place for a connection.
    pub fn connection_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.cx_active, self.config.thresholds.connections, |s| &s.cx_overflow)
    }

    /// A place for a connection beyond the limit: with Envoy each pool may have one, or it could never serve.
    pub(crate) fn first_connection_permit(&self) -> Permit {
        self.stats.cx_active.fetch_add(1, Relaxed);
        Permit { stats: self.stats.clone(), of: |s| &s.cx_active }
    }

    fn permit(
        &self,
        of: fn(&ClusterStats) -> &AtomicU64,
        limit: u32,
        overflow: fn(&ClusterStats) -> &AtomicU64,
    ) -> Option<Permit> {
        let active = of(&self.stats).fetch_add(1, Relaxed);
        let permit = Permit { stats: self.stats.clone(), of };
        if limit != u32::MAX && active >= u64::from(limit) {
            overflow(&self.stats).fetch_add(1, Relaxed);
            return None;
        }
        Some(permit)
    }

    /// Tells how a request to a host ended; may put the host aside.
    pub fn report(&self, host: &Host, outcome: Outcome) {
        match outcome {
            Outcome::Status(status) => {
                self.stats.class(status).fetch_add(1, Relaxed);
                let host_class = if status >= 500 { &host.stats.rq_error } else { &host.stats.rq_success };
                host_class.fetch_add(1, Relaxed);
            }
            Outcome::LocalFailure | Outcome::Broken => {
                host.stats.rq_error.fetch_add(1, Relaxed);
            }
            Outcome::Timeout => {
                host.stats.rq_timeout.fetch_add(1, Relaxed);
                self.stats.rq_timeout.fetch_add(1, Relaxed);
            }
        }
        if let Some(rules) = &self.config.outlier
            && host.count(rules, outcome)
        {
            self.eject(host, rules);
        }
    }

    /// Puts a host aside, unless too many are.
    fn eject(&self, host: &Host, rules: &Outlier) {
        let _writing = self.writing.lock();
        if host.is_ejected() || host.is_removed() {
            return;
        }
        let hosts = self.hosts.load();
        let aside = hosts.all.iter().filter(|h| h.is_ejected()).count();
        // Envoy: an ejection that would go over the percentage does not happen.
        if (aside + 1) * 100 > hosts.all.len() * rules.max_ejection_percent as usize {
            self.stats.ejections_overflow.fetch_add(1, Relaxed);
            return;
        }
        let time = host.eject(rules);
        self.stats.ejections_total.fetch_add(1, Relaxed);
        self.store(hosts.all.clone());
        tracing::info!(cluster = %self.config.name, host = %host.address, seconds = time.as_secs(), "host ejected");
    }

    /// The sweep of outlier detection: brings hosts back and, once an interval, lets the memory of ejections fade.
    pub(crate) fn sweep(&self) {
        let Some(rules) = &self.config.outlier else { return };
        self.refresh();
        let now = host::now();
        if now.saturating_sub(self.faded_at.load(Relaxed)) >= host::millis(rules.interval) {
            self.faded_at.store(now, Relaxed);
            self.hosts.load().all.iter().for_each(|h| h.fade());
        }
    }
}

fn host_set(all: Vec<Arc<Host>>, config: &ClusterConfig, beside: &Beside, stats: &Arc<ClusterStats>) -> HostSet {
    let replicas = beside.load();
    let around = replicas.as_deref().map(|replicas| Around { replicas, stats });
    HostSet::new(all, config, around)
}

#[cfg(test)]
mod tests;
