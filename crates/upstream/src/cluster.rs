//! A cluster at run time: its configuration, hosts, limits and counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use telemetry::ResponseFlags;

use crate::balance::HostSet;
use crate::config::{Balance, ClusterConfig, Discovery, HostConfig, Security};
use crate::host::{Host, Outcome};

/// A name that routes hold; what stands behind it comes and goes.
#[derive(Debug)]
pub struct ClusterSlot {
    /// The cluster's name.
    pub name: Arc<str>,
    pub(crate) current: ArcSwapOption<Cluster>,
}

impl ClusterSlot {
    /// The cluster now, when there is one.
    pub fn load(&self) -> Option<Arc<Cluster>> {
        self.current.load_full()
    }
}

/// Counters of one cluster, under Envoy's names.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Each is Envoy's `cluster.NAME.upstream_*` of the same name.
pub struct ClusterStats {
    pub cx_total: AtomicU64,
    pub cx_active: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub cx_overflow: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_active: AtomicU64,
    pub rq_pending_active: AtomicU64,
    pub rq_pending_overflow: AtomicU64,
    pub rq_retry: AtomicU64,
    pub rq_retry_active: AtomicU64,
    pub rq_retry_overflow: AtomicU64,
    pub rq_timeout: AtomicU64,
    pub rq_2xx: AtomicU64,
    pub rq_3xx: AtomicU64,
    pub rq_4xx: AtomicU64,
    pub rq_5xx: AtomicU64,
    pub ejections_total: AtomicU64,
}

/// What a pick looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// Hash of the request, for consistent hashing.
    pub hash: Option<u64>,
    /// Hosts to avoid.
    pub tried: &'a [SocketAddr],
    /// The address the client dialled.
    pub original: Option<SocketAddr>,
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
}

impl Cluster {
    pub(crate) fn new(config: ClusterConfig, former: Option<&Self>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let hosts = former.map(|f| f.hosts.load().all.clone()).unwrap_or_default();
        let set = HostSet::new(hosts, config.balance, config.panic_percent);
        let cluster = Self {
            id: NEXT.fetch_add(1, Relaxed),
            stats: former.map(|f| f.stats.clone()).unwrap_or_default(),
            hosts: ArcSwap::from_pointee(set),
            config,
        };
        if let Discovery::Static(hosts) = &cluster.config.discovery {
            let hosts = hosts.clone();
            cluster.set_hosts(hosts);
        }
        Arc::new(cluster)
    }

    /// Puts new hosts in force; those whose address stays keep their memory.
    pub(crate) fn set_hosts(&self, configs: Vec<HostConfig>) {
        let former = self.hosts.load();
        let mut made: Vec<Arc<Host>> = Vec::with_capacity(configs.len());
        for config in configs {
            if made.iter().any(|h| h.address == config.address) {
                continue;
            }
            let same = former.all.iter().find(|h| h.address == config.address);
            made.push(match same {
                Some(host) if host.config == config => host.clone(),
                same => Host::new(config, same.map(|h| &**h)),
            });
        }
        for host in &former.all {
            if !made.iter().any(|h| h.id == host.id) {
                host.remove();
            }
        }
        self.hosts.store(Arc::new(HostSet::new(made, self.config.balance, self.config.panic_percent)));
    }

    /// All hosts.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        self.hosts.load().all.clone()
    }

    /// Picks a host.
    ///
    /// # Errors
    /// When there is none that may be used.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Arc<Host>, PickError> {
        if self.config.balance == Balance::Original {
            let address = context.original.ok_or(PickError::NoHealthyHost)?;
            return Ok(self.original(address));
        }
        let hosts = self.hosts.load();
        hosts.pick(self.config.balance, context.hash, context.tried).cloned().ok_or(PickError::NoHealthyHost)
    }

    /// A host made for one dialled address. Its identity is its address, so that pools find it again.
    fn original(&self, address: SocketAddr) -> Arc<Host> {
        if let Some(known) = self.hosts.load().all.iter().find(|h| h.address == address) {
            return known.clone();
        }
        let config =
            HostConfig { address, weight: 1, priority: 0, healthy: true, transport: Vec::new(), workload: None };
        let fresh = Host::new(config, None);
        /// Dialled addresses remembered; beyond that the oldest go.
        const MAX_ORIGINAL: usize = 1024;
        self.hosts.rcu(|set| {
            let mut all = set.all.clone();
            if all.len() >= MAX_ORIGINAL {
                all.remove(0).remove();
            }
            all.push(fresh.clone());
            HostSet::new(all, self.config.balance, self.config.panic_percent)
        });
        fresh
    }

    /// Transport security towards a host.
    pub fn security(&self, host: &Host) -> &Security {
        let fits = |wanted: &[(String, String)]| wanted.iter().all(|pair| host.config.transport.contains(pair));
        self.config.transport_matches.iter().find(|m| fits(&m.metadata)).map_or(&self.config.security, |m| &m.security)
    }

    /// A place for a request in flight; `None` when the circuit is open.
    pub fn request_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.rq_active, self.config.thresholds.requests, |s| &s.rq_pending_overflow)
    }

    /// A place for a request that waits for a connection.
    pub fn pending_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.rq_pending_active, self.config.thresholds.pending, |s| &s.rq_pending_overflow)
    }

    /// A place for a retry in flight.
    pub fn retry_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.rq_retry_active, self.config.thresholds.retries, |s| &s.rq_retry_overflow)
    }

    /// A place for a connection.
    pub fn connection_permit(&self) -> Option<Permit> {
        self.permit(|s| &s.cx_active, self.config.thresholds.connections, |s| &s.cx_overflow)
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
                let class = match status {
                    200..300 => &self.stats.rq_2xx,
                    300..400 => &self.stats.rq_3xx,
                    400..500 => &self.stats.rq_4xx,
                    _ => &self.stats.rq_5xx,
                };
                class.fetch_add(1, Relaxed);
                let host_class = if status >= 500 { &host.stats.rq_error } else { &host.stats.rq_success };
                host_class.fetch_add(1, Relaxed);
            }
            Outcome::LocalFailure => {
                host.stats.rq_error.fetch_add(1, Relaxed);
            }
            Outcome::Timeout => {
                host.stats.rq_timeout.fetch_add(1, Relaxed);
                self.stats.rq_timeout.fetch_add(1, Relaxed);
            }
        }
        let Some(rules) = &self.config.outlier else { return };
        if !host.count(rules, outcome) || host.is_ejected() {
            return;
        }
        let hosts = self.hosts.load();
        let aside = hosts.all.iter().filter(|h| h.is_ejected()).count();
        // Envoy: an ejection that would go over the percentage does not happen.
        if (aside + 1) * 100 <= hosts.all.len() * rules.max_ejection_percent as usize {
            let time = host.eject(rules);
            self.stats.ejections_total.fetch_add(1, Relaxed);
            tracing::info!(cluster = %self.config.name, host = %host.address, seconds = time.as_secs(), "host ejected");
        }
    }

    /// Lets the memory of past ejections fade; called once per outlier interval.
    pub(crate) fn fade(&self) {
        for host in &self.hosts.load().all {
            host.fade();
        }
    }
}
