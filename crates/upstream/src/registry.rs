//! All clusters by name.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;
use telemetry::{Stat, StatKind};
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterSlot};
use crate::config::{ClusterConfig, Discovery, DnsTarget, HostConfig};

/// All clusters by name; a slot exists from its first mention on.
#[derive(Debug, Default)]
pub struct Registry {
    slots: RwLock<HashMap<Arc<str>, Arc<ClusterSlot>>>,
    /// Endpoints that came before their cluster, by assignment name.
    early: RwLock<HashMap<Arc<str>, Vec<HostConfig>>>,
}

impl Registry {
    /// The slot of a name.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        if let Some(found) = self.slots.read().get(name) {
            return found.clone();
        }
        let name: Arc<str> = Arc::from(name);
        let fresh = || Arc::new(ClusterSlot { name: name.clone(), current: None.into() });
        self.slots.write().entry(name.clone()).or_insert_with(fresh).clone()
    }

    /// Puts a cluster in force; hosts and counters of the former one stay.
    pub fn apply(&self, config: ClusterConfig) {
        let slot = self.slot(&config.name);
        let former = slot.load();
        let assignment = match &config.discovery {
            Discovery::Eds(name) => Some(name.clone()),
            _ => None,
        };
        let cluster = Cluster::new(config, former.as_deref());
        if let Some(hosts) = assignment.and_then(|name| self.early.read().get(&name).cloned()) {
            cluster.set_hosts(hosts);
        }
        slot.current.store(Some(cluster));
    }

    /// Takes a cluster away; requests in flight finish.
    pub fn remove(&self, name: &str) {
        let slot = self.slots.read().get(name).cloned();
        if let Some(cluster) = slot.and_then(|s| s.current.swap(None)) {
            cluster.set_hosts(Vec::new());
        }
        self.early.write().remove(name);
    }

    /// Puts the endpoints of an assignment in force in every cluster that asks for it.
    pub fn apply_endpoints(&self, assignment: &str, hosts: Vec<HostConfig>) {
        for cluster in self.clusters() {
            if matches!(&cluster.config.discovery, Discovery::Eds(name) if &**name == assignment) {
                cluster.set_hosts(hosts.clone());
            }
        }
        self.early.write().insert(Arc::from(assignment), hosts);
    }

    /// Whether endpoints of an assignment have arrived.
    pub fn has_endpoints(&self, assignment: &str) -> bool {
        self.early.read().contains_key(assignment)
    }

    /// All clusters in force, by name.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<Arc<Cluster>> = self.slots.read().values().filter_map(|s| s.load()).collect();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }

    /// Names of the assignments that clusters ask for.
    pub fn assignments(&self) -> Vec<String> {
        let name = |c: &Arc<Cluster>| match &c.config.discovery {
            Discovery::Eds(name) => Some(name.to_string()),
            _ => None,
        };
        self.clusters().iter().filter_map(name).collect()
    }

    /// Keeps DNS clusters resolved and lets ejections fade; runs for ever on the control thread.
    pub async fn maintain(self: Arc<Self>) {
        /// Between two looks; Envoy's default DNS refresh rate.
        const LOOK: Duration = Duration::from_secs(5);
        let mut faded: HashMap<u64, Instant> = HashMap::new();
        loop {
            for cluster in self.clusters() {
                if let Discovery::Dns(targets) = &cluster.config.discovery
                    && cluster.stats.rq_total.load(Relaxed) + cluster.stats.cx_total.load(Relaxed) > 0
                {
                    resolve(&cluster, targets).await;
                }
                if let Some(rules) = &cluster.config.outlier {
                    let last = faded.entry(cluster.id).or_insert_with(Instant::now);
                    if last.elapsed() >= rules.interval {
                        *last = Instant::now();
                        cluster.fade();
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Reports the counters of all clusters under Envoy's names.
    pub fn stats(&self, emit: &mut dyn FnMut(Stat<'_>)) {
        for cluster in self.clusters() {
            let s = &cluster.stats;
            let counters = [
                ("upstream_cx_total", &s.cx_total),
                ("upstream_cx_connect_fail", &s.cx_connect_fail),
                ("upstream_cx_overflow", &s.cx_overflow),
                ("upstream_rq_total", &s.rq_total),
                ("upstream_rq_2xx", &s.rq_2xx),
                ("upstream_rq_3xx", &s.rq_3xx),
                ("upstream_rq_4xx", &s.rq_4xx),
                ("upstream_rq_5xx", &s.rq_5xx),
                ("upstream_rq_pending_overflow", &s.rq_pending_overflow),
                ("upstream_rq_retry", &s.rq_retry),
                ("upstream_rq_retry_overflow", &s.rq_retry_overflow),
                ("upstream_rq_timeout", &s.rq_timeout),
                ("outlier_detection.ejections_enforced_total", &s.ejections_total),
            ];
            let gauges = [
                ("upstream_cx_active", &s.cx_active),
                ("upstream_rq_active", &s.rq_active),
                ("upstream_rq_pending_active", &s.rq_pending_active),
            ];
            let entity = Some(("cluster_name", &*cluster.config.name));
            let mut tell = |leaf, counter: &AtomicU64, kind| {
                let value = i64::try_from(counter.load(Relaxed)).unwrap_or(i64::MAX);
                emit(Stat { scope: "cluster", entity, leaf, kind, value });
            };
            counters.into_iter().for_each(|(leaf, counter)| tell(leaf, counter, StatKind::Counter));
            gauges.into_iter().for_each(|(leaf, counter)| tell(leaf, counter, StatKind::Gauge));
        }
    }

    /// Resolves a DNS cluster that has no host yet: a name is asked only when somebody calls it.
    pub async fn ready(cluster: &Cluster) {
        if let Discovery::Dns(targets) = &cluster.config.discovery
            && cluster.hosts().is_empty()
        {
            resolve(cluster, targets).await;
        }
    }
}

/// Asks DNS; a failure keeps the last good answer.
async fn resolve(cluster: &Cluster, targets: &[DnsTarget]) {
    let mut hosts = Vec::new();
    for target in targets {
        match tokio::net::lookup_host((target.host.as_str(), target.port)).await {
            Ok(addresses) => hosts.extend(addresses.filter(|a| a.is_ipv4()).map(|address| HostConfig {
                address,
                weight: 1,
                priority: 0,
                healthy: true,
                transport: Vec::new(),
                workload: None,
            })),
            Err(error) => {
                tracing::warn!(cluster = %cluster.config.name, host = %target.host, %error, "DNS gave no answer");
                return;
            }
        }
    }
    cluster.set_hosts(hosts);
}
