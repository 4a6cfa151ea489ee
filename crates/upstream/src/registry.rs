//! All clusters by name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use telemetry::Stat;
use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterSlot};
use crate::config::{ClusterConfig, Discovery, HostConfig, NameLimits};
use crate::names::{NameError, Target};
use crate::resolver::Resolver;
use crate::{dns, names, stats};

/// All clusters by name; a slot exists from its first mention on.
#[derive(Debug, Default)]
pub struct Registry {
    slots: RwLock<HashMap<Arc<str>, Arc<ClusterSlot>>>,
    /// Endpoints that came before their cluster, by assignment name.
    early: RwLock<HashMap<Arc<str>, Vec<HostConfig>>>,
    /// Told when hosts or clusters have come or gone.
    changed: watch::Sender<()>,
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
        let cluster = Cluster::new(config, former.as_deref());
        if let Some(hosts) = assignment(&cluster).and_then(|name| self.early.read().get(name).cloned()) {
            cluster.set_hosts(hosts);
        }
        slot.current.store(Some(cluster));
        if let Some(former) = former {
            former.retire();
        }
        self.changed.send_replace(());
    }

    /// Takes a cluster away; requests in flight finish.
    pub fn remove(&self, name: &str) {
        let slot = self.slots.read().get(name).cloned();
        let Some(cluster) = slot.and_then(|s| s.current.swap(None)) else { return };
        cluster.retire();
        cluster.set_hosts(Vec::new());
        self.changed.send_replace(());
        // Endpoints that no cluster asks for any more are forgotten.
        if let Some(gone) = assignment(&cluster)
            && !self.clusters().iter().any(|c| assignment(c) == Some(gone))
        {
            self.early.write().remove(gone);
        }
    }

    /// Puts the endpoints of an assignment in force in every cluster that asks for it.
    pub fn apply_endpoints(&self, assignment: &str, hosts: Vec<HostConfig>) {
        for cluster in self.clusters() {
            if self::assignment(&cluster).is_some_and(|name| &**name == assignment) {
                cluster.set_hosts(hosts.clone());
            }
        }
        self.early.write().insert(Arc::from(assignment), hosts);
        self.changed.send_replace(());
    }

    /// Tells when hosts or clusters have come or gone: pools then let go of what is idle at those that went.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
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
        self.clusters().iter().filter_map(|c| assignment(c)).map(ToString::to_string).collect()
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
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.iter().filter_map(|slot| slot.load()).for_each(|cluster| cluster.sweep());
    }

    /// Reports the counters of all clusters under Envoy's names.
    pub fn stats(&self, emit: &mut dyn FnMut(Stat<'_>)) {
        self.clusters().iter().for_each(|cluster| stats::report(cluster, emit));
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
