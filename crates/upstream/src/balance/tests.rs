use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::HostSet;
use super::levels::{Health, spread};
use crate::address::Address;
use crate::cluster::PickContext;
use crate::config::{Balance, ClusterConfig, Discovery, HostConfig, SlowStart};
use crate::host::Host;

fn config(balance: Balance, panic_percent: u32) -> ClusterConfig {
    ClusterConfig { balance, panic_percent, ..ClusterConfig::new("c", Discovery::Static(Vec::new())) }
}

fn address(n: u16) -> Address {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 8080)).into()
}

fn hosts(weights: &[u32]) -> Vec<Arc<Host>> {
    (0_u16..)
        .zip(weights)
        .map(|(n, weight)| Host::new(HostConfig { weight: *weight, ..HostConfig::new(address(n)) }, None))
        .collect()
}

fn counts(set: &HostSet, balance: Balance, picks: u64) -> HashMap<Address, u64> {
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let host = set.pick(balance, &PickContext::default()).expect("there are hosts");
        *counts.entry(host.address.clone()).or_default() += 1;
    }
    counts
}

fn near(count: u64, wanted: u64) -> bool {
    count.abs_diff(wanted) * 10 <= wanted
}

#[test]
fn round_robin_follows_weights_exactly_and_interleaves() {
    let set = HostSet::new(hosts(&[1, 3]), &config(Balance::RoundRobin, 50), None);
    let found = counts(&set, Balance::RoundRobin, 400);
    assert_eq!((found[&address(0)], found[&address(1)]), (100, 300));
    let set = HostSet::new(hosts(&[2, 2, 2]), &config(Balance::RoundRobin, 50), None);
    let three: Vec<_> = (0..3)
        .filter_map(|_| set.pick(Balance::RoundRobin, &PickContext::default()))
        .map(|h| h.address.clone())
        .collect();
    assert_eq!(three.iter().collect::<std::collections::HashSet<_>>().len(), 3, "no host twice in a row");
}

#[test]
fn extreme_weights_leave_nobody_out() {
    let set = HostSet::new(hosts(&[1, 1_000_000]), &config(Balance::RoundRobin, 50), None);
    assert_eq!(counts(&set, Balance::RoundRobin, 10_000).len(), 2);
}

#[test]
fn random_and_idle_least_request_follow_weights() {
    for balance in [Balance::Random, Balance::LeastRequest(2)] {
        let set = HostSet::new(hosts(&[1, 3]), &config(balance, 50), None);
        let found = counts(&set, balance, 20_000);
        assert!(near(found[&address(0)], 5_000), "{balance:?}: {found:?}");
    }
}

#[test]
fn least_request_prefers_the_idle_host() {
    let all = hosts(&[1, 1]);
    all[0].stats.rq_active.store(10, Relaxed);
    let set = HostSet::new(all, &config(Balance::LeastRequest(2), 50), None);
    let found = counts(&set, Balance::LeastRequest(2), 20_000);
    // The busy one is taken only when both draws hit it.
    assert!(near(found[&address(0)], 5_000), "{found:?}");
}

#[test]
fn tried_hosts_are_avoided_until_all_are_tried() {
    let set = HostSet::new(hosts(&[1, 1, 1]), &config(Balance::RoundRobin, 50), None);
    for _ in 0..30 {
        let host =
            set.pick(Balance::RoundRobin, &PickContext { tried: &[address(0), address(1)], ..PickContext::default() });
        assert_eq!(host.map(|h| h.address.clone()), Some(address(2)));
    }
    assert!(
        set.pick(
            Balance::RoundRobin,
            &PickContext { tried: &[address(0), address(1), address(2)], ..PickContext::default() }
        )
        .is_some()
    );
}

#[test]
fn hashing_is_stable_when_a_host_leaves() {
    // Envoy's ring gives each of nine hosts more points than each of ten: about as many keys move again.
    for (balance, others) in [(Balance::RingHash(1024), 1000), (Balance::Maglev(65_537), 300)] {
        let before = HostSet::new(hosts(&[1; 10]), &config(balance, 50), None);
        let mut fewer = hosts(&[1; 10]);
        fewer.remove(4);
        fewer.reverse();
        let after = HostSet::new(fewer, &config(balance, 50), None);
        let keys: Vec<u64> = (0..10_000_u64).map(|k| k.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        let at = |set: &HostSet, key| {
            set.pick(balance, &PickContext { hash: Some(key), ..PickContext::default() }).map(|h| h.address.clone())
        };
        let moved = keys.iter().filter(|k| at(&before, **k) != at(&after, **k)).count();
        let owned = keys.iter().filter(|k| at(&before, **k) == Some(address(4))).count();
        assert!(owned > 500 && owned < 1500, "{balance:?}: the host had {owned} of 10000 keys");
        assert!(moved < owned + others, "{balance:?}: {moved} keys moved, {owned} had to");
    }
}

#[test]
fn hashing_follows_weights() {
    for balance in [Balance::RingHash(4096), Balance::Maglev(65_537)] {
        let set = HostSet::new(hosts(&[1, 3]), &config(balance, 50), None);
        let found = counts(&set, balance, 20_000);
        let heavy = found[&address(1)];
        assert!((13_500..16_500).contains(&heavy), "{balance:?}: {found:?}");
    }
}

#[test]
fn a_maglev_table_of_no_prime_size_is_filled_all_the_same() {
    let set = HostSet::new(hosts(&[1, 1]), &config(Balance::Maglev(1000), 50), None);
    assert_eq!(counts(&set, Balance::Maglev(1000), 100).len(), 2);
}

/// The examples of Envoy's documentation of priority levels.
#[test]
fn traffic_trickles_to_lower_priorities() {
    let of = |total, available| Health { total, available };
    let cases = [
        ([of(100, 100), of(100, 100)], [100, 0]),
        ([of(100, 72), of(100, 72)], [100, 0]),
        ([of(100, 50), of(100, 100)], [70, 30]),
        ([of(100, 25), of(100, 100)], [35, 65]),
        ([of(100, 0), of(100, 100)], [0, 100]),
        ([of(100, 25), of(100, 25)], [50, 50]),
        ([of(100, 0), of(100, 25)], [0, 100]),
    ];
    for (levels, wanted) in cases {
        assert_eq!(spread(&levels, 0).0, wanted, "{levels:?}");
    }
}

#[test]
fn panic_uses_all_hosts_only_when_no_level_can_take_over() {
    let of = |total, available| Health { total, available };
    assert_eq!(spread(&[of(10, 1), of(10, 10)], 50).1, [false, false]);
    assert_eq!(spread(&[of(10, 1), of(10, 2)], 50).1, [true, true]);
    assert_eq!(spread(&[of(10, 0), of(30, 0)], 50), (vec![25, 75], vec![true, true]));
    // 0 turns panic off: nobody is picked.
    assert_eq!(spread(&[of(10, 0)], 0), (vec![0], vec![false]));
}

#[test]
fn sick_hosts_are_not_picked_unless_in_panic() {
    let sick = |n| Host::new(HostConfig { healthy: false, ..HostConfig::new(address(n)) }, None);
    let well = Host::new(HostConfig::new(address(9)), None);
    let all = vec![sick(0), sick(1), sick(2), well];
    let calm = HostSet::new(all.clone(), &config(Balance::RoundRobin, 0), None);
    assert_eq!(counts(&calm, Balance::RoundRobin, 50).len(), 1);
    let panic = HostSet::new(all, &config(Balance::RoundRobin, 50), None);
    assert_eq!(counts(&panic, Balance::RoundRobin, 50).len(), 4);
}

#[test]
fn places_share_by_their_weights_and_health() {
    let make = |n: u16, place: &str, locality_weight: u32, healthy: bool| {
        let config =
            HostConfig { locality: Some(place.into()), locality_weight, healthy, ..HostConfig::new(address(n)) };
        Host::new(config, None)
    };
    let config = ClusterConfig { locality_weighted: true, ..config(Balance::RoundRobin, 0) };
    let all = vec![make(0, "a", 70, true), make(1, "b", 30, true), make(2, "b", 30, true), make(3, "c", 0, true)];
    let found = counts(&HostSet::new(all, &config, None), Balance::RoundRobin, 20_000);
    assert!(near(found[&address(0)], 14_000) && near(found[&address(1)], 3_000), "{found:?}");
    assert!(!found.contains_key(&address(3)), "a place without weight gets nothing");
    // Half of b is down: 30 * 1.4 / 2 = 21 of 91.
    let sick = vec![make(0, "a", 70, true), make(1, "b", 30, true), make(2, "b", 30, false)];
    let found = counts(&HostSet::new(sick, &config, None), Balance::RoundRobin, 20_000);
    assert!(near(found[&address(1)], 4_615), "{found:?}");
    let hashed = ClusterConfig { balance: Balance::Maglev(1009), ..config };
    let all = vec![make(0, "a", 70, true), make(1, "b", 30, true), make(2, "b", 30, true)];
    let found = counts(&HostSet::new(all, &hashed, None), hashed.balance, 20_000);
    assert!(near(found[&address(0)], 14_000), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_host_gets_its_share_slowly() {
    let slow = SlowStart { window: std::time::Duration::from_secs(100), aggression: 1.0, least: 0.1 };
    let config = ClusterConfig { slow_start: Some(slow), ..config(Balance::RoundRobin, 0) };
    let old = hosts(&[1]);
    tokio::time::advance(std::time::Duration::from_secs(200)).await;
    let all = vec![old[0].clone(), Host::new(HostConfig::new(address(9)), None)];
    // A tenth, then a half, then all of a share against the other host's whole one.
    for (seconds, wanted) in [(0, 1_818), (50, 6_667), (60, 10_000)] {
        tokio::time::advance(std::time::Duration::from_secs(seconds)).await;
        let found = counts(&HostSet::new(all.clone(), &config, None), Balance::RoundRobin, 20_000);
        assert!(near(found[&address(9)], wanted), "{wanted}: {found:?}");
    }
}
