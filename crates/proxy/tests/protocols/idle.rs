//! Streams on which nothing moves.

use serde_json::json;

use crate::proxy::{Config, Running};
use crate::wire::{Upstream, Wire};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn a_stream_on_which_nothing_moves_is_ended_and_the_status_says_whose_turn_it_was() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("0.05s");
    let Running { proxy: _alive, address } = config.start();

    // The upstream's turn.
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    let (head, body) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 504 ") && body == "stream timeout", "{head}{body}");

    // The client's turn.
    let mut client = Wire::connect(address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab").await;
    let (head, body) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 408 ") && body == "stream timeout", "{head}{body}");
}

#[tokio::test]
async fn an_answer_that_has_begun_is_broken_off() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("1s");
    let Running { proxy: _alive, address } = config.start();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("ab"), "{all}");
}

#[tokio::test]
async fn what_moves_keeps_a_stream_alive() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("2s");
    let Running { proxy: _alive, address } = config.start();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 45\r\n\r\n").await;
    // All pieces take longer than the limit, no pause does.
    for _ in 0..45 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        server.send("x").await;
    }
    assert_eq!(client.message().await.1, "x".repeat(45));
}

#[tokio::test]
async fn a_route_has_a_limit_of_its_own() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("0s");
    config.route()["route"]["idle_timeout"] = json!("0.05s");
    let Running { proxy: _alive, address } = config.start();
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let (head, _) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
}

#[tokio::test]
async fn a_websocket_on_which_nobody_speaks_is_ended() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("1s");
    config.manager()["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let Running { proxy: _alive, address } = config.start();
    let mut client = Wire::connect(address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 101 "), "{all}");
}
