//! Outlier detection: which hosts are put aside, and when.

use std::time::Duration;

use crate::server::{Act, Server};
use crate::world::{Mesh, World, get};

/// One bad server among good ones, under round robin.
async fn web(bad: Act, good: usize, detection: &str) -> (World, Server) {
    let bad = Server::with("bad", move |_| bad).await;
    let mut servers = vec![bad.clone()];
    for n in 0..good {
        servers.push(Server::echo(&format!("good{n}")).await);
    }
    let mut mesh = Mesh::new();
    let pods: Vec<(&str, &Server)> = servers.iter().map(|s| ("", s)).collect();
    mesh.http("web", &pods);
    mesh.destination_rule(
        "web",
        &format!("host: web\ntrafficPolicy:\n  loadBalancer: {{simple: ROUND_ROBIN}}\n  outlierDetection: {detection}"),
    );
    mesh.virtual_service("web", "hosts: [web]\nhttp: [{retries: {attempts: 0}, route: [{destination: {host: web}}]}]");
    (mesh.start().await, bad)
}

#[tokio::test]
async fn failures_in_a_row() {
    for (act, detection, asked) in [
        (Act::Status(500), "{consecutive5xxErrors: 3, baseEjectionTime: 300s, maxEjectionPercent: 100}", 3),
        (Act::Status(500), "{consecutive5xxErrors: 0, baseEjectionTime: 300s, maxEjectionPercent: 100}", 10),
        (
            Act::Status(503),
            "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 100}",
            2,
        ),
        (
            Act::Status(500),
            "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 100}",
            10,
        ),
        (Act::Status(404), "{consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}", 10),
        (Act::Break, "{consecutive5xxErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 100}", 2),
        (Act::Status(500), "{consecutive5xxErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 10}", 10),
        (Act::Status(500), "{consecutive5xxErrors: 2, baseEjectionTime: 300s, maxEjectionPercent: 50}", 2),
    ] {
        let (world, bad) = web(act, 1, detection).await;
        world.tally(20, || get("web", "/")).await;
        // Envoy puts hosts aside on another thread: some more requests may still go there.
        let most = if world.is_envoy() && asked < 10 { asked + 5 } else { asked };
        assert!((asked..=most).contains(&bad.count()), "{act:?} {detection}: {}", bad.count());
    }
}

#[tokio::test]
async fn failures_of_our_own_are_counted_apart() {
    let base = "baseEjectionTime: 300s, maxEjectionPercent: 100, splitExternalLocalOriginErrors: true";
    for (act, detection) in [
        // A connection that breaks is no answer, so not the server's 5xx; and it did come about.
        (Act::Break, format!("{{consecutive5xxErrors: 2, consecutiveLocalOriginFailures: 0, {base}}}")),
        (Act::Break, format!("{{consecutive5xxErrors: 0, consecutiveLocalOriginFailures: 3, {base}}}")),
        (Act::Status(500), format!("{{consecutive5xxErrors: 0, consecutiveLocalOriginFailures: 3, {base}}}")),
    ] {
        let (world, bad) = web(act, 1, &detection).await;
        world.tally(20, || get("web", "/")).await;
        assert_eq!(bad.count(), 10, "{act:?} {detection}");
    }
    let (away, here) = (Server::refusing("away").await, Server::echo("here").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &away), ("", &here)]);
    mesh.destination_rule(
        "web",
        &format!("host: web\ntrafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {{consecutive5xxErrors: 0, consecutiveLocalOriginFailures: 3, {base}}}}}"),
    );
    mesh.virtual_service("web", "hosts: [web]\nhttp: [{retries: {attempts: 0}, route: [{destination: {host: web}}]}]");
    let tally = mesh.start().await.tally(20, || get("web", "/")).await;
    assert_eq!(tally["here"], 17, "three in vain: {tally:?}");
}

#[tokio::test]
async fn an_ejected_host_comes_back() {
    let detection = "{consecutive5xxErrors: 1, interval: 0.2s, baseEjectionTime: 4s, maxEjectionPercent: 100}";
    let (world, bad) = web(Act::Status(500), 1, detection).await;
    world.tally(10, || get("web", "/")).await;
    // Envoy puts hosts aside on another thread, see above.
    assert!((1..=if world.is_envoy() { 5 } else { 1 }).contains(&bad.count()), "{}", bad.count());
    bad.change(|_| Act::Echo);
    for _ in 0..500 {
        if world.send(get("web", "/")).await.server() == "bad" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it stays away");
}

#[tokio::test]
async fn with_too_few_hosts_left_all_are_used() {
    let detection = "{consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100, minHealthPercent: 60}";
    let (world, bad) = web(Act::Status(500), 1, detection).await;
    world.tally(20, || get("web", "/")).await;
    assert!(bad.count() > 5, "one of two is below 60 %: {}", bad.count());
    let detection = "{consecutive5xxErrors: 1, baseEjectionTime: 300s, maxEjectionPercent: 100}";
    let (world, bad) = web(Act::Status(500), 0, detection).await;
    world.send(get("web", "/")).await;
    // A host is put aside a moment after its answer.
    for _ in 0..500 {
        if world.cluster_stat("web", "membership_healthy").await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = world.send(get("web", "/")).await;
    assert_eq!(bad.count(), 1, "without a threshold nobody is left");
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (503, "no healthy upstream"));
}
