//! All clusters by name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use telemetry::Stat;
use tokio::sync::watch;

use crate::balance::Replicas;
use crate::cluster::{Beside, Cluster};
use crate::config::{ClusterConfig, Discovery, HostConfig, NameLimits};
use crate::names::{NameError, Target};
use crate::resolver::Resolver;
use crate::{dns, names, stats};

/// What the control plane said, for whoever needs it at run time.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// The configuration of a cluster.
    fn cluster(&self, name: &str) -> Option<ClusterConfig>;
    /// The endpoints of an assignment; `None` when none have come.
    fn endpoints(&self, assignment: &str) -> Option<Vec<HostConfig>>;
}

/// Nothing to ask: what is put in force is all there is.
impl Source for () {
    fn cluster(&self, _: &str) -> Option<ClusterConfig> {
        None
    }

    fn endpoints(&self, _: &str) -> Option<Vec<HostConfig>> {
        None
    }
}

/// The cluster whose hosts are the replicas of the workload beside this proxy (Envoy's `local_cluster_name`): who calls
/// decides, beside who is called, how many requests stay in a zone.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    /// The cluster, and the assignment that it asks for.
    pub name: Arc<str>,
    /// The workload's own address: where that is, this proxy is.
    pub ip: IpAddr,
    /// Where this proxy is when no host has its address, as `region/zone/subzone`.
    pub locality: Option<Arc<str>>,
}

/// Shared by a registry and its slots.
#[derive(Debug)]
struct Sleepers {
    source: Arc<dyn Source>,
    /// Held by whoever puts a cluster in force or wakes one, so that none misses what came meanwhile.
    one: Mutex<()>,
    local: OnceLock<LocalCluster>,
    /// Where the hosts of the local cluster are.
    beside: Beside,
}

impl Sleepers {
    fn make(&self, config: ClusterConfig, former: Option<&Cluster>) -> Arc<Cluster> {
        let cluster = Cluster::new(config, former, self.beside.clone());
        if let Some(hosts) = assignment(&cluster).and_then(|name| self.source.endpoints(name)) {
            cluster.set_hosts(hosts);
        }
        cluster
    }
}

/// A name that routes hold; what stands behind it comes and goes.
#[derive(Debug)]
pub struct ClusterSlot {
    /// The cluster's name.
    pub name: Arc<str>,
    current: ArcSwapOption<Cluster>,
    /// There is a cluster, and nobody has called it yet.
    asleep: AtomicBool,
    sleepers: Arc<Sleepers>,
}

impl ClusterSlot {
    /// The cluster now, when there is one; the first caller wakes it.
    pub fn load(&self) -> Option<Arc<Cluster>> {
        self.current.load_full().or_else(|| if self.asleep.load(Relaxed) { self.wake() } else { None })
    }

    #[cold]
    fn wake(&self) -> Option<Arc<Cluster>> {
        let _one = self.sleepers.one.lock();
        if let Some(awake) = self.current.load_full() {
            return Some(awake);
        }
        let cluster = self.dream()?;
        self.current.store(Some(cluster.clone()));
        self.asleep.store(false, Relaxed);
        Some(cluster)
    }

    /// The cluster as it would be if somebody called it.
    fn dream(&self) -> Option<Arc<Cluster>> {
        let config = self.asleep.load(Relaxed).then(|| self.sleepers.source.cluster(&self.name))??;
        Some(self.sleepers.make(config, None))
    }
}

/// All clusters by name; a slot exists from its first mention on.
#[derive(Debug)]
pub struct Registry {
    slots: RwLock<HashMap<Arc<str>, Arc<ClusterSlot>>>,
    /// The assignment each cluster asks for, by the cluster's name.
    assignments: RwLock<HashMap<Arc<str>, Arc<str>>>,
    sleepers: Arc<Sleepers>,
    /// Told when hosts or clusters have come or gone.
    changed: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Arc::new(()))
    }
}

impl Registry {
    /// An empty one, which asks this source for endpoints, and for clusters that were called for the first time.
    pub fn new(source: Arc<dyn Source>) -> Self {
        let (local, beside) = (OnceLock::new(), Beside::default());
        let sleepers = Arc::new(Sleepers { source, one: Mutex::default(), local, beside });
        Self { slots: RwLock::default(), assignments: RwLock::default(), sleepers, changed: watch::Sender::default() }
    }

    /// The slot of a name.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        if let Some(found) = self.slots.read().get(name) {
            return found.clone();
        }
        let name: Arc<str> = Arc::from(name);
        let fresh = || {
            let sleepers = self.sleepers.clone();
            Arc::new(ClusterSlot { name: name.clone(), current: None.into(), asleep: false.into(), sleepers })
        };
        self.slots.write().entry(name.clone()).or_insert_with(fresh).clone()
    }

    /// Puts a cluster in force; hosts and counters of the former one stay.
    pub fn apply(&self, config: ClusterConfig) {
        let slot = self.slot(&config.name);
        let _one = self.sleepers.one.lock();
        self.put(&slot, config);
    }

    /// Puts the cluster of the workload's own replicas in force, for the whole life of the process; once.
    pub fn set_local(&self, local: LocalCluster) {
        let config = ClusterConfig::new(&local.name, Discovery::Eds(local.name.clone()));
        if self.sleepers.local.set(local).is_ok() {
            self.apply(config);
        }
    }

    /// Puts a cluster that the source has in force; one that nobody has called sleeps until somebody does.
    pub fn offer(&self, config: ClusterConfig) {
        let slot = self.slot(&config.name);
        let _one = self.sleepers.one.lock();
        if slot.current.load().is_some() {
            return self.put(&slot, config);
        }
        self.note(&slot.name, &config.discovery);
        slot.asleep.store(true, Relaxed);
    }

    fn put(&self, slot: &ClusterSlot, config: ClusterConfig) {
        self.note(&slot.name, &config.discovery);
        let former = slot.current.load_full();
        slot.current.store(Some(self.sleepers.make(config, former.as_deref())));
        slot.asleep.store(false, Relaxed);
        if let Some(former) = former {
            former.retire();
        }
        self.changed.send_replace(());
    }

    fn note(&self, cluster: &Arc<str>, discovery: &Discovery) {
        let mut assignments = self.assignments.write();
        match discovery {
            // Mostly they have one name.
            Discovery::Eds(name) if name == cluster => assignments.insert(cluster.clone(), cluster.clone()),
            Discovery::Eds(name) => assignments.insert(cluster.clone(), name.clone()),
            _ => assignments.remove(cluster),
        };
    }

    /// Takes a cluster away; requests in flight finish. The assignment that no cluster asks for any more.
    pub fn remove(&self, name: &str) -> Option<Arc<str>> {
        let slot = self.slots.read().get(name).cloned()?;
        let _one = self.sleepers.one.lock();
        slot.asleep.store(false, Relaxed);
        if let Some(cluster) = slot.current.swap(None) {
            cluster.retire();
            cluster.set_hosts(Vec::new());
            self.changed.send_replace(());
        }
        let mut slots = self.slots.write();
        // The registry's and ours: no route holds it.
        if Arc::strong_count(&slot) == 2 {
            slots.remove(name);
        }
        let mut assignments = self.assignments.write();
        let asked = assignments.remove(name)?;
        (!assignments.values().any(|other| *other == asked)).then_some(asked)
    }

    /// Puts the endpoints of an assignment in force in every cluster that asks for it and was called.
    pub fn apply_endpoints(&self, assignment: &str, hosts: &[HostConfig]) {
        let _one = self.sleepers.one.lock();
        let mut told = false;
        for cluster in self.clusters() {
            if self::assignment(&cluster).is_some_and(|name| &**name == assignment) {
                cluster.set_hosts(hosts.to_vec());
                told = true;
            }
        }
        self.follow_replicas(assignment);
        if told {
            self.changed.send_replace(());
        }
    }

    /// When the hosts of the local cluster have changed, those of all others are sorted anew.
    fn follow_replicas(&self, assignment: &str) {
        let Some(local) = self.sleepers.local.get().filter(|local| &*local.name == assignment) else { return };
        let Some(own) = self.slots.read().get(&local.name).and_then(|slot| slot.current.load_full()) else { return };
        let now = Replicas::new(&own.hosts(), local.ip, local.locality.clone());
        if self.sleepers.beside.load().as_deref() != Some(&now) {
            self.sleepers.beside.store(Some(Arc::new(now)));
            self.clusters().iter().for_each(|cluster| cluster.follow_replicas());
        }
    }

    /// Tells when hosts or clusters have come or gone: pools then let go of what is idle at those that went.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn slots(&self) -> Vec<Arc<ClusterSlot>> {
        self.slots.read().values().cloned().collect()
    }

    /// All clusters that were called, in no order.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.slots.read().values().filter_map(|slot| slot.current.load_full()).collect()
    }

    /// All clusters in force by name, for who looks at them; none wakes by that.
    pub fn look(&self) -> impl Iterator<Item = Arc<Cluster>> {
        let mut slots = self.slots();
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        slots.into_iter().filter_map(|slot| slot.current.load_full().or_else(|| slot.dream()))
    }

    /// Names of the assignments that clusters ask for.
    pub fn assignments(&self) -> Vec<Arc<str>> {
        let mut all: Vec<Arc<str>> = self.assignments.read().values().cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// Keeps DNS clusters resolved and sweeps outlier detection; runs for ever on the control thread.
    pub async fn maintain(self: Arc<Self>) {
        /// Between two sweeps; how exactly the intervals of outlier detection are kept.
        const SWEEP: Duration = Duration::from_secs(1);
        let sweeps = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.tick();
            }
        };
        let lookups = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                // Each by itself: a server that does not answer holds up only its own names.
                for cluster in self.clusters() {
                    for named in names::due(&cluster) {
                        let cluster = cluster.clone();
                        tokio::spawn(async move { names::refresh(&cluster, &named, Resolver::of_process()).await });
                    }
                    if dns::is_due(&cluster) {
                        tokio::spawn(async move { dns::refresh(&cluster, Resolver::of_process()).await });
                    }
                }
            }
        };
        tokio::join!(sweeps, lookups);
    }

    /// One sweep of outlier detection over all clusters.
    pub fn tick(&self) {
        self.clusters().iter().for_each(|cluster| cluster.sweep());
    }

    /// Reports the counters of all clusters that were called, under Envoy's names and in their order.
    pub fn stats(&self, emit: &mut dyn FnMut(Stat<'_>)) {
        let mut all = self.clusters();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all.iter().for_each(|cluster| stats::report(cluster, emit));
    }

    /// Finds the addresses of a name that a caller brings, when the cluster is for such; within both limits.
    ///
    /// # Errors
    /// When too many names are known, or DNS has no address.
    pub async fn resolve(cluster: &Cluster, target: &Target, limits: NameLimits) -> Result<(), NameError> {
        names::ready(cluster, target, limits, Resolver::of_process()).await
    }

    /// Resolves a DNS cluster that has no host yet: a name is asked only when somebody calls it.
    pub async fn ready(cluster: &Cluster) {
        dns::ready(cluster, Resolver::of_process()).await;
    }
}

fn assignment(cluster: &Cluster) -> Option<&Arc<str>> {
    match &cluster.config.discovery {
        Discovery::Eds(name) => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
