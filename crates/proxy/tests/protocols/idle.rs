//! Streams on which nothing moves.

use serde_json::json;

use crate::http2::client as client_of_http2;
use crate::proxy::{Config, Running};
use crate::wire::{PATIENCE, Upstream, Wire};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A server, and a proxy in front of it that lets streams be silent for so long.
async fn start(limit: &str) -> (Upstream, Running) {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!(limit);
    let running = config.start();
    (upstream, running)
}

/// The same with a limit of the route alone.
async fn start_with_route(field: &str, limit: &str) -> (Upstream, Running) {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["stream_idle_timeout"] = json!("0s");
    config.route()["route"][field] = json!(limit);
    let running = config.start();
    (upstream, running)
}

#[tokio::test]
async fn a_stream_on_which_nothing_moves_is_ended_and_the_status_says_whose_turn_it_was() {
    let (upstream, Running { proxy: _alive, address }) = start("0.05s").await;

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
    let (upstream, Running { proxy: _alive, address }) = start("1s").await;
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.ends_with("ab"), "{all}");
}

/// Sends an answer that is far larger than all buffers on the way, and waits until it is broken off.
async fn flood(server: &mut Wire, head: &str) {
    server.send(head).await;
    let sending = server.try_send(vec![b'x'; 256 << 20]);
    tokio::time::timeout(PATIENCE, sending).await.expect("the upstream is let go");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_silent_too() {
    let (upstream, Running { proxy: _alive, address }) = start("1s").await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 268435456\r\n\r\n";

    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    flood(&mut server, head).await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.len() < 256 << 20, "the connection ends: {}", all.len());

    // Over HTTP/2 the stream ends, and the connection goes on.
    let mut sender = client_of_http2(address).await;
    let request = || http::Request::get("http://a/").body(()).expect("a request");
    let (response, _) = sender.send_request(request(), true).expect("a stream");
    let mut server = upstream.accept().await;
    server.head().await;
    let (response, ()) = tokio::join!(response, flood(&mut server, head));
    let mut body = response.expect("a head").into_body();
    let broken = loop {
        match body.data().await {
            Some(Ok(data)) => body.flow_control().release_capacity(data.len()).expect("it was counted"),
            other => break other,
        }
    };
    assert!(matches!(broken, Some(Err(_))), "it was broken off: {broken:?}");
    let (response, _) = sender.send_request(request(), true).expect("another stream");
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(response.await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn what_moves_keeps_a_stream_alive() {
    let (upstream, Running { proxy: _alive, address }) = start("2s").await;
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
    let (_upstream, Running { proxy: _alive, address }) = start_with_route("idle_timeout", "0.05s").await;
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

#[tokio::test]
async fn the_time_of_a_route_is_over_for_a_client_that_does_not_read() {
    let (upstream, Running { proxy: _alive, address }) = start_with_route("timeout", "2s").await;
    let mut client = Wire::connect(address).await;
    client.send(GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    flood(&mut server, "HTTP/1.1 200 OK\r\ncontent-length: 268435456\r\n\r\n").await;
    let all = client.rest().await;
    assert!(all.starts_with("HTTP/1.1 200 ") && all.len() < 256 << 20, "the connection ends: {}", all.len());
}
