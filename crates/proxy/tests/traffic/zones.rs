//! Traffic that stays in its zone as far as the zone can carry it. The proxy knows its own replicas.

use std::collections::BTreeMap;

use crate::server::{Act, Server};
use crate::world::{Mesh, World, get};

/// Servers of `web`, by place; the first caller is the client.
async fn mesh(callers: &[&str], places: &[&str], policy: &str) -> (Mesh, Vec<Server>) {
    let mut servers = Vec::new();
    for (i, place) in places.iter().enumerate() {
        servers.push(Server::echo(&format!("{place}-{i}")).await);
    }
    let labels: Vec<String> =
        places.iter().map(|place| format!("istio-locality: {place}, rack: \"{}\"", &place[..2])).collect();
    let pods: Vec<(&str, &Server)> = labels.iter().map(String::as_str).zip(&servers).collect();
    let mut mesh = Mesh::new();
    mesh.replicas(callers);
    mesh.http("web", &pods);
    if !policy.is_empty() {
        mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {{{policy}}}"));
    }
    mesh.virtual_service("web", "hosts: [web]\nhttp: [{retries: {attempts: 0}, route: [{destination: {host: web}}]}]");
    (mesh, servers)
}

/// Of 600 requests, how many each place gets.
async fn shares(world: &World) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for (server, count) in world.tally(600, || get("web", "/")).await {
        let place = server.split('-').next().unwrap_or_default().to_owned();
        *found.entry(place).or_default() += count;
    }
    found
}

/// A counter of `web`.
async fn counted(world: &World, name: &str) -> u64 {
    world.cluster_stat("web", name).await
}

const EVEN: [&str; 6] = ["r1.z1", "r1.z1", "r1.z1", "r1.z2", "r1.z2", "r1.z2"];

fn zone_aware(more: &str, simple: &str) -> String {
    format!("loadBalancer: {{simple: {simple}, zoneAwareLbSetting: {{{more}}}}}")
}

#[tokio::test]
async fn requests_stay_in_their_zone() {
    for simple in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"] {
        let (mesh, _) = mesh(&["r1.z1", "r1.z2"], &EVEN, &zone_aware("enabled: true", simple)).await;
        let world = mesh.start().await;
        assert_eq!(shares(&world).await, [("r1.z1".to_owned(), 600)].into(), "{simple}");
        assert_eq!(counted(&world, "lb_zone_routing_all_directly").await, 600, "{simple}");
    }
}

#[tokio::test]
async fn what_a_zone_cannot_carry_goes_to_others() {
    // Half of the callers, and a quarter of the servers: half of the requests stay.
    let servers = ["r1.z1", "r1.z1", "r1.z2", "r1.z2", "r1.z2", "r1.z2", "r1.z2", "r1.z2"];
    let (uneven, _) = mesh(&["r1.z1", "r1.z2"], &servers, &zone_aware("", "RANDOM")).await;
    let world = uneven.start().await;
    let found = shares(&world).await;
    assert!((230..370).contains(&found["r1.z1"]) && found.len() == 2, "{found:?}");
    let sampled = counted(&world, "lb_zone_routing_sampled").await;
    let crossed = counted(&world, "lb_zone_routing_cross_zone").await;
    assert_eq!((sampled, crossed), (found["r1.z1"] as u64, found["r1.z2"] as u64));
    // No server in the own zone, and those of the second as many as its callers need: the third has room.
    let (far, _) =
        mesh(&["r1.z1", "r1.z2"], &["r1.z2", "r1.z2", "r1.z3", "r1.z3"], &zone_aware("minClusterSize: 1", "RANDOM"))
            .await;
    assert_eq!(shares(&far.start().await).await, [("r1.z3".to_owned(), 600)].into());
}

#[tokio::test]
async fn small_clusters_are_not_split() {
    let few = &EVEN[1..];
    let (plain, _) = mesh(&["r1.z1", "r1.z2"], few, &zone_aware("", "RANDOM")).await;
    let world = plain.start().await;
    assert!(shares(&world).await["r1.z2"] > 300, "three of five are there");
    assert!(counted(&world, "lb_zone_cluster_too_small").await > 0);
    let (smaller, _) = mesh(&["r1.z1", "r1.z2", "r1.z2"], few, &zone_aware("minClusterSize: 5", "RANDOM")).await;
    assert_eq!(shares(&smaller.start().await).await.keys().collect::<Vec<_>>(), ["r1.z1"]);
    // Who has all replicas in one zone calls all zones alike.
    let (alone, _) = mesh(&["r1.z1"], &EVEN, &zone_aware("", "RANDOM")).await;
    let found = shares(&alone.start().await).await;
    assert!((230..370).contains(&found["r1.z1"]), "{found:?}");
}

#[tokio::test]
async fn other_regions_come_when_the_own_one_fails() {
    let servers = ["r1.z1", "r1.z2", "r2.z1", "r3.z1"];
    let eject = "outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}";
    for (failover, then) in [("", vec!["r2.z1", "r3.z1"]), ("failover: [{from: r1, to: r3}]", vec!["r3.z1"])] {
        let policy = format!("{}, {eject}", zone_aware(failover, "RANDOM"));
        let (mesh, servers) = mesh(&["r1.z1"], &servers, &policy).await;
        let world = mesh.start().await;
        assert_eq!(shares(&world).await.keys().collect::<Vec<_>>(), ["r1.z1", "r1.z2"], "other regions wait");
        servers.iter().take(2).for_each(|server| server.change(|_| Act::Status(500)));
        let mut found = BTreeMap::new();
        for _ in 0..50 {
            found = shares(&world).await;
            if !found.contains_key("r1.z1") && !found.contains_key("r1.z2") {
                break;
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), then, "{failover}");
    }
}

#[tokio::test]
async fn labels_rank_before_regions() {
    let servers = ["r1.z1", "r1.z2", "r2.z1", "r2.z2"];
    let (mesh, _) = mesh(&["r1.z1"], &servers, &zone_aware("failoverPriority: [rack=r2]", "RANDOM")).await;
    let found = shares(&mesh.start().await).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["r2.z1", "r2.z2"]);
}

#[tokio::test]
async fn zones_and_regions_can_be_turned_off() {
    let servers = [&EVEN[..], &["r2.z1"; 3]].concat();
    let (off, _) = mesh(&["r1.z1", "r1.z2"], &servers, &zone_aware("enabled: false", "RANDOM")).await;
    let found = shares(&off.start().await).await;
    assert!(found.len() == 3 && found["r1.z1"] < 280, "{found:?}");
    // A proxy that knows its replicas prefers its zone without being told, as Envoy does.
    let (untold, _) = mesh(&["r1.z1", "r1.z2"], &EVEN, "loadBalancer: {simple: RANDOM}").await;
    assert_eq!(shares(&untold.start().await).await.len(), 1);
}

#[tokio::test]
async fn the_mesh_prefers_zones() {
    let servers = [&EVEN[..], &["r2.z1"; 3]].concat();
    let config = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data: {{mesh: \"{{enableAutoMtls: false, {text}}}\"}}\n"
        )
    };
    let (mut whole, _) = mesh(&["r1.z1", "r1.z2"], &servers, "").await;
    whole.rule(&config("localityLbSetting: {enabled: true}, zoneAwareLbSetting: {minClusterSize: 6}"));
    assert_eq!(shares(&whole.start().await).await.keys().collect::<Vec<_>>(), ["r1.z1"]);
    // A rule's own word counts.
    let rule = "loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {\"r2/*\": 100}}]}}";
    let (mut over, _) = mesh(&["r1.z1", "r1.z2"], &servers, rule).await;
    over.rule(&config("zoneAwareLbSetting: {}"));
    assert_eq!(shares(&over.start().await).await.keys().collect::<Vec<_>>(), ["r2.z1"]);
}

#[tokio::test]
async fn a_service_prefers_what_is_near() {
    let servers = ["r1.z1", "r1.z1", "r1.z2", "r2.z1"];
    for (word, near) in
        [("PreferClose", &["r1.z1"][..]), ("PreferSameZone", &["r1.z1"]), ("", &["r1.z1", "r1.z2", "r2.z1"])]
    {
        let (mut mesh, _) = mesh(&["r1.z1"], &servers, "").await;
        mesh.distribution("web", word);
        let found = shares(&mesh.start().await).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), near, "{word}");
    }
}
