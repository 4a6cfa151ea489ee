//! WebSocket, other upgrades, and CONNECT.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::http2::{client, next};
use crate::proxy::{Config, cluster};
use crate::wire::{Upstream, Wire, field};

pub(crate) const ASK: &str =
    "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

pub(crate) fn allowing(upstream: std::net::SocketAddr, upgrades: Value) -> Config {
    let mut config = Config::http(upstream);
    config.manager()["upgrade_configs"] = upgrades;
    config
}

#[tokio::test]
async fn websocket_is_a_tunnel_once_agreed() {
    let upstream = Upstream::bind().await;
    let proxy = allowing(upstream.address, json!([{"upgrade_type": "websocket"}])).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send(ASK).await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!((field(&head, "upgrade"), field(&head, "connection")), (Some("websocket"), Some("upgrade")), "{head}");
    server
        .send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: h\r\n\r\nhi")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && field(&head, "sec-websocket-accept") == Some("h"), "{head}");
    assert_eq!(client.text(2).await, "hi");
    // No longer HTTP, whatever it looks like.
    client.send("POST / HTTP/1.1\r\ncontent-length: x\r\ntransfer-encoding: y\r\n\r\n").await;
    assert!(server.head().await.starts_with("POST / HTTP/1.1\r\ncontent-length: x\r\n"));
    client.finish().await;
    server.send("bye").await;
    server.finish().await;
    assert_eq!(client.rest().await, "bye");
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_declines_is_an_answer() {
    let upstream = Upstream::bind().await;
    let proxy = allowing(upstream.address, json!([{"upgrade_type": "websocket"}])).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send(ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let (head, body) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == "no", "{head}");
}

#[tokio::test]
async fn upgrades_are_refused_unless_configured() {
    let upstream = Upstream::bind().await;
    for upgrades in
        [json!([]), json!([{"upgrade_type": "other"}]), json!([{"upgrade_type": "websocket", "enabled": false}])]
    {
        let proxy = allowing(upstream.address, upgrades).start();
        let mut client = Wire::connect(proxy.address).await;
        client.send(ASK).await;
        assert!(client.head().await.starts_with("HTTP/1.1 403 "));
        let mut client = Wire::connect(proxy.address).await;
        client.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 403 "));
        assert!(upstream.accepted().is_none());
    }
    // An offer of HTTP/2 may be passed over: the request is served as it stands (RFC 9113, 3.1).
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n")
        .await;
    let head = upstream.accept().await.head().await;
    assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{head}");
}

#[tokio::test]
async fn websocket_comes_by_extended_connect_where_configured() {
    let upstream = Upstream::bind().await;
    let mut config = allowing(upstream.address, json!([{"upgrade_type": "websocket"}]));
    config.manager()["http2_protocol_options"] = json!({"allow_connect": true});
    let proxy = config.start();
    let mut h2 = client(proxy.address).await;
    // The server's settings must have come before extended CONNECT may be used.
    while !h2.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
        h2 = h2.ready().await.expect("a connection");
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://a/chat".parse().expect("a URL");
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, mut up) = h2.send_request(request, false).expect("sent");
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
    assert_eq!((field(&head, "upgrade"), field(&head, "host")), (Some("websocket"), Some("a")), "{head}");
    assert!(field(&head, "sec-websocket-key").is_some(), "{head}");
    server.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi").await;
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("upgrade"));
    let mut down = response.into_body();
    assert_eq!(next(&mut down).await, Some(Bytes::from_static(b"hi")));
    up.send_data(Bytes::from_static(b"hello"), false).expect("sent");
    assert_eq!(server.text(5).await, "hello");
}

#[tokio::test]
async fn connect_ends_at_the_proxy_where_configured() {
    let upstream = Upstream::bind().await;
    let mut config = allowing(upstream.address, json!([{"upgrade_type": "CONNECT"}]));
    config.route()["match"] = json!({"connect_matcher": {}});
    config.route()["route"]["upgrade_configs"] = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await;
    let mut server = upstream.accept().await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client.send("raw").await;
    assert_eq!(server.text(3).await, "raw", "no CONNECT reaches the upstream");
    server.send("bytes").await;
    assert_eq!(client.text(5).await, "bytes");
    // The route takes nothing else.
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn connect_is_passed_on_where_configured() {
    let upstream = Upstream::bind().await;
    let mut config = allowing(upstream.address, json!([{"upgrade_type": "CONNECT"}]));
    config.route()["match"] = json!({"connect_matcher": {}});
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("CONNECT a:80 HTTP/1.1\r\n"), "{head}");
    server.send("HTTP/1.1 200 OK\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client.send("up").await;
    assert_eq!(server.text(2).await, "up");
    server.send("down").await;
    assert_eq!(client.text(4).await, "down");
}

#[tokio::test]
async fn connect_needs_a_route_of_its_own() {
    let upstream = Upstream::bind().await;
    let mut config = allowing(upstream.address, json!([{"upgrade_type": "CONNECT"}]));
    config.clusters.push(cluster("other", upstream.address));
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 404 "), "the prefix / does not take it");
    assert!(upstream.accepted().is_none());
}
