use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::Registry;
use crate::config::Thresholds;

fn address(n: u8) -> Address {
    SocketAddr::from(([10, 0, 0, n], 80)).into()
}

fn cluster(hosts: u8, outlier: Outlier) -> Arc<Cluster> {
    let hosts = (0..hosts).map(|n| HostConfig::new(address(n))).collect();
    let config = ClusterConfig::new("outbound|80||a", Discovery::Static(hosts));
    Cluster::new(ClusterConfig { outlier: Some(outlier), panic_percent: 0, ..config }, None, Beside::default())
}

fn rules() -> Outlier {
    Outlier { consecutive_5xx: 3, max_ejection_percent: 50, ..Outlier::default() }
}

fn fail(cluster: &Cluster, n: u8, times: u32) {
    let hosts = cluster.hosts();
    let host = hosts.iter().find(|h| h.address == address(n)).expect("the host is known");
    (0..times).for_each(|_| cluster.report(host, Outcome::Status(500)));
}

fn picked(cluster: &Cluster) -> HashSet<Address> {
    (0..40).filter_map(|_| cluster.pick(&PickContext::default()).ok()).map(|h| h.address.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_put_a_host_aside_for_a_time_that_grows() {
    let cluster = cluster(4, rules());
    fail(&cluster, 0, 2);
    cluster.report(&cluster.hosts()[0], Outcome::Status(200));
    fail(&cluster, 0, 2);
    assert_eq!(picked(&cluster).len(), 4, "an answer in between starts the count anew");
    fail(&cluster, 0, 1);
    assert!(!picked(&cluster).contains(&address(0)));
    advance(Duration::from_secs(29)).await;
    assert!(!picked(&cluster).contains(&address(0)));
    advance(Duration::from_secs(2)).await;
    assert!(picked(&cluster).contains(&address(0)), "it is back after the base time");
    fail(&cluster, 0, 3);
    advance(Duration::from_secs(58)).await;
    assert!(!picked(&cluster).contains(&address(0)), "twice as long the second time");
    advance(Duration::from_secs(3)).await;
    assert!(picked(&cluster).contains(&address(0)));
}

#[tokio::test(start_paused = true)]
async fn quiet_intervals_let_the_memory_of_ejections_fade() {
    let cluster = cluster(4, rules());
    fail(&cluster, 0, 3);
    advance(Duration::from_secs(31)).await;
    cluster.sweep();
    fail(&cluster, 0, 3);
    advance(Duration::from_secs(31)).await;
    assert!(picked(&cluster).contains(&address(0)), "as long as the first time");
}

#[tokio::test(start_paused = true)]
async fn no_more_are_put_aside_than_the_percentage_allows() {
    let cluster = cluster(4, rules());
    (0..4).for_each(|n| fail(&cluster, n, 3));
    assert_eq!(picked(&cluster).len(), 2);
    assert_eq!(cluster.stats.ejections_total.load(Relaxed), 2);
    assert_eq!(cluster.stats.ejections_overflow.load(Relaxed), 2);
    let small = self::cluster(4, Outlier { max_ejection_percent: 10, ..rules() });
    fail(&small, 0, 3);
    assert_eq!(picked(&small).len(), 4, "10 % of four hosts is none");
}

#[tokio::test(start_paused = true)]
async fn the_time_aside_has_a_limit() {
    let cluster = cluster(4, Outlier { max_ejection: Duration::from_secs(45), ..rules() });
    for _ in 0..5 {
        fail(&cluster, 0, 3);
        advance(Duration::from_secs(46)).await;
        assert!(picked(&cluster).contains(&address(0)));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_to_connect_count_apart_when_split() {
    let split = Outlier { consecutive_5xx: 0, consecutive_local: 2, split_local: true, ..rules() };
    let cluster = cluster(4, split);
    fail(&cluster, 0, 9);
    assert_eq!(picked(&cluster).len(), 4);
    let host = cluster.hosts()[0].clone();
    for outcome in [Outcome::LocalFailure, Outcome::Broken, Outcome::Broken] {
        cluster.report(&host, outcome);
    }
    assert_eq!(picked(&cluster).len(), 4, "a connection that came about ends a row");
    cluster.report(&host, Outcome::Timeout);
    assert_eq!(picked(&cluster).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn gateway_errors_have_a_count_of_their_own() {
    let cluster = cluster(4, Outlier { consecutive_5xx: 0, consecutive_gateway: 2, ..rules() });
    let host = cluster.hosts()[0].clone();
    for status in [503, 500, 503] {
        cluster.report(&host, Outcome::Status(status));
    }
    assert_eq!(picked(&cluster).len(), 4);
    cluster.report(&host, Outcome::Status(502));
    assert_eq!(picked(&cluster).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_what_is_remembered_of_a_host() {
    let cluster = cluster(4, rules());
    fail(&cluster, 0, 3);
    let before = cluster.hosts()[0].clone();
    let heavier = (0..4).map(|n| HostConfig { weight: 7, ..HostConfig::new(address(n)) }).collect();
    cluster.set_hosts(heavier);
    assert!(!picked(&cluster).contains(&address(0)), "still aside");
    assert_eq!(cluster.hosts()[0].id, before.id, "connections are kept");
    cluster.set_hosts(vec![HostConfig::new(address(1))]);
    assert!(before.is_removed(), "its connections are closed, though they were made before the weight changed");
    cluster.set_hosts(vec![HostConfig::new(address(0)), HostConfig::new(address(1))]);
    assert!(picked(&cluster).contains(&address(0)), "a host that comes back begins anew");
}

#[test]
fn a_changed_transport_shares_no_connections() {
    let cluster = cluster(1, rules());
    let before = cluster.hosts()[0].clone();
    let transport = vec![("tlsMode".to_owned(), "istio".to_owned())];
    cluster.set_hosts(vec![HostConfig { transport, ..HostConfig::new(address(0)) }]);
    let after = cluster.hosts()[0].clone();
    assert_ne!(before.id, after.id);
    assert!(before.is_removed() && !after.is_removed());
}

#[test]
fn permits_are_given_back() {
    let config = ClusterConfig::new("a", Discovery::Static(Vec::new()));
    let thresholds = Thresholds { requests: 2, ..Thresholds::default() };
    let cluster = Cluster::new(ClusterConfig { thresholds, ..config }, None, Beside::default());
    let first = cluster.request_permit();
    let second = cluster.request_permit();
    assert!(first.is_some() && second.is_some());
    assert!(cluster.request_permit().is_none());
    assert_eq!(cluster.stats.rq_pending_overflow.load(Relaxed), 1);
    drop(first);
    assert!(cluster.request_permit().is_some());
    drop(second);
    assert_eq!(cluster.stats.rq_active.load(Relaxed), 0);
}

#[test]
fn a_dialled_address_is_one_host() {
    let config = ClusterConfig::new("PassthroughCluster", Discovery::OriginalDst);
    let cluster = Cluster::new(ClusterConfig { balance: Balance::Original, ..config }, None, Beside::default());
    let pick = |n| cluster.pick(&PickContext { original: address(n).ip(), ..PickContext::default() });
    assert_eq!(pick(1).map(|h| h.id), pick(1).map(|h| h.id));
    assert_ne!(pick(1).map(|h| h.id), pick(2).map(|h| h.id));
    assert_eq!(cluster.pick(&PickContext::default()).err(), Some(PickError::NoHealthyHost));
}

#[tokio::test]
async fn names_are_resolved_when_first_called() {
    let target = crate::config::DnsTarget::new("localhost", 80);
    let cluster = Cluster::new(ClusterConfig::new("dns", Discovery::Dns(vec![target])), None, Beside::default());
    assert!(cluster.pick(&PickContext::default()).is_err());
    Registry::ready(&cluster).await;
    assert!(
        cluster.pick(&PickContext::default()).is_ok_and(|h| h.address.ip().is_some_and(|at| at.ip().is_loopback()))
    );
}
