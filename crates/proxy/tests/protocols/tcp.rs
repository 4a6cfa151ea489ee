//! Bytes: who speaks first, what is counted, and where TLS goes unopened.

use std::io::Read as _;

use serde_json::json;

use crate::proxy::{self, Config};
use crate::wire::{Upstream, Wire, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_server_speaks_first_on_a_declared_port() {
    let upstream = Upstream::bind().await;
    let proxy = Config::tcp(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    server.send("220 ready\r\n").await;
    assert_eq!(client.until("\r\n").await, "220 ready\r\n");
    client.send("HELO\r\n").await;
    assert_eq!(server.until("\r\n").await, "HELO\r\n");
}

/// The proxy is told to wait for no time at all: what is seen here happens by the order of events alone.
#[tokio::test]
async fn a_server_speaks_first_on_an_undeclared_port() {
    let upstream = Upstream::bind().await;
    let proxy = Config::undeclared(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    server.send("220 ready\r\n").await;
    assert_eq!(client.until("\r\n").await, "220 ready\r\n");
    // From here on nothing is looked at, even if it looks like HTTP.
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(server.head().await, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    server.finish().await;
    client.finish().await;
    assert_eq!(client.rest().await, "");
}

#[test]
fn no_client_waits_for_more_than_five_milliseconds() {
    assert!(::proxy::UNDECIDED <= std::time::Duration::from_millis(5));
}

#[tokio::test]
async fn a_silent_client_that_turns_out_to_speak_http_gets_http() {
    let upstream = Upstream::bind().await;
    let proxy = Config::undeclared(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    let mut early = upstream.accept().await;
    client.send("GET / HT").await;
    client.send("TP/1.1\r\nHOST: a\r\n\r\n").await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.contains("\r\nhost: a\r\n"), "went through the HTTP chain: {head}");
    assert_eq!(early.rest().await, "", "the connection made for bytes got none");
    server.send(OK).await;
    assert_eq!(client.message().await.1, "ok");
}

#[tokio::test]
async fn bytes_of_no_known_protocol_go_to_one_connection() {
    let upstream = Upstream::bind().await;
    let proxy = Config::undeclared(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    client.send("*1\r\n$4\r\nPING\r\n").await;
    assert_eq!(server.text(14).await, "*1\r\n$4\r\nPING\r\n");
    server.send("+PONG\r\n").await;
    assert_eq!(client.until("\r\n").await, "+PONG\r\n");
    assert!(upstream.accepted().is_none(), "one client, one connection");
}

#[tokio::test]
async fn a_silent_client_is_kept_only_as_long_as_configured() {
    let upstream = Upstream::bind().await;
    let mut config = Config::undeclared(upstream.address);
    config.listener["listener_filters_timeout"] = json!("0.05s");
    config.listener["continue_on_listener_filters_timeout"] = json!(false);
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn each_side_may_end_its_direction() {
    let upstream = Upstream::bind().await;
    let proxy = Config::tcp(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    client.send("question").await;
    client.finish().await;
    assert_eq!(server.rest().await, "question");
    server.send("answer").await;
    server.finish().await;
    assert_eq!(client.rest().await, "answer");
}

#[tokio::test]
async fn a_connection_is_counted_while_it_lasts() {
    let upstream = Upstream::bind().await;
    let mut config = Config::tcp(upstream.address);
    config.metrics(json!({"tcp_reporting_duration": "0.02s"}));
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    eventually("opened", || proxy.metric("istio_tcp_connections_opened_total", &[]) == 1.0).await;
    client.send("12345").await;
    server.text(5).await;
    server.send("123").await;
    client.text(3).await;
    eventually("received", || proxy.metric("istio_tcp_received_bytes_total", &[]) == 5.0).await;
    eventually("sent", || proxy.metric("istio_tcp_sent_bytes_total", &[]) == 3.0).await;
    assert_eq!(proxy.metric("istio_tcp_connections_closed_total", &[]), 0.0, "it is still open");
    client.send("6").await;
    server.text(1).await;
    client.finish().await;
    server.finish().await;
    client.rest().await;
    eventually("closed", || proxy.metric("istio_tcp_connections_closed_total", &[]) == 1.0).await;
    assert_eq!(proxy.metric("istio_tcp_received_bytes_total", &[]), 6.0, "nothing is counted twice");
}

#[tokio::test]
async fn a_connection_is_logged_when_it_ends() {
    let upstream = Upstream::bind().await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut config = Config::tcp(upstream.address);
    let path = file.path().to_str().expect("a plain path");
    config.log(path, "%BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER%");
    let proxy = config.start();
    let mut client = Wire::connect(proxy.address).await;
    let mut server = upstream.accept().await;
    client.send("12345").await;
    client.finish().await;
    server.rest().await;
    server.finish().await;
    client.rest().await;
    let text = || {
        let mut text = String::new();
        file.reopen().and_then(|mut f| f.read_to_string(&mut text)).expect("a file");
        text
    };
    eventually("a line", || text().ends_with('\n')).await;
    assert_eq!(text(), "5 0 - up\n");
}

#[tokio::test]
async fn tls_goes_by_its_server_name_unopened() {
    let (named, other) = (Upstream::bind().await, Upstream::bind().await);
    let mut config = Config::tcp(named.address);
    config.clusters.push(proxy::cluster("other", other.address));
    let mut by_name = proxy::chain(proxy::tcp_proxy());
    by_name["filter_chain_match"] = json!({"server_names": ["*.example.com"], "transport_protocol": "tls"});
    let mut rest = proxy::chain(proxy::tcp_proxy());
    rest["filters"][0]["typed_config"]["cluster"] = json!("other");
    config.listener["filter_chains"] = json!([by_name, rest]);
    config.listener["listener_filters"] = json!([{
        "name": "tls_inspector",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        }
    }]);
    let proxy = config.start();
    for (name, upstream) in [("a.example.com", &named), ("example.org", &other)] {
        let hello = client_hello(name);
        let mut client = Wire::connect(proxy.address).await;
        // In two pieces: the name has not come yet with the first.
        client.send(&hello[..20]).await;
        client.send(&hello[20..]).await;
        // Before the first byte has come an upstream may be dialled for a server that speaks first; it is given up again
        // when the name leads elsewhere.
        let mut server = loop {
            let mut server = upstream.accept().await;
            if let Some(got) = server.try_exactly(hello.len()).await {
                assert_eq!(got, hello, "{name}: not a byte is changed");
                break server;
            }
        };
        server.send("reply").await;
        assert_eq!(client.text(5).await, "reply");
    }
}

/// A TLS 1.2 client hello with nothing but a server name.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| {
        let mut out = u16::try_from(bytes.len()).expect("short").to_be_bytes().to_vec();
        out.extend(bytes);
        out
    };
    let mut entry = vec![0];
    entry.extend(sized(name.as_bytes().to_vec()));
    let mut extension = vec![0, 0];
    extension.extend(sized(sized(entry)));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(sized(extension));
    let mut handshake = vec![1, 0];
    handshake.extend(sized(body));
    let mut record = vec![0x16, 3, 1];
    record.extend(sized(handshake));
    record
}
