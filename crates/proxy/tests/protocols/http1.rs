//! HTTP/1.0 and HTTP/1.1, both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use serde_json::json;

use crate::proxy::Config;
use crate::wire::{Upstream, Wire, field};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn connections_are_kept_in_both_versions() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    assert!(server.head().await.starts_with("GET /1 HTTP/1.1\r\n"));
    server.send(OK).await;
    assert_eq!(client.message().await.1, "ok");

    client.send("GET /2 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(server.head().await.starts_with("GET /2 "), "on the same connections");
    server.send(OK).await;
    client.message().await;

    let mut old = Wire::connect(proxy.address).await;
    old.send("GET /3 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    let head = server.head().await;
    assert!(head.starts_with("GET /3 HTTP/1.1\r\n"), "each hop has its own version: {head}");
    server.send(OK).await;
    let (head, _) = old.message().await;
    assert_eq!(field(&head, "connection"), Some("keep-alive"), "{head}");
    old.send("GET /4 HTTP/1.0\r\n\r\n").await;
    assert!(server.head().await.starts_with("GET /4 "));
    server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let answer = old.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.contains("chunked"), "HTTP/1.0 knows no chunks: {answer}");
}

#[tokio::test]
async fn an_upstream_of_http_1_0_ends_its_answer_by_closing() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut server = upstream.accept().await;
        server.head().await;
        server.send("HTTP/1.0 200 OK\r\n\r\nall of it").await;
        server.finish().await;
        let head = client.head().await;
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
        assert_eq!(client.until("0\r\n\r\n").await, "9\r\nall of it\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn chunks_and_trailers_go_both_ways() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client
        .send(concat!(
            "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n",
            "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
        ))
        .await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!(field(&head, "te"), Some("trailers"), "{head}");
    assert_eq!(server.until("abc\r\n").await, "3\r\nabc\r\n", "the body streams before its end has come");
    client.send("4;ext=1\r\ndefg\r\n0\r\nx-sum: 7\r\nx-unannounced: 1\r\n\r\n").await;
    let rest = server.until("\r\n\r\n").await;
    assert!(rest.starts_with("4\r\ndefg\r\n0\r\nx-sum: 7\r\n"), "{rest}");
    server
        .send("HTTP/1.1 200 OK\r\ntrailer: x-back\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-back: yes\r\n\r\n")
        .await;
    client.head().await;
    let body = client.until("\r\n\r\n").await;
    assert_eq!(body, "2\r\nhi\r\n0\r\nx-back: yes\r\n\r\n");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    assert!(server.head().await.starts_with("HEAD / "));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(field(&head, "content-length"), Some("1000"));
    for status in ["204 No Content", "304 Not Modified"] {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        server.head().await;
        server.send(format!("HTTP/1.1 {status}\r\netag: x\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}");
        assert_eq!(field(&head, "transfer-encoding"), None);
    }
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    server.head().await;
    server.send(OK).await;
    assert_eq!(client.message().await.1, "ok", "the stream is still in step");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client
        .send(concat!(
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nxyz",
            "GET /3 HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .await;
    let mut server = upstream.accept().await;
    for number in 1..=3 {
        let (head, body) = server.message().await;
        let path = head.split(' ').nth(1).expect("a path").to_owned();
        assert_eq!(path, format!("/{number}"));
        assert_eq!(body, if number == 2 { "xyz" } else { "" });
        server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{path}")).await;
    }
    for number in 1..=3 {
        assert_eq!(client.message().await.1, format!("/{number}"));
    }
}

#[tokio::test]
async fn a_client_that_ends_its_direction_gets_its_answer() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.finish().await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(OK).await;
    assert!(client.rest().await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn expectations_are_answered_at_once_by_default() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    let mut server = upstream.accept().await;
    let (head, body) = server.message().await;
    assert_eq!((field(&head, "expect"), body.as_str()), (None, "abc"), "{head}");
    server.send(OK).await;
    assert_eq!(client.message().await.1, "ok");
}

#[tokio::test]
async fn expectations_are_the_upstreams_where_configured() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["proxy_100_continue"] = json!(true);
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc").await;
    assert_eq!(server.text(3).await, "abc");
    server.send(OK).await;
    assert_eq!(client.message().await.1, "ok");

    // Refused without the body: the client never hears 100.
    let mut client = Wire::connect(proxy.address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    server.head().await;
    server.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[tokio::test]
async fn names_of_headers_are_lower_case_unless_configured() {
    let upstream = Upstream::bind().await;
    let format = json!({"header_key_format": {"stateful_formatter": {
        "name": "preserve_case",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
        }
    }}});
    for preserve in [false, true] {
        let mut config = Config::http(upstream.address);
        if preserve {
            config.manager()["http_protocol_options"] = format.clone();
            config.upstream_options(json!({"explicit_http_config": {"http_protocol_options": format}}));
        }
        let proxy = config.start();
        let mut client = Wire::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: k\r\nSOAPAction: s\r\n\r\n").await;
        let mut server = upstream.accept().await;
        let head = server.head().await;
        server.send("HTTP/1.1 200 OK\r\nX-Rate-LIMIT: 1\r\nContent-Length: 0\r\n\r\n").await;
        let back = client.head().await;
        if preserve {
            assert!(head.contains("\r\nX-API-Key: k\r\n") && head.contains("\r\nSOAPAction: s\r\n"), "{head}");
            assert!(back.contains("\r\nX-Rate-LIMIT: 1\r\n"), "{back}");
        } else {
            assert!(head.contains("\r\nx-api-key: k\r\n") && head.contains("\r\nsoapaction: s\r\n"), "{head}");
            assert!(back.contains("\r\nx-rate-limit: 1\r\n"), "{back}");
        }
    }
}

const BODY: u64 = 512 << 20;

/// What kernel and proxy may hold between the two ends, in bytes: the buffers of two connections grow as far as this kernel
/// lets them; the proxy's own are of some kilobytes.
fn held() -> u64 {
    let largest = |direction: &str| {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/tcp_{direction}mem")).unwrap_or_default();
        limits.split_whitespace().last().and_then(|most| most.parse().ok()).unwrap_or(32 << 20)
    };
    let held = 2 * (largest("r") + largest("w")) + (4 << 20);
    assert!(held < BODY / 2, "buffers of the kernel are too large for this test: {held}");
    held
}

#[tokio::test]
async fn a_large_download_waits_for_its_slow_reader() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let server = tokio::spawn(async move {
        let mut server = upstream.accept().await;
        server.head().await;
        server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n")).await;
        let piece = vec![7; 1 << 20];
        for _ in 0..BODY >> 20 {
            server.send(&piece).await;
            counter.fetch_add(1 << 20, SeqCst);
        }
    });
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.head().await;
    let (mut read, held) = (0, held());
    while read < BODY {
        client.skip(1 << 20).await;
        read += 1 << 20;
        assert!(sent.load(SeqCst) <= read + held, "the proxy holds {} bytes", sent.load(SeqCst) - read);
        tokio::task::yield_now().await;
    }
    server.await.expect("all was sent");
}

#[tokio::test]
async fn a_large_upload_waits_for_its_slow_reader() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let address = proxy.address;
    let client = tokio::spawn(async move {
        let mut client = Wire::connect(address).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n")).await;
        let piece = vec![7; 1 << 20];
        for _ in 0..BODY >> 20 {
            client.send(&piece).await;
            counter.fetch_add(1 << 20, SeqCst);
        }
        client.message().await.1
    });
    let mut server = upstream.accept().await;
    server.head().await;
    let (mut read, held) = (0, held());
    while read < BODY {
        server.skip(1 << 20).await;
        read += 1 << 20;
        assert!(sent.load(SeqCst) <= read + held, "the proxy holds {} bytes", sent.load(SeqCst) - read);
        tokio::task::yield_now().await;
    }
    server.send(OK).await;
    assert_eq!(client.await.expect("an answer"), "ok");
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_its_idle_time() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["common_http_protocol_options"] = json!({"idle_timeout": "0.05s"});
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(OK).await;
    client.message().await;
    assert_eq!(client.rest().await, "", "closed without another word");
}

#[tokio::test]
async fn a_client_that_still_sends_gets_an_early_answer_whole() {
    const PART: usize = 1 << 20;
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["delayed_close_timeout"] = json!("600s");
    let route = config.route();
    route.as_object_mut().expect("a route").remove("route");
    route["direct_response"] = json!({"status": 403, "body": {"inline_string": "not you"}});
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 8 * PART)).await;
    let (head, body) = client.message().await;
    assert!(head.starts_with("HTTP/1.1 403 ") && body == "not you", "{head}{body}");
    // A connection that were closed by now would be reset, and its client could not send on.
    for _ in 0..8 {
        client.send(vec![b'x'; PART]).await;
    }
    client.finish().await;
    assert_eq!(client.rest().await, "", "nothing but the end");
}

#[tokio::test]
async fn options_that_are_not_built_are_refused_by_name() {
    let upstream = Upstream::bind().await;
    for (field, value) in [
        ("request_headers_timeout", json!("1s")),
        ("codec_type", json!("HTTP3")),
        ("http_protocol_options", json!({"allow_chunked_length": true})),
        ("http_protocol_options", json!({"header_key_format": {"proper_case_words": {}}})),
        ("http2_protocol_options", json!({"hpack_table_size": 1})),
        ("common_http_protocol_options", json!({"max_requests_per_connection": 5})),
        ("upgrade_configs", json!([{"upgrade_type": "connect-udp"}])),
    ] {
        let mut config = Config::http(upstream.address);
        config.manager()[field] = value;
        let refused = config.try_start().err().unwrap_or_else(|| panic!("{field} was taken"));
        assert!(refused.contains(field), "{refused}");
    }
}
