//! TCP and TLS routes, and what a DestinationRule says of connections that carry bytes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::server::{Server, listen};
use crate::world::{Mesh, World};

/// The server that a connection reaches: it says its name, and echoes.
pub async fn reached(at: SocketAddr, say: &[u8]) -> String {
    let mut stream = BufReader::new(TcpStream::connect(at).await.expect("the listener is open"));
    stream.write_all(say).await.expect("it is open");
    let mut name = String::new();
    let _ = stream.read_line(&mut name).await;
    if !name.is_empty() && say.is_empty() {
        stream.write_all(b"ping").await.expect("it is open");
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("an echo");
        assert_eq!(&echo, b"ping");
    }
    name.trim_end().to_owned()
}

/// A TCP service `db` with server `db`, and `other`, on port 9000.
async fn tcp(rule: &str) -> World {
    let (db, other) = (Server::tcp("db").await, Server::tcp("other").await);
    let mut mesh = Mesh::new();
    mesh.service("db", "shop", &[("tcp", 9000)], &[("", &db)]);
    mesh.service("other", "shop", &[("tcp", 9000)], &[("", &other)]);
    let rule = rule.replace("VIP", mesh.vip("db"));
    mesh.virtual_service("db", &format!("hosts: [db]\n{rule}"));
    mesh.start().await
}

#[tokio::test]
async fn conditions_of_tcp_routes() {
    let to = "route: [{destination: {host: other, port: {number: 9000}}}]";
    for (matches, server) in [
        ("", "other"),
        ("match: [{port: 9000}], ", "other"),
        ("match: [{port: 9001}], ", "db"),
        ("match: [{destinationSubnets: [VIP]}], ", "other"),
        ("match: [{destinationSubnets: [127.78.0.0/16]}], ", "other"),
        ("match: [{destinationSubnets: [10.0.0.0/8]}], ", "db"),
        ("match: [{destinationSubnets: [10.0.0.0/8]}, {port: 9000}], ", "other"),
        ("match: [{sourceLabels: {app: client}}], ", "other"),
        ("match: [{sourceLabels: {app: stranger}}], ", "db"),
        ("match: [{sourceNamespace: shop}], ", "other"),
        ("match: [{sourceNamespace: elsewhere}], ", "db"),
        ("match: [{sourceSubnet: 127.0.0.0/8}], ", "other"),
        ("match: [{sourceSubnet: 10.0.0.0/8}], ", "db"),
        ("match: [{gateways: [mesh]}], ", "other"),
    ] {
        let world = tcp(&format!("tcp: [{{{matches}{to}}}]")).await;
        assert_eq!(reached(world.tcp_entry("db", 9000), b"").await, server, "{matches}");
    }
}

#[tokio::test]
async fn weights_of_tcp_routes() {
    let world =
        tcp("tcp: [{route: [{destination: {host: db}, weight: 70}, {destination: {host: other}, weight: 30}]}]").await;
    let mut tally: HashMap<String, usize> = HashMap::new();
    for _ in 0..200 {
        *tally.entry(reached(world.tcp_entry("db", 9000), b"").await).or_default() += 1;
    }
    assert!((25..100).contains(&tally["other"]), "30 % of 200: {tally:?}");
}

/// The first bytes of a TLS client that asks for a name.
pub fn hello(name: &str) -> Vec<u8> {
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a hello");
    bytes
}

#[tokio::test]
async fn conditions_of_tls_routes() {
    let (a, b, c) = (Server::tcp("a").await, Server::tcp("b").await, Server::tcp("c").await);
    let mut mesh = Mesh::new();
    mesh.service("a", "shop", &[("tls", 9443)], &[("", &a)]);
    mesh.service("b", "shop", &[("tls", 9443)], &[("", &b)]);
    mesh.service("c", "shop", &[("tls", 9443)], &[("", &c)]);
    mesh.virtual_service(
        "a",
        "hosts: [a.shop.svc.cluster.local, \"*.example\"]\ntls:\n\
         - match: [{sniHosts: [b.example], sourceLabels: {app: client}}]\n  route: [{destination: {host: b}}]\n\
         - match: [{sniHosts: [no.example], sourceNamespace: elsewhere}]\n  route: [{destination: {host: b}}]\n\
         - match: [{sniHosts: [net.example], destinationSubnets: [10.0.0.0/8]}]\n  route: [{destination: {host: b}}]\n\
         - match: [{sniHosts: [port.example], port: 9443}]\n  route: [{destination: {host: b}, weight: 0}, {destination: {host: c}, weight: 100}]\n\
         - match: [{sniHosts: [\"*.example\"]}]\n  route: [{destination: {host: c}}]",
    );
    let world = mesh.start().await;
    for (name, server) in [
        ("b.example", "b"),
        ("no.example", "c"),
        ("port.example", "c"),
        ("any.example", "c"),
        ("a.shop.svc.cluster.local", "a"),
    ] {
        assert_eq!(reached(world.tcp_entry("a", 9443), &hello(name)).await, server, "{name}");
    }
}

/// One TCP service under a traffic policy.
async fn under(policy: &str, servers: &[&Server]) -> World {
    let mut mesh = Mesh::new();
    let pods: Vec<(&str, &Server)> = servers.iter().map(|s| ("", *s)).collect();
    mesh.service("db", "shop", &[("tcp", 9000)], &pods);
    mesh.destination_rule("db", &format!("host: db\ntrafficPolicy: {policy}"));
    mesh.start().await
}

#[tokio::test]
async fn connections_end() {
    let db = Server::tcp("db").await;
    for policy in
        ["{connectionPool: {tcp: {idleTimeout: 0.3s}}}", "{connectionPool: {tcp: {maxConnectionDuration: 0.3s}}}"]
    {
        let world = under(policy, &[&db]).await;
        let mut stream = TcpStream::connect(world.tcp_entry("db", 9000)).await.expect("the listener is open");
        let mut all = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut all)).await;
        assert!(ended.is_ok(), "{policy}: it is closed");
        assert_eq!(all, b"db\n");
    }
}

#[tokio::test]
async fn tcp_connections_have_a_limit() {
    let db = Server::tcp("db").await;
    let world = under("{connectionPool: {tcp: {maxConnections: 1}}}", &[&db]).await;
    let mut first = BufReader::new(TcpStream::connect(world.tcp_entry("db", 9000)).await.expect("open"));
    let mut name = String::new();
    first.read_line(&mut name).await.expect("a name");
    assert_eq!(reached(world.tcp_entry("db", 9000), b"").await, "", "the second is closed");
    drop(first);
}

#[tokio::test]
async fn one_client_stays_with_one_server() {
    let (a, b, c) = (Server::tcp("a").await, Server::tcp("b").await, Server::tcp("c").await);
    let world = under("{loadBalancer: {consistentHash: {useSourceIp: true}}}", &[&a, &b, &c]).await;
    let first = reached(world.tcp_entry("db", 9000), b"").await;
    for _ in 0..20 {
        assert_eq!(reached(world.tcp_entry("db", 9000), b"").await, first);
    }
}

/// A server that keeps what it reads first, and answers as HTTP.
async fn recorder() -> (Server, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = listen().await;
    let server = Server::state("recorder", listener.local_addr().unwrap(), |_| crate::server::Act::Echo);
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(n) = stream.read(&mut chunk).await {
                    all.extend_from_slice(&chunk[..n]);
                    if n == 0 || all.ends_with(b"\r\n\r\n") || all.ends_with(b"end") {
                        break;
                    }
                }
                let _ = sender.send(all);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
    });
    (server, receiver)
}

#[tokio::test]
async fn servers_are_told_who_connects() {
    for (version, begins) in
        [("V1", &b"PROXY TCP4 127.0.0.1 127."[..]), ("V2", &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f"[..])]
    {
        let (server, mut seen) = recorder().await;
        let world = under(&format!("{{proxyProtocol: {{version: {version}}}}}"), &[&server]).await;
        let mut stream = TcpStream::connect(world.tcp_entry("db", 9000)).await.expect("open");
        stream.write_all(b"the end").await.expect("open");
        let all = seen.recv().await.expect("a connection");
        assert!(all.starts_with(begins) && all.ends_with(b"the end"), "{version}: {all:?}");

        let (server, mut seen) = recorder().await;
        let mut mesh = Mesh::new();
        mesh.http("web", &[("", &server)]);
        mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {{proxyProtocol: {{version: {version}}}}}"));
        let world = mesh.start().await;
        assert_eq!(world.send(crate::world::get("web", "/x")).await.status, 200);
        let all = seen.recv().await.expect("a request");
        assert!(
            all.starts_with(begins) && String::from_utf8_lossy(&all).contains("GET /x HTTP/1.1"),
            "{version}: {all:?}"
        );
    }
}

/// A name, then what came.
struct Greeted {
    name: Option<Bytes>,
    body: Incoming,
}

impl Body for Greeted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.name.take() {
            Some(name) => Poll::Ready(Some(Ok(Frame::data(name)))),
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }
}

/// A forward proxy that takes tunnels by POST: it reports the heads, greets, and then echoes.
async fn posts() -> (Server, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = listen().await;
    let server = Server::state("proxy", listener.local_addr().unwrap(), |_| crate::server::Act::Echo);
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let answer = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                let host = request.headers()["host"].to_str().unwrap_or_default().to_owned();
                let _ = sender.send(format!("{} {} {host}", request.method(), request.uri()));
                let greeted = Greeted { name: Some("proxy\n".into()), body: request.into_body() };
                std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(greeted)))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(io, answer));
        }
    });
    (server, heads)
}

#[tokio::test]
async fn tunnels_by_post() {
    let (server, mut heads) = posts().await;
    let world = under("{tunnel: {protocol: POST, targetHost: far.example, targetPort: 443}}", &[&server]).await;
    let at = world.tcp_entry("db", 9000);
    assert_eq!(reached(at, b"").await, "proxy");
    assert_eq!(heads.recv().await.as_deref(), Some("POST / far.example:443"));
    // More than any buffer holds goes both ways, and the end goes through.
    let mut stream = TcpStream::connect(at).await.expect("the listener is open");
    let bytes = vec![b'x'; 300_000];
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; "proxy\n".len() + bytes.len()];
    let (sent, got) = tokio::join!(write.write_all(&bytes), read.read_exact(&mut back));
    assert!(sent.is_ok() && got.is_ok() && back.ends_with(&bytes), "{sent:?} {got:?}");
    write.shutdown().await.expect("it is open");
    assert_eq!(read.read_to_end(&mut back).await.expect("an orderly end"), 0);
}

#[tokio::test]
async fn tunnels() {
    // A forward proxy: it takes one CONNECT, answers, and then echoes what comes through.
    let listener = listen().await;
    let server = Server::state("proxy", listener.local_addr().unwrap(), |_| crate::server::Act::Echo);
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nproxy\n").await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let world = under("{tunnel: {protocol: CONNECT, targetHost: far.example, targetPort: 443}}", &[&server]).await;
    assert_eq!(reached(world.tcp_entry("db", 9000), b"").await, "proxy");
    let head = heads.recv().await.expect("a CONNECT");
    assert!(head.starts_with("CONNECT far.example:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("host: far.example:443\r\n"), "{head}");
}
