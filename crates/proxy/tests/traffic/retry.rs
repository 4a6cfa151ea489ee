//! Retries: when, how often, and when never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::server::{Act, Server};
use crate::world::{Mesh, World, get, post};

/// A service whose server fails `failures` times as told, then echoes.
async fn web(failures: usize, act: Act, route: &str) -> (World, Server) {
    let left = Arc::new(AtomicUsize::new(failures));
    let server = Server::with("web", move |_| {
        let take = left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        if take.is_ok() { act } else { Act::Echo }
    })
    .await;
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &server)]);
    if !route.is_empty() {
        mesh.virtual_service(
            "web",
            &format!("hosts: [web]\nhttp:\n- {route}\n  route: [{{destination: {{host: web}}}}]"),
        );
    }
    (mesh.start().await, server)
}

#[tokio::test]
async fn conditions() {
    for (on, act, tries) in [
        ("5xx", Act::Status(500), 3),
        ("5xx", Act::Break, 3),
        ("5xx", Act::Status(404), 1),
        ("gateway-error", Act::Status(502), 3),
        ("gateway-error", Act::Status(504), 3),
        ("gateway-error", Act::Status(500), 1),
        ("reset", Act::Break, 3),
        ("reset", Act::Status(503), 1),
        ("connect-failure", Act::Status(503), 1),
        ("retriable-4xx", Act::Status(409), 3),
        ("retriable-4xx", Act::Status(400), 1),
        ("refused-stream", Act::Status(503), 1),
        ("retriable-status-codes", Act::Status(503), 1),
        ("503", Act::Status(503), 3),
        ("429,418", Act::Status(418), 3),
        ("429,418", Act::Status(503), 1),
        ("cancelled", Act::Grpc(1), 3),
        ("deadline-exceeded", Act::Grpc(4), 3),
        ("resource-exhausted", Act::Grpc(8), 3),
        ("internal", Act::Grpc(13), 3),
        ("unavailable", Act::Grpc(14), 3),
        ("unavailable", Act::Grpc(13), 1),
    ] {
        let (world, server) = web(2, act, &format!("retries: {{attempts: 2, retryOn: \"{on}\"}}")).await;
        let answer = world.send(get("web", "/")).await;
        assert_eq!(server.count(), tries, "{on} on {act:?}: {answer:?}");
        if tries == 3 {
            assert_eq!(answer.seen("x-envoy-attempt-count"), "3", "{on} on {act:?}");
        }
    }
}

#[tokio::test]
async fn attempts_are_counted() {
    let (world, server) = web(9, Act::Status(500), "retries: {attempts: 4, retryOn: 5xx}").await;
    assert_eq!(world.send(get("web", "/")).await.status, 500);
    assert_eq!(server.count(), 5, "the first and four more");
    let (world, server) = web(9, Act::Status(503), "retries: {attempts: 0}").await;
    assert_eq!(world.send(get("web", "/")).await.status, 503);
    assert_eq!(server.count(), 1, "none at all");
}

#[tokio::test]
async fn a_try_has_its_own_limit() {
    let (world, server) =
        web(1, Act::Late(Duration::from_secs(20)), "retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx}").await;
    assert_eq!(world.send(get("web", "/")).await.server(), "web");
    assert_eq!(server.count(), 2);
    let (world, _) =
        web(9, Act::Late(Duration::from_secs(20)), "retries: {attempts: 1, perTryTimeout: 0.1s, retryOn: 5xx}").await;
    assert_eq!(world.send(get("web", "/")).await.status, 504);
}

#[tokio::test]
async fn the_pause_between_tries() {
    let (world, server) = web(2, Act::Status(503), "retries: {attempts: 2, retryOn: 5xx, backoff: 0.1s}").await;
    assert_eq!(world.send(get("web", "/")).await.server(), "web");
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn without_a_rule_istios_default_holds() {
    // Gateway statuses of the application are its own; a server that is away is not.
    let (world, server) = web(1, Act::Status(503), "").await;
    assert_eq!(world.send(get("web", "/")).await.status, 503);
    assert_eq!(server.count(), 1);
    let (world, server) = web(1, Act::Grpc(14), "").await;
    assert_eq!(world.send(get("web", "/")).await.server(), "web");
    assert_eq!(server.count(), 2);
    let (away, here) = (Server::refusing("away").await, Server::echo("here").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &away), ("", &here)]);
    let world = mesh.start().await;
    for _ in 0..20 {
        assert_eq!(world.send(post("web", "/")).await.server(), "here", "not sent yet, so it may go elsewhere");
    }
}

/// The default policy must not repeat what the application may have begun: only our data plane promises that.
#[tokio::test]
async fn what_is_not_idempotent_is_sent_once_by_default() {
    let (world, server) = web(1, Act::Break, "").await;
    let answer = world.send_body(post("web", "/"), "order").await;
    assert_eq!(answer.status, 503);
    assert_eq!(server.count(), 1, "the application may have done it");
    if world.is_envoy() {
        return;
    }
    let (world, server) = web(1, Act::Grpc(14), "").await;
    let answer = world.send_body(post("web", "/"), "order").await;
    assert_eq!(
        (answer.header("grpc-status"), server.count()),
        ("14", 1),
        "UNAVAILABLE may come from behind the application"
    );
}

#[tokio::test]
async fn a_user_who_asks_for_retries_of_posts_gets_them() {
    let (world, server) = web(1, Act::Status(503), "retries: {attempts: 1, retryOn: 5xx}").await;
    assert_eq!(world.send_body(post("web", "/"), "order").await.echo()["body"], "order");
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn another_host_is_tried() {
    for option in ["", ", retryIgnorePreviousHosts: true"] {
        let bad = Server::with("bad", |_| Act::Status(503)).await;
        let good = Server::echo("good").await;
        let mut mesh = Mesh::new();
        mesh.http("web", &[("", &bad), ("", &good)]).virtual_service(
            "web",
            &format!("hosts: [web]\nhttp:\n- retries: {{attempts: 1, retryOn: 5xx{option}}}\n  route: [{{destination: {{host: web}}}}]"),
        );
        let world = mesh.start().await;
        let tally = world.tally(40, || get("web", "/")).await;
        // After five picks Envoy takes a host that was tried after all.
        assert!(tally.get("good").is_some_and(|n| *n >= 37), "{option}: {tally:?}");
    }
    let bad = Server::with("bad", |_| Act::Status(503)).await;
    let good = Server::echo("good").await;
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &bad), ("", &good)])
        .destination_rule("web", "host: web\ntrafficPolicy: {loadBalancer: {simple: RANDOM}}")
        .virtual_service(
            "web",
            "hosts: [web]\nhttp:\n- retries: {attempts: 1, retryOn: 5xx, retryIgnorePreviousHosts: false}\n  route: [{destination: {host: web}}]",
        );
    let world = mesh.start().await;
    let tally = world.tally(100, || get("web", "/")).await;
    assert!(tally.get("bad").is_some_and(|n| *n > 0), "the same host may be tried again: {tally:?}");
}
