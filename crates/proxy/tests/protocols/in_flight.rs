//! What counts as a request, and as a connection, in flight towards a cluster.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;

use crate::proxy::{Config, Running};
use crate::upgrade::{ASK, allowing};
use crate::wire::{Upstream, Wire, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Requests at the cluster, requests at its host, connections to it.
fn in_flight(running: &Running) -> (u64, u64, u64) {
    let clusters = running.proxy.clusters().clusters();
    let cluster = clusters.first().expect("the upstream");
    let at_host = cluster.hosts().first().map_or(0, |host| host.stats.rq_active.load(Relaxed));
    (cluster.stats.rq_active.load(Relaxed), at_host, cluster.stats.cx_active.load(Relaxed))
}

#[tokio::test]
async fn a_request_counts_until_its_answer_has_ended() {
    let upstream = Upstream::bind().await;
    let running = Config::http(upstream.address).start();
    let mut client = Wire::connect(running.address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    assert_eq!(in_flight(&running), (1, 1, 1));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
    client.head().await;
    assert_eq!(client.text(2).await, "ab");
    assert_eq!(in_flight(&running), (1, 1, 1), "half of the answer is not its end");
    server.send("cd").await;
    assert_eq!(client.text(2).await, "cd");
    eventually("the answer has ended", || in_flight(&running) == (0, 0, 1)).await;
}

#[tokio::test]
async fn a_websocket_counts_until_it_ends() {
    let upstream = Upstream::bind().await;
    let mut config = allowing(upstream.address, json!([{"upgrade_type": "websocket"}]));
    config.clusters[0]["circuit_breakers"] = json!({"thresholds": [{"max_requests": 1}]});
    let running = config.start();
    let mut socket = Wire::connect(running.address).await;
    socket.send(ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi").await;
    socket.head().await;
    assert_eq!(socket.text(2).await, "hi");
    assert_eq!(in_flight(&running), (1, 1, 1));

    let mut client = Wire::connect(running.address).await;
    client.send(GET).await;
    let (head, body) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-envoy-overloaded: true"), "{head}");
    assert!(body.ends_with("reset reason: overflow"), "{body}");

    // What was dialled for it serves the next.
    let mut spare = upstream.accept().await;
    socket.finish().await;
    server.finish().await;
    eventually("the socket has ended", || in_flight(&running) == (0, 0, 1)).await;
    client.send(GET).await;
    spare.head().await;
    spare.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_websocket_that_is_declined_frees_its_connection() {
    let upstream = Upstream::bind().await;
    let running = allowing(upstream.address, json!([{"upgrade_type": "websocket"}])).start();
    let mut client = Wire::connect(running.address).await;
    client.send(ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    client.head().await;
    eventually("the answer has ended", || in_flight(&running) == (0, 0, 1)).await;
    drop(server);
    eventually("the connection is gone", || in_flight(&running) == (0, 0, 0)).await;
}
