use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::cluster::PickContext;

/// What a control plane said.
#[derive(Debug, Default)]
struct Said {
    endpoints: Mutex<HashMap<String, Vec<HostConfig>>>,
    /// How often a cluster was asked for.
    asked: AtomicUsize,
}

impl Source for Said {
    fn cluster(&self, name: &str) -> Option<ClusterConfig> {
        self.asked.fetch_add(1, Relaxed);
        Some(eds(name))
    }

    fn endpoints(&self, assignment: &str) -> Option<Vec<HostConfig>> {
        self.endpoints.lock().get(assignment).cloned()
    }
}

impl Said {
    fn say(&self, registry: &Registry, ports: &[u16]) {
        let hosts: Vec<HostConfig> = ports.iter().map(|port| host(*port)).collect();
        self.endpoints.lock().insert("a-endpoints".to_owned(), hosts.clone());
        registry.apply_endpoints("a-endpoints", &hosts);
    }
}

fn host(port: u16) -> HostConfig {
    HostConfig::new(SocketAddr::from(([10, 0, 0, 1], port)))
}

fn eds(name: &str) -> ClusterConfig {
    ClusterConfig::new(name, Discovery::Eds("a-endpoints".into()))
}

fn registry() -> (Arc<Said>, Registry) {
    let said = Arc::<Said>::default();
    (said.clone(), Registry::new(said))
}

#[test]
fn slots_outlive_their_clusters() {
    let (said, registry) = registry();
    let slot = registry.slot("a");
    assert!(slot.load().is_none());
    said.say(&registry, &[1]);
    registry.apply(eds("a"));
    let first = slot.load().expect("the cluster is in force");
    assert_eq!(first.hosts().len(), 1, "endpoints that came first are used");
    first.stats.rq_total.fetch_add(5, Relaxed);
    registry.apply(eds("a"));
    let second = slot.load().expect("the cluster is in force");
    assert!(first.is_retired() && !second.is_retired());
    assert_eq!(second.hosts()[0].id, first.hosts()[0].id);
    assert_eq!(second.stats.rq_total.load(Relaxed), 5);
    assert_eq!(registry.remove("a").as_deref(), Some("a-endpoints"), "nobody asks for them any more");
    assert!(slot.load().is_none() && second.is_retired());
}

#[test]
fn a_cluster_sleeps_until_it_is_called() {
    let (said, registry) = registry();
    let slot = registry.slot("a");
    registry.offer(eds("a"));
    said.say(&registry, &[1]);
    assert_eq!(registry.assignments(), ["a-endpoints".into()], "its endpoints are wanted all the same");
    assert_eq!((registry.clusters().len(), said.asked.load(Relaxed)), (0, 0));
    assert_eq!(registry.look().map(|c| c.hosts().len()).collect::<Vec<_>>(), [1], "who looks sees it");
    assert_eq!(registry.clusters().len(), 0, "and does not wake it");

    let called = slot.load().expect("it wakes");
    assert!(
        called.pick(&PickContext::default()).is_ok_and(|picked| picked.address.ip().is_some_and(|at| at.port() == 1))
    );
    let asked = said.asked.load(Relaxed);
    assert_eq!(slot.load().map(|c| c.id), Some(called.id));
    assert_eq!(said.asked.load(Relaxed), asked, "it wakes once");
    said.say(&registry, &[1, 2]);
    assert_eq!(called.hosts().len(), 2, "what is awake follows");

    registry.offer(eds("a"));
    let again = slot.load().expect("it is in force");
    assert!(called.is_retired() && again.hosts()[0].id == called.hosts()[0].id, "a new configuration replaces it");
    registry.remove("a");
    assert!(slot.load().is_none());
    registry.offer(eds("a"));
    registry.remove("a");
    assert!(slot.load().is_none(), "one that went in its sleep does not come back");
}

#[test]
fn slots_that_nobody_holds_go_with_their_clusters() {
    let (_, registry) = registry();
    registry.offer(eds("a"));
    registry.offer(eds("b"));
    let held = registry.slot("b");
    assert_eq!(registry.remove("a"), None, "the other still asks for the endpoints");
    assert!(registry.remove("b").is_some());
    assert_eq!(registry.slots().iter().map(|slot| slot.name.to_string()).collect::<Vec<_>>(), ["b"]);
    registry.offer(eds("b"));
    assert!(held.load().is_some());
}

#[test]
fn callers_at_the_same_time_wake_one_cluster() {
    let (said, registry) = registry();
    let slot = registry.slot("a");
    registry.offer(eds("a"));
    said.say(&registry, &[1]);
    let ids: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| slot.load().map(|c| c.id))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| id.is_some() && *id == ids[0]), "{ids:?}");
}

#[test]
fn hosts_are_sorted_by_zone_when_the_replicas_move() {
    let (said, registry) = registry();
    let slot = registry.slot("a");
    let at = |port: u16, zone: &str| HostConfig { locality: Some(zone.into()), ..host(port) };
    let servers: Vec<HostConfig> = (1..=6).map(|port| at(port, if port % 2 == 0 { "r/b" } else { "r/a" })).collect();
    said.endpoints.lock().insert("a-endpoints".to_owned(), servers);
    registry.offer(eds("a"));
    let ip = IpAddr::from([10, 0, 0, 9]);
    registry.set_local(LocalCluster { name: "local_cluster".into(), ip, locality: None });
    assert_eq!(registry.assignments(), ["a-endpoints".into(), "local_cluster".into()], "its endpoints are asked for");
    let called = slot.load().expect("it wakes");
    let zones = || -> Vec<String> {
        let mut all: Vec<String> = (0..60)
            .filter_map(|_| called.pick(&PickContext::default()).ok()?.config.locality.as_deref().map(str::to_owned))
            .collect();
        all.sort();
        all.dedup();
        all
    };
    assert_eq!(zones(), ["r/a", "r/b"], "nothing is known of the replicas");
    let replica = |last: u8, zone: &str| HostConfig {
        locality: Some(zone.into()),
        ..HostConfig::new(SocketAddr::from(([10, 0, 0, last], 80)))
    };
    registry.apply_endpoints("local_cluster", &[replica(9, "r/a"), replica(8, "r/b")]);
    assert_eq!(zones(), ["r/a"]);
    registry.apply_endpoints("local_cluster", &[replica(9, "r/b"), replica(8, "r/a")]);
    assert_eq!(zones(), ["r/b"]);
    // What wakes later, and what is put anew, knows them as well.
    registry.offer(ClusterConfig { zone_aware: None, ..eds("a") });
    registry.offer(eds("a"));
    let again = slot.load().expect("it is in force");
    assert_eq!(
        again.pick(&PickContext::default()).ok().and_then(|h| h.config.locality.clone()).as_deref(),
        Some("r/b")
    );
    let mut told = Vec::new();
    registry.stats(&mut |stat| told.extend((stat.leaf == "lb_zone_routing_all_directly").then_some(stat.value)));
    assert_eq!(told, [121, 0], "of the cluster and of the replicas");
    registry.apply_endpoints("local_cluster", &[]);
    let places: HashSet<_> =
        (0..60).filter_map(|_| again.pick(&PickContext::default()).ok()?.config.locality.clone()).collect();
    assert_eq!(places.len(), 2, "there are no replicas any more");
}
