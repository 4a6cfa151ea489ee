//! Copies of requests.

use serde_json::json;

use crate::proxy::{Config, cluster};
use crate::wire::{Upstream, Wire, field};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn each_mirror_gets_its_copy_and_body() {
    let (main, one, two, never) =
        (Upstream::bind().await, Upstream::bind().await, Upstream::bind().await, Upstream::bind().await);
    let mut config = Config::http(main.address);
    config.clusters.extend([cluster("one", one.address), cluster("two", two.address), cluster("never", never.address)]);
    let none = json!({"default_value": {"numerator": 0, "denominator": "HUNDRED"}});
    config.route()["route"]["request_mirror_policies"] = json!([
        {"cluster": "one"},
        {"cluster": "never", "runtime_fraction": none},
        {"cluster": "two", "disable_shadow_host_suffix_append": true}
    ]);
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("POST /x HTTP/1.1\r\nhost: a:80\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let (mut main, mut first, mut second) = (main.accept().await, one.accept().await, two.accept().await);
    assert_eq!(field(&main.head().await, "host"), Some("a:80"));
    let head = first.head().await;
    assert!(head.starts_with("POST /x ") && field(&head, "host") == Some("a-shadow:80"), "{head}");
    assert_eq!(field(&second.head().await, "host"), Some("a:80"));
    for server in [&mut main, &mut first, &mut second] {
        assert_eq!(server.until("abc\r\n").await, "3\r\nabc\r\n", "streamed, not held back");
    }
    client.send("2\r\nde\r\n0\r\n\r\n").await;
    for server in [&mut main, &mut first, &mut second] {
        assert_eq!(server.until("0\r\n\r\n").await, "2\r\nde\r\n0\r\n\r\n");
    }
    // A mirror's answer is thrown away.
    first.send("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno").await;
    main.send(OK).await;
    assert_eq!(client.message().await.1, "ok");
    assert!(never.accepted().is_none());

    // A request without a body, and the mirror that never answers does not hold it up.
    client.send("GET /y HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(main.head().await.starts_with("GET /y "));
    assert!(first.head().await.starts_with("GET /y "));
    main.send(OK).await;
    assert_eq!(client.message().await.1, "ok");
}

#[tokio::test]
async fn a_mirror_that_cannot_keep_up_is_given_up() {
    let (main, slow) = (Upstream::bind().await, Upstream::bind().await);
    let mut config = Config::http(main.address);
    config.clusters.push(cluster("slow", slow.address));
    config.route()["route"]["request_mirror_policies"] = json!([{"cluster": "slow"}]);
    let proxy = config.start();
    let size = 64 << 20;
    let address = proxy.address;
    let sending = tokio::spawn(async move {
        let mut client = Wire::connect(address).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n")).await;
        client.send(vec![1; size]).await;
        client.message().await.1
    });
    let (mut server, mut mirror) = (main.accept().await, slow.accept().await);
    server.head().await;
    server.skip(size).await;
    server.send(OK).await;
    assert_eq!(sending.await.expect("an answer"), "ok", "the request that counts went through");
    mirror.head().await;
    let copied = mirror.rest().await.len();
    assert!(copied < size, "the copy broke off, it was not kept in memory");
}

#[tokio::test]
async fn a_mirror_may_speak_another_version() {
    let (main, other) = (Upstream::bind().await, Upstream::bind().await);
    let mut config = Config::http(main.address);
    config.http2_upstream();
    config.clusters.push(cluster("other", other.address));
    config.route()["route"]["request_mirror_policies"] = json!([{"cluster": "other"}]);
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    client.send("GET /z HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = other.accept().await.head().await;
    assert!(head.starts_with("GET /z HTTP/1.1\r\n") && field(&head, "host") == Some("a-shadow"), "{head}");
    assert!(main.accept().await.until("SM\r\n\r\n").await.starts_with("PRI * HTTP/2.0"));
}
