//! Clusters whose hosts are asked of DNS: when first called, then regularly while they are in use.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::config::{Discovery, DnsTarget, HostConfig};
use crate::host;

/// Between two lookups; Envoy's default DNS refresh rate.
pub(crate) const REFRESH: Duration = Duration::from_secs(5);
/// The longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(5);
/// After a failure the next caller is told at once, for so many milliseconds.
const PAUSE: u64 = 1000;

/// Resolves a cluster that has no host yet. Callers at the same time share one lookup.
pub(crate) async fn ready(cluster: &Cluster) {
    let Discovery::Dns(targets) = &cluster.config.discovery else { return };
    if !cluster.hosts().is_empty() {
        return;
    }
    let mut answers = cluster.answers.lock().await;
    let failed = cluster.unresolved_at.load(Relaxed);
    if cluster.hosts().is_empty() && (failed == 0 || host::now() >= failed + PAUSE) {
        resolve(cluster, targets, &mut answers).await;
    }
}

/// Asks again for a cluster that somebody has called.
pub(crate) async fn refresh(cluster: &Cluster) {
    let Discovery::Dns(targets) = &cluster.config.discovery else { return };
    if cluster.stats.rq_total.load(Relaxed) + cluster.stats.cx_total.load(Relaxed) > 0 {
        let mut answers = cluster.answers.lock().await;
        resolve(cluster, targets, &mut answers).await;
    }
}

/// Asks DNS for every target; one that gives no answer keeps its last good one.
async fn resolve(cluster: &Cluster, targets: &[DnsTarget], answers: &mut Vec<Vec<HostConfig>>) {
    answers.resize(targets.len(), Vec::new());
    let mut failed = false;
    for (target, answer) in targets.iter().zip(answers.iter_mut()) {
        match lookup(target).await {
            Ok(found) => *answer = found,
            Err(error) => {
                failed = true;
                tracing::warn!(cluster = %cluster.config.name, host = %target.host, error, "DNS gave no answer");
            }
        }
    }
    cluster.unresolved_at.store(if failed { host::now() } else { 0 }, Relaxed);
    let hosts: Vec<HostConfig> = answers.iter().flatten().cloned().collect();
    // After a new configuration the answers of the former one are still in force.
    if !hosts.is_empty() {
        cluster.set_hosts(hosts);
    }
}

/// The IPv4 addresses of a name, or its IPv6 addresses when it has no other.
async fn lookup(target: &DnsTarget) -> Result<Vec<HostConfig>, String> {
    let asked = timeout(LIMIT, tokio::net::lookup_host((target.host.as_str(), target.port))).await;
    let addresses: Vec<_> = asked.map_err(|_| "timeout".to_owned())?.map_err(|e| e.to_string())?.collect();
    if addresses.is_empty() {
        return Err("the name has no address".to_owned());
    }
    let v4 = addresses.iter().any(|a| a.is_ipv4());
    Ok(addresses.into_iter().filter(|a| a.is_ipv4() == v4).map(HostConfig::new).collect())
}
