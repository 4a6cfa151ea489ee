//! Draining: who is told, who is served on, and what is sent again.

use ::proxy::Scope;
use serde_json::json;
use tokio::net::TcpStream;

use crate::proxy::{Config, Running};
use crate::wire::{Upstream, Wire, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn exchange(client: &mut Wire, server: &mut Wire) -> String {
    client.send(GET).await;
    server.head().await;
    server.send(OK).await;
    client.message().await.0
}

fn says_close(head: &str) -> bool {
    head.to_ascii_lowercase().contains("\r\nconnection: close\r\n")
}

#[tokio::test]
async fn http1_is_told_by_its_next_answer_and_is_not_cut_while_idle() {
    let upstream = Upstream::bind().await;
    let Running { proxy, address } = Config::http(upstream.address).start();
    let mut early = Wire::connect(address).await;
    early.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(OK).await;
    assert!(!says_close(&early.message().await.0));
    proxy.drain(Scope::All);
    // A connection that comes now is served too, and told.
    let mut late = Wire::connect(address).await;
    for client in [&mut late, &mut early] {
        assert!(says_close(&exchange(client, &mut server).await));
        assert_eq!(client.rest().await, "", "closed after the answer that said so");
    }
    proxy.emptied().await;
}

#[tokio::test]
async fn closed_takes_nobody_and_serves_on_who_is_there_until_the_end() {
    let upstream = Upstream::bind().await;
    let Running { proxy, address } = Config::http(upstream.address).start();
    let (mut busy, mut idle) = (Wire::connect(address).await, Wire::connect(address).await);
    busy.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(OK).await;
    busy.message().await;
    idle.send(GET).await;
    server.head().await;
    server.send(OK).await;
    idle.message().await;
    proxy.close(Scope::All);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    busy.send(GET).await;
    server.head().await;
    proxy.end();
    assert_eq!(idle.rest().await, "", "an idle connection is closed at the end");
    server.send(OK).await;
    assert_eq!(busy.message().await.1, "ok", "what is in flight is finished");
    proxy.emptied().await;
}

#[tokio::test]
async fn an_announcement_can_be_taken_back() {
    let upstream = Upstream::bind().await;
    let Running { proxy, address } = Config::http(upstream.address).start();
    proxy.drain(Scope::All);
    proxy.resume();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(OK).await;
    assert!(!says_close(&client.message().await.0));
}

/// The application ends too, and may close a kept connection just as a request is on its way.
#[tokio::test]
async fn while_draining_the_application_is_dialled_afresh() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.listener["traffic_direction"] = json!("INBOUND");
    let Running { proxy, address } = config.start();
    let (mut one, mut two) = (Wire::connect(address).await, Wire::connect(address).await);
    one.send(GET).await;
    let mut kept = upstream.accept().await;
    kept.head().await;
    kept.send(OK).await;
    one.message().await;
    proxy.drain(Scope::Inbound);
    two.send(GET).await;
    let mut fresh = upstream.accept().await;
    assert_eq!(kept.rest().await, "", "the kept one is given up");
    fresh.head().await;
    fresh.send(OK).await;
    assert!(says_close(&two.message().await.0));
}

#[tokio::test]
async fn a_connection_that_breaks_costs_an_idempotent_request_nothing_and_another_is_never_sent_twice() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    // Istio's default; it names no resets.
    config.route()["route"]["retry_policy"] = json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2});
    let Running { proxy: _alive, address } = config.start();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    upstream.accept().await.head().await;
    let mut second = upstream.accept().await;
    second.head().await;
    // Not kept, so that the next request certainly has a connection of its own.
    second.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(client.message().await.1, "ok");
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
    upstream.accept().await.head().await;
    let (head, _) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(upstream.accepted().is_none(), "a POST that may have been seen was sent again");
}

#[tokio::test]
async fn a_route_without_retries_shows_that_a_new_connection_broke() {
    let upstream = Upstream::bind().await;
    let Running { proxy: _alive, address } = Config::http(upstream.address).start();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    upstream.accept().await.head().await;
    let (head, _) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(upstream.accepted().is_none(), "sent again although nobody asked for retries");
}

#[tokio::test]
async fn bytes_go_on_while_draining_and_count_as_open() {
    let upstream = Upstream::bind().await;
    let Running { proxy, address } = Config::tcp(upstream.address).start();
    let mut client = Wire::connect(address).await;
    let mut server = upstream.accept().await;
    proxy.close(Scope::All);
    proxy.end();
    client.send("ping").await;
    assert_eq!(server.text(4).await, "ping");
    assert_eq!(proxy.open_connections(), 1);
    client.finish().await;
    server.finish().await;
    eventually("the connection has ended", || proxy.open_connections() == 0).await;
}
