use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::HostSet;
use super::*;
use crate::cluster::PickContext;
use crate::config::{ClusterConfig, Discovery, HostConfig, ZoneAware};

/// Hosts of `(place, how many are well, how many are not)`; addresses tell the place's position in the list.
fn hosts(places: &[(&str, u8, u8)]) -> Vec<Arc<Host>> {
    let mut all = Vec::new();
    for (n, (place, well, unwell)) in (1_u8..).zip(places) {
        for i in 0..well + unwell {
            let address = SocketAddr::from(([10, 0, n, i], 80));
            let locality = Some(*place).filter(|place| !place.is_empty()).map(Arc::from);
            let config = HostConfig { locality, healthy: i < *well, ..HostConfig::new(address) };
            all.push(Host::new(config, None));
        }
    }
    all
}

/// Replicas of which the first is this proxy's own.
fn replicas(places: &[(&str, u8, u8)]) -> Replicas {
    Replicas::new(&hosts(places), IpAddr::from([10, 0, 1, 0]), None)
}

fn config(balance: Balance) -> ClusterConfig {
    let zone_aware = Some(ZoneAware { least_hosts: 1, ..ZoneAware::default() });
    ClusterConfig { balance, panic_percent: 0, zone_aware, ..ClusterConfig::new("c", Discovery::Static(Vec::new())) }
}

/// Of a thousand requests, how many go to each place, and what was counted.
fn spread(
    callers: &Replicas,
    to: &[(&str, u8, u8)],
    config: &ClusterConfig,
) -> (BTreeMap<String, u64>, Arc<ClusterStats>) {
    const PICKS: u64 = 40_000;
    let stats: Arc<ClusterStats> = Arc::default();
    let set = HostSet::new(hosts(to), config, Some(Around { replicas: callers, stats: &stats }));
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..PICKS {
        let host = set.pick(config.balance, &PickContext::default()).expect("there are hosts");
        *found.entry(host.config.locality.as_deref().unwrap_or_default().to_owned()).or_default() += 1;
    }
    found.values_mut().for_each(|count| *count = (*count * 1000 + PICKS / 2) / PICKS);
    (found, stats)
}

fn near(found: &BTreeMap<String, u64>, wanted: &[(&str, u64)]) -> bool {
    found.len() == wanted.len()
        && wanted.iter().all(|(place, count)| found.get(*place).is_some_and(|here| here.abs_diff(*count) < 20))
}

const BALANCES: [Balance; 3] = [Balance::RoundRobin, Balance::LeastRequest(2), Balance::Random];

/// The numbers of Envoy's own example: callers 40, 40, 20 %, endpoints 25, 50, 25 %.
#[test]
fn what_does_not_stay_goes_where_there_is_room() {
    let shares = [(4000, 2500), (4000, 5000), (2000, 2500)].map(|(callers, endpoints)| Share { callers, endpoints });
    assert_eq!(Way::of(&shares, true), Way::Beyond { stay: 6250, room: vec![0, 1000, 1500] });
    // Nobody is called in the own zone: all zones may have room.
    assert_eq!(Way::of(&shares[1..], false), Way::Beyond { stay: 0, room: vec![1000, 1500] });
    // Half of twice as many callers.
    let shares = [(2000, 1000), (8000, 9000)].map(|(callers, endpoints)| Share { callers, endpoints });
    assert_eq!(Way::of(&shares, true), Way::Beyond { stay: 5000, room: vec![0, 1000] });
    let shares = [(5000, 5000), (5000, 5000)].map(|(callers, endpoints)| Share { callers, endpoints });
    assert_eq!(Way::of(&shares, true), Way::Direct);
    // Nobody calls from here as far as is known, and nobody is here to be called.
    let shares = [(0, 0), (5000, 5000)].map(|(callers, endpoints)| Share { callers, endpoints });
    assert_eq!(Way::of(&shares, true), Way::Beyond { stay: 0, room: vec![0, 0] });
}

#[test]
fn requests_stay_while_the_own_zone_has_its_share() {
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    for balance in BALANCES {
        let (found, stats) = spread(&callers, &[("r/b", 2, 0), ("r/a", 2, 0)], &config(balance));
        assert_eq!(found, [("r/a".to_owned(), 1000)].into(), "{balance:?}");
        assert_eq!(stats.lb_zone_routing_all_directly.load(Relaxed), 40_000);
        assert_eq!(stats.lb_recalculate_zone_structures.load(Relaxed), 1);
    }
    // More endpoints here than callers: still all of them stay.
    let (found, _) = spread(&callers, &[("r/a", 3, 0), ("r/b", 1, 0)], &config(Balance::Random));
    assert_eq!(found, [("r/a".to_owned(), 1000)].into());
}

#[test]
fn what_is_too_much_for_a_zone_goes_to_others() {
    // 2 of 3 callers, 2 of 8 endpoints: 2500 / 6666 stay.
    let callers = replicas(&[("r/a", 2, 0), ("r/b", 1, 0)]);
    for balance in BALANCES {
        let (found, stats) = spread(&callers, &[("r/a", 2, 0), ("r/b", 6, 0)], &config(balance));
        assert!(near(&found, &[("r/a", 375), ("r/b", 625)]), "{balance:?}: {found:?}");
        let (stayed, went) = (&stats.lb_zone_routing_sampled, &stats.lb_zone_routing_cross_zone);
        assert_eq!(stayed.load(Relaxed) + went.load(Relaxed), 40_000);
        assert_eq!((stayed.load(Relaxed) * 1000 + 20_000) / 40_000, found["r/a"]);
    }
    // 40, 40 and 20 % of the callers, 25, 50 and 25 % of the endpoints.
    let callers = replicas(&[("r/a", 4, 0), ("r/b", 4, 0), ("r/c", 2, 0)]);
    let (found, _) = spread(&callers, &[("r/a", 2, 0), ("r/b", 4, 0), ("r/c", 2, 0)], &config(Balance::Random));
    assert!(near(&found, &[("r/a", 625), ("r/b", 250), ("r/c", 125)]), "{found:?}");
    // Nobody in the own zone.
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let (found, _) = spread(&callers, &[("r/b", 3, 0), ("r/c", 3, 0)], &config(Balance::Random));
    assert_eq!(found, [("r/c".to_owned(), 1000)].into(), "callers in b use up what is there");
}

#[test]
fn health_counts_on_both_sides() {
    // One of two here is well, both there are: a third of the endpoints for half of the callers.
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let to = [("r/a", 1, 1), ("r/b", 2, 0)];
    let (found, _) = spread(&callers, &to, &config(Balance::Random));
    assert!(near(&found, &[("r/a", 667), ("r/b", 333)]), "{found:?}");
    // Of the callers in b none is well any more: all calls come from here.
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 0, 1)]);
    let (found, _) = spread(&callers, &[("r/a", 1, 0), ("r/b", 1, 0)], &config(Balance::Random));
    assert!(near(&found, &[("r/a", 500), ("r/b", 500)]), "{found:?}");
}

/// Two endpoints in each of two zones: even where zones do not count.
#[test]
fn where_nothing_can_be_told_zones_do_not_count() {
    let to = [("r/a", 2, 0), ("r/b", 2, 0)];
    let even = |callers: &Replicas, config: &ClusterConfig| {
        let (found, stats) = spread(callers, &to, config);
        assert!(near(&found, &[("r/a", 500), ("r/b", 500)]), "{found:?}");
        stats
    };
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let random = config(Balance::Random);
    let least = |least_hosts| Some(ZoneAware { least_hosts, ..ZoneAware::default() });
    let stats = even(&callers, &ClusterConfig { zone_aware: least(5), ..random.clone() });
    assert_eq!(stats.lb_zone_cluster_too_small.load(Relaxed), 1);
    even(&callers, &ClusterConfig { zone_aware: Some(ZoneAware::default()), ..random.clone() });
    let (found, _) = spread(&callers, &to, &ClusterConfig { zone_aware: least(4), ..random.clone() });
    assert_eq!(found.len(), 1, "four are enough");
    even(&callers, &ClusterConfig { zone_aware: None, ..random.clone() });
    even(&callers, &ClusterConfig { zone_aware: Some(ZoneAware { percent: 0, least_hosts: 1 }), ..random.clone() });
    even(&callers, &config(Balance::Maglev(1009)));
    // All replicas are in one zone.
    let stats = even(&replicas(&[("r/a", 3, 0)]), &random);
    assert_eq!(stats.lb_local_cluster_not_ok.load(Relaxed), 0);
    // This proxy is not among its replicas.
    let elsewhere = Replicas::new(&hosts(&[("r/a", 1, 0), ("r/b", 1, 0)]), IpAddr::from([10, 9, 9, 9]), None);
    assert_eq!(even(&elsewhere, &random).lb_local_cluster_not_ok.load(Relaxed), 1);
    let told = |place: &str| {
        Replicas::new(&hosts(&[("r/a", 1, 0), ("r/b", 1, 0)]), IpAddr::from([10, 9, 9, 9]), Some(place.into()))
    };
    assert_eq!(even(&told("r/c"), &random).lb_local_cluster_not_ok.load(Relaxed), 1);
    assert_eq!(spread(&told("r/b"), &to, &random).0.keys().collect::<Vec<_>>(), ["r/b"], "where it was told to be");
    // More than half of the replicas are unwell: that is noticed at each request.
    let unwell = replicas(&[("r/a", 1, 1), ("r/b", 1, 2)]);
    let stats = even(&unwell, &ClusterConfig { panic_percent: 50, ..random.clone() });
    assert_eq!(stats.lb_local_cluster_not_ok.load(Relaxed), 40_000);
    // A cluster in panic uses all its hosts.
    let sick = [("r/a", 1, 3), ("r/b", 1, 3)];
    let (found, stats) = spread(&callers, &sick, &ClusterConfig { panic_percent: 50, ..random });
    assert!(near(&found, &[("r/a", 500), ("r/b", 500)]), "{found:?}");
    assert_eq!(stats.lb_zone_routing_all_directly.load(Relaxed), 0);
}

#[test]
fn a_part_of_the_requests_may_ignore_zones() {
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let to = [("r/a", 2, 0), ("r/b", 2, 0)];
    let some = ClusterConfig { zone_aware: Some(ZoneAware { percent: 40, least_hosts: 1 }), ..config(Balance::Random) };
    let (found, stats) = spread(&callers, &to, &some);
    assert!(near(&found, &[("r/a", 700), ("r/b", 300)]), "{found:?}");
    assert!((15_000..17_000).contains(&stats.lb_zone_routing_all_directly.load(Relaxed)));
}

#[test]
fn another_try_may_leave_the_zone() {
    let callers = replicas(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let stats: Arc<ClusterStats> = Arc::default();
    let config = config(Balance::RoundRobin);
    let all = hosts(&[("r/a", 1, 0), ("r/b", 1, 0)]);
    let tried = [all[0].address.clone()];
    let set = HostSet::new(all, &config, Some(Around { replicas: &callers, stats: &stats }));
    let context = PickContext { tried: &tried, ..PickContext::default() };
    let host = set.pick(config.balance, &context).expect("there is another");
    assert_eq!(host.config.locality.as_deref(), Some("r/b"));
}
