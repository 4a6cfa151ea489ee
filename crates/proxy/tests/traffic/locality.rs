//! Traffic that prefers places: near servers first, shares for regions, and other places when the near ones fail.

use crate::server::{Act, Server};
use crate::world::{Mesh, World, get};

/// Servers in five places; the client is in `r1/z1/s1`.
async fn places(policy: &str) -> (World, Vec<Server>) {
    let names = ["r1.z1.s1", "r1.z1.s2", "r1.z2.s1", "r2.z1.s1", "r3.z1.s1"];
    let mut servers = Vec::new();
    for name in names {
        servers.push(Server::echo(name).await);
    }
    let labels: Vec<String> = names.iter().map(|n| format!("istio-locality: {n}, rack: \"{}\"", &n[..2])).collect();
    let pods: Vec<(&str, &Server)> = labels.iter().map(String::as_str).zip(&servers).collect();
    let mut mesh = Mesh::new();
    mesh.client_locality("r1.z1.s1");
    mesh.http("web", &pods);
    mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {policy}"));
    mesh.virtual_service("web", "hosts: [web]\nhttp: [{retries: {attempts: 0}, route: [{destination: {host: web}}]}]");
    (mesh.start().await, servers)
}

const EJECT: &str = "outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}";

/// Lets the nearest server fail, one after the other, and says who serves then.
async fn order(world: &World, servers: &[Server]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut failing: Vec<String> = Vec::new();
    while failing.len() < servers.len() {
        // What fails is put aside as soon as it is noticed, which may be a moment after the answer.
        let mut tally = world.tally(12, || get("web", "/")).await;
        for _ in 0..500 {
            if !tally.keys().any(|name| failing.contains(name)) {
                break;
            }
            tally = world.tally(12, || get("web", "/")).await;
        }
        let mut names: Vec<String> = tally.into_keys().collect();
        names.sort();
        order.push(names.join("+"));
        for server in servers.iter().filter(|s| names.contains(&s.0.name)) {
            server.change(|_| Act::Status(500));
        }
        failing.extend(names);
    }
    order
}

#[tokio::test]
async fn the_nearest_first() {
    let (world, servers) = places(&format!("{{{EJECT}}}")).await;
    assert_eq!(order(&world, &servers).await, ["r1.z1.s1", "r1.z1.s2", "r1.z2.s1", "r2.z1.s1+r3.z1.s1"]);
}

#[tokio::test]
async fn a_region_that_is_named_comes_before_others() {
    let lb = "loadBalancer: {localityLbSetting: {failover: [{from: r1, to: r3}]}}";
    let (world, servers) = places(&format!("{{{lb}, {EJECT}}}")).await;
    let order = order(&world, &servers).await;
    assert_eq!(order[3..], ["r3.z1.s1", "r2.z1.s1"], "{order:?}");
}

#[tokio::test]
async fn labels_give_the_order() {
    let lb = "loadBalancer: {localityLbSetting: {failoverPriority: [rack=r2]}}";
    let (world, servers) = places(&format!("{{{lb}, {EJECT}}}")).await;
    let order = order(&world, &servers).await;
    assert_eq!(order[0], "r2.z1.s1", "{order:?}");
    let lb = "loadBalancer: {localityLbSetting: {failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]}}";
    let (world, _) = places(&format!("{{{lb}, {EJECT}}}")).await;
    let tally = world.tally(40, || get("web", "/")).await;
    assert_eq!((tally.len(), tally.contains_key("r1.z1.s2")), (2, true), "{tally:?}");
}

#[tokio::test]
async fn regions_get_their_shares() {
    let lb = "loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: r1/z1/*, to: {\"r1/z1/*\": 70, \"r2/*\": 30}}]}}";
    let (world, _) = places(&format!("{{{lb}}}")).await;
    let tally = world.tally(600, || get("web", "/")).await;
    let share = |name: &str| tally.get(name).copied().unwrap_or(0);
    assert!((120..240).contains(&share("r2.z1.s1")), "30 %: {tally:?}");
    assert!(share("r1.z1.s1") + share("r1.z1.s2") > 340, "70 %: {tally:?}");
    assert_eq!(share("r3.z1.s1") + share("r1.z2.s1"), 0, "{tally:?}");
}

#[tokio::test]
async fn it_can_be_turned_off() {
    for policy in [
        format!("{{loadBalancer: {{localityLbSetting: {{enabled: false}}}}, {EJECT}}}"),
        "{loadBalancer: {simple: RANDOM}}".to_owned(),
    ] {
        let (world, _) = places(&policy).await;
        assert_eq!(world.tally(100, || get("web", "/")).await.len(), 5, "{policy}");
    }
}

#[tokio::test]
async fn retries_go_to_other_places() {
    for (remote, served) in [("true", true), ("false", false)] {
        let near = Server::with("near", |_| Act::Status(503)).await;
        let far = Server::echo("far").await;
        let mut mesh = Mesh::new();
        mesh.client_locality("r1.z1");
        mesh.http("web", &[("istio-locality: r1.z1", &near), ("istio-locality: r2.z1", &far)]);
        mesh.destination_rule("web", "host: web\ntrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1000}}");
        mesh.virtual_service(
            "web",
            &format!("hosts: [web]\nhttp: [{{retries: {{attempts: 2, retryOn: 5xx, retryRemoteLocalities: {remote}}}, route: [{{destination: {{host: web}}}}]}}]"),
        );
        let world = mesh.start().await;
        let answer = world.send(get("web", "/")).await;
        assert_eq!(answer.status == 200, served, "retryRemoteLocalities: {remote}: {answer:?}");
    }
}
