//! What a Sidecar says of connections to the application itself.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::destination::join_all;
use crate::server::{Act, Server, until};
use crate::world::{Answer, Mesh, World, get};

const SLOW: Act = Act::Late(Duration::from_millis(700));

/// The client's own workload behind its Sidecar: one listener on port 80 of a protocol, and what else the Sidecar says.
async fn before(server: &Server, protocol: &str, of_listener: &str, of_all: &str) -> World {
    before_at(&server.0.address.to_string(), protocol, of_listener, of_all).await
}

async fn before_at(at: &str, protocol: &str, of_listener: &str, of_all: &str) -> World {
    let mut mesh = Mesh::new();
    mesh.client_locality("region");
    mesh.rule(&format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: shop}}\n\
         spec:\n  {of_all}\n  ingress:\n  - port: {{number: 80, protocol: {protocol}, name: web}}\n    defaultEndpoint: \"{at}\"\n    {of_listener}\n"
    ));
    mesh.start().await
}

async fn all_at_once(world: &World, n: usize) -> Vec<Answer> {
    join_all((0..n).map(|_| world.send_to("inbound_80", get("web", "/"))).collect()).await
}

async fn web(act: Act) -> Server {
    Server::with("web", move |_| act).await
}

#[tokio::test]
async fn connections_to_the_application_have_limits() {
    let server = web(SLOW).await;
    let world = before(&server, "HTTP", "", "inboundConnectionPool: {http: {http2MaxRequests: 3}}").await;
    let answers = all_at_once(&world, 8).await;
    let refused = answers.iter().filter(|a| a.status == 503).count();
    assert_eq!((server.count(), refused), (3, 5), "{answers:?}");

    let server = web(Act::Echo).await;
    let world = before(&server, "HTTP", "", "inboundConnectionPool: {http: {maxRequestsPerConnection: 2}}").await;
    for _ in 0..6 {
        assert_eq!(world.send_to("inbound_80", get("web", "/")).await.status, 200);
    }
    assert_eq!(server.connections(), 3);

    for idle in ["{http: {idleTimeout: 0.3s}, tcp: {idleTimeout: 1h}}", "{tcp: {idleTimeout: 0.3s}}"] {
        let server = web(Act::Echo).await;
        let world = before(&server, "HTTP", "", &format!("inboundConnectionPool: {idle}")).await;
        assert_eq!(world.send_to("inbound_80", get("web", "/")).await.status, 200);
        until("the idle connection is closed", || server.0.open.load(SeqCst) == 0).await;
        assert_eq!(server.connections(), 1);
    }

    let server = web(Act::Echo).await;
    let world = before(&server, "HTTP", "", "inboundConnectionPool: {tcp: {maxConnectionDuration: 0.3s}}").await;
    all_at_once(&world, 1).await;
    until("the first is too old", || server.0.open.load(SeqCst) == 0).await;
    all_at_once(&world, 1).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_listener_has_a_pool_of_its_own() {
    let server = web(SLOW).await;
    let (own, general) =
        ("connectionPool: {http: {http2MaxRequests: 2}}", "inboundConnectionPool: {http: {http2MaxRequests: 1}}");
    let world = before(&server, "HTTP", own, general).await;
    let answers = all_at_once(&world, 4).await;
    assert_eq!(answers.iter().filter(|a| a.status == 503).count(), 2, "{answers:?}");

    for limit in ["{tcp: {idleTimeout: 0.3s}}", "{tcp: {maxConnectionDuration: 0.3s}}"] {
        let server = Server::tcp("db").await;
        let world = before(&server, "TCP", &format!("connectionPool: {limit}"), "").await;
        let mut stream = BufReader::new(TcpStream::connect(world.entry("inbound_80")).await.expect("it is open"));
        let mut name = String::new();
        stream.read_line(&mut name).await.expect("the server speaks first");
        assert_eq!(name, "db\n");
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "{limit}: it ends");
    }
}

/// Whether the server was spoken to in HTTP/2, for clients of both.
async fn spoken(world: &World, server: &Server) -> [bool; 2] {
    assert_eq!(world.send_to("inbound_80", get("web", "/")).await.status, 200);
    let first = server.last().http2;
    let stream = TcpStream::connect(world.entry("inbound_80")).await.expect("it is open");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::get("http://web/").body(Full::new(Bytes::new())).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.expect("a body");
    [first, server.last().http2]
}

#[tokio::test]
async fn the_application_is_spoken_to_as_the_port_or_the_client_says() {
    for (protocol, pool, expected) in [
        ("HTTP", "", [false, false]),
        ("HTTP2", "", [true, true]),
        ("HTTP", "connectionPool: {http: {useClientProtocol: true}}", [false, true]),
        ("HTTP2", "connectionPool: {http: {useClientProtocol: true}}", [false, true]),
    ] {
        let server = web(Act::Echo).await;
        let world = before(&server, protocol, pool, "").await;
        assert_eq!(spoken(&world, &server).await, expected, "{protocol} {pool}");
    }
    let server = web(SLOW).await;
    let world = before(&server, "HTTP2", "connectionPool: {http: {maxConcurrentStreams: 2}}", "").await;
    let answers = all_at_once(&world, 6).await;
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    assert_eq!(server.connections(), 3, "two streams on each");
}

/// A path and an abstract name that no other test has.
fn sockets(folder: &std::path::Path) -> [String; 2] {
    let path = folder.join("app").display().to_string();
    let name = format!("@{}", path.trim_start_matches('/').replace('/', "-"));
    [path, name]
}

#[tokio::test]
async fn the_application_may_listen_on_a_unix_socket() {
    let folder = tempfile::tempdir().expect("a directory");
    for path in sockets(folder.path()) {
        let world = before_at(&format!("unix://{path}"), "HTTP", "", "").await;
        assert_eq!(world.send_to("inbound_80", get("web", "/")).await.status, 503, "{path}: nobody listens");
        let server = Server::on_socket("piped", &path).await;
        let answer = world.send_to("inbound_80", get("web", "/")).await;
        assert_eq!((answer.status.as_u16(), answer.server()), (200, "piped"), "{path}");
        assert_eq!(server.connections(), 1);
    }
    // Bytes go both ways as well, and the ends of both directions.
    let path = folder.path().join("bytes");
    let listener = tokio::net::UnixListener::bind(&path).expect("it can be bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    let world = before_at(&format!("unix://{}", path.display()), "TCP", "", "").await;
    let mut stream = TcpStream::connect(world.entry("inbound_80")).await.expect("it is open");
    stream.write_all(&[7; 100_000]).await.expect("it is read");
    stream.shutdown().await.expect("half of it ends");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.expect("it ends");
    assert_eq!(back, [7; 100_000]);
}

#[tokio::test]
async fn unix_sockets_are_endpoints() {
    let folder = tempfile::tempdir().expect("a directory");
    let [path, name] = sockets(folder.path());
    let (first, second) = (Server::on_socket("path", &path).await, Server::on_socket("name", &name).await);
    let mut mesh = Mesh::new();
    mesh.rule(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out, namespace: shop}}\n\
         spec:\n  hosts: [out.example]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: \"unix://{path}\"}}, {{address: \"unix://{name}\"}}]"
    ));
    mesh.destination_rule("out", "host: out.example\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}");
    let world = mesh.start().await;
    let tally = world.tally(10, || get("out.example", "/")).await;
    assert_eq!((tally.get("path"), tally.get("name")), (Some(&5), Some(&5)), "{tally:?}");
    assert!(first.connections() > 0 && second.connections() > 0);
}
