//! Clusters whose hosts are asked of DNS: when first called, then as often as answers run out while somebody calls.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::config::{Discovery, DnsTarget, HostConfig};
use crate::host;
use crate::resolver::Resolver;

/// After a failure the next caller is told at once, for so many milliseconds.
pub(crate) const PAUSE: u64 = 1000;
/// An answer that ran out is used while another is fetched; after so many milliseconds more it is waited for.
pub(crate) const STALE: u64 = 60_000;

/// Resolves a cluster that has no host yet, or whose answer is long over. Callers at the same time share one lookup.
pub(crate) async fn ready(cluster: &Cluster, resolver: &Resolver) {
    let Discovery::Dns(targets) = &cluster.config.discovery else { return };
    let now = host::now();
    let fresh_until = cluster.fresh_until.load(Relaxed);
    let known = !cluster.is_empty();
    if known && now < fresh_until {
        return;
    }
    cluster.called.store(true, Relaxed);
    if known && now < fresh_until.saturating_add(STALE) {
        return;
    }
    let mut answers = cluster.answers.lock().await;
    // Another caller may have asked meanwhile.
    let failed = cluster.unresolved_at.load(Relaxed);
    let over = cluster.is_empty() || host::now() >= cluster.fresh_until.load(Relaxed).saturating_add(STALE);
    if over && (failed == 0 || host::now() >= failed + PAUSE) {
        Box::pin(resolve(cluster, targets, &mut answers, resolver)).await;
    }
}

/// Whether somebody has called a cluster since its answer ran out.
pub(crate) fn is_due(cluster: &Cluster) -> bool {
    matches!(cluster.config.discovery, Discovery::Dns(_))
        && cluster.called.load(Relaxed)
        && host::now() >= cluster.fresh_until.load(Relaxed)
}

/// Asks again for a cluster that somebody has called since its answer ran out.
pub(crate) async fn refresh(cluster: &Cluster, resolver: &Resolver) {
    let Discovery::Dns(targets) = &cluster.config.discovery else { return };
    if is_due(cluster) && cluster.called.swap(false, Relaxed) {
        let mut answers = cluster.answers.lock().await;
        resolve(cluster, targets, &mut answers, resolver).await;
    }
}

/// Asks DNS for every target; one that gives no answer keeps its last good one.
async fn resolve(cluster: &Cluster, targets: &[DnsTarget], answers: &mut Vec<Vec<HostConfig>>, resolver: &Resolver) {
    // Who called so far is served by this answer.
    cluster.called.store(false, Relaxed);
    answers.resize(targets.len(), Vec::new());
    let mut failed = false;
    let mut life = Duration::from_secs(3600);
    for (target, answer) in targets.iter().zip(answers.iter_mut()) {
        match resolver.lookup(&target.host).await {
            Ok(found) => {
                life = life.min(found.life);
                let host = |ip| HostConfig { address: SocketAddr::new(ip, target.port).into(), ..target.like.clone() };
                let wanted = |ip: &IpAddr| ip.is_ipv4() || !cluster.config.ipv4_only;
                *answer = found.addresses.into_iter().filter(wanted).map(host).collect();
            }
            Err(error) => {
                failed = true;
                tracing::warn!(cluster = %cluster.config.name, host = %target.host, error, "DNS gave no answer");
            }
        }
    }
    let now = host::now();
    cluster.unresolved_at.store(if failed { now } else { 0 }, Relaxed);
    let life = if failed { PAUSE } else { host::millis(life) };
    cluster.fresh_until.store(now.saturating_add(life), Relaxed);
    let hosts: Vec<HostConfig> = answers.iter().flatten().cloned().collect();
    // After a new configuration the answers of the former one are still in force.
    if !hosts.is_empty() {
        cluster.set_hosts(hosts);
    }
}

#[cfg(test)]
pub(crate) mod tests;
