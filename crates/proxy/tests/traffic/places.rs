//! Listeners at places that a Sidecar names: addresses, Unix sockets, and proxies for HTTP.

use std::net::SocketAddr;

use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::callers::{name, place};
use crate::server::{Server, until};
use crate::stream::reached;
use crate::world::{Answer, Mesh, World, get, send_on};

/// A web server on port 80, another on a port of its own, and a server of bytes; the client's egress is one listener.
struct Three {
    web: Server,
    api: Server,
    db: Server,
    /// The port of the services `api` and `db`.
    port: u16,
}

impl Three {
    async fn new() -> Self {
        let (web, api, db) = (Server::echo("web").await, Server::echo("api").await, Server::tcp("db").await);
        Self { web, api, db, port: place().port() }
    }

    fn mesh(&self, egress: &str) -> Mesh {
        let mut mesh = Mesh::new();
        mesh.http("web", &[("", &self.web)]);
        mesh.service("api", "shop", &[("http", self.port)], &[("", &self.api)]);
        mesh.service("db", "shop", &[("tcp", self.port)], &[("", &self.db)]);
        mesh.rule(&format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: shop}}\n\
             spec: {{egress: [{{{egress}}}]}}\n"
        ));
        mesh
    }

    async fn start(&self, egress: &str) -> World {
        self.mesh(egress).start().await
    }
}

fn status_and_server(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.server())
}

#[tokio::test]
async fn addresses_of_their_own() {
    let three = Three::new().await;
    let port = three.port;
    let of = |host: &str| format!("hosts: [\"./{host}.shop.svc.cluster.local\", \"./web.shop.svc.cluster.local\"]");
    for mode in ["captureMode: NONE, ", ""] {
        let at = SocketAddr::new(place().ip(), port);
        let egress =
            format!("port: {{number: {port}, protocol: HTTP, name: a}}, bind: {}, {mode}{}", at.ip(), of("api"));
        let world = three.start(&egress).await;
        assert_eq!(status_and_server(&world.send_to(&name(at), get("api", "/")).await), (200, "api"), "{mode}");
        // Who is not on that port is unknown there; the client dialled nobody but the listener.
        assert_eq!(status_and_server(&world.send_to(&name(at), get("web", "/")).await), (503, ""), "{mode}");
        assert_eq!(world.entry(&name(at)) == at, !mode.is_empty(), "a port of its own, or none");
    }
    let at = SocketAddr::new(place().ip(), port);
    let bind = format!("bind: {}, captureMode: NONE", at.ip());
    let world = three.start(&format!("port: {{number: {port}, protocol: TCP, name: a}}, {bind}, {}", of("db"))).await;
    assert_eq!(reached(world.entry(&name(at)), b"").await, "db");
    // Without a port of its own it is there for all ports of its services.
    for (host, is_http) in [("api", true), ("db", false)] {
        let at = SocketAddr::new(place().ip(), port);
        let hosts = format!("hosts: [\"./{host}.shop.svc.cluster.local\"]");
        let world = three.start(&format!("bind: {}, captureMode: NONE, {hosts}", at.ip())).await;
        if is_http {
            assert_eq!(status_and_server(&world.send_to(&name(at), get("api", "/")).await), (200, "api"));
        } else {
            assert_eq!(reached(world.entry(&name(at)), b"").await, "db");
        }
    }
}

async fn dial(path: &str) -> UnixStream {
    UnixStream::connect(path.replacen('@', "\0", 1)).await.unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[tokio::test]
async fn unix_sockets_for_http() {
    let three = Three::new().await;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("egress").display().to_string();
    let name = format!("@{}", path.trim_start_matches('/').replace('/', "-"));
    for path in [path, name] {
        // What a dead listener left is in nobody's way.
        if path.starts_with('/') {
            drop(std::os::unix::net::UnixListener::bind(&path).expect("it can be bound"));
        }
        let world = three
            .start(&format!("port: {{number: 0, protocol: HTTP, name: a}}, bind: \"unix://{path}\", hosts: [\"./*\"]"))
            .await;
        let (api, full) = (format!("api:{}", three.port), format!("api.shop:{}", three.port));
        let ask = async |host: &str| send_on(dial(&path).await, get(host, "/x")).await;
        for (host, answer) in [
            ("web", (200, "web")),
            ("web:80", (200, "web")),
            ("web.shop.svc.cluster.local", (200, "web")),
            (&api, (200, "api")),
            (&full, (200, "api")),
            // HTTP's own port is not this service's.
            ("api", (503, "")),
            ("unknown.example", (503, "")),
        ] {
            assert_eq!(status_and_server(&ask(host).await), answer, "{path}: {host}");
        }
        if world.is_envoy() || path.starts_with('@') {
            continue;
        }
        assert!(std::fs::exists(&path).is_ok_and(|there| there));
        drop(world);
        until("the socket is taken away", || std::fs::exists(&path).is_ok_and(|there| !there)).await;
    }
}

#[tokio::test]
async fn unix_sockets_for_bytes() {
    let three = Three::new().await;
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("egress").display().to_string();
    let _world = three
        .start(&format!(
            "port: {{number: 0, protocol: TCP, name: a}}, bind: \"unix://{path}\", captureMode: NONE, \
             hosts: [\"./db.shop.svc.cluster.local\"]"
        ))
        .await;
    let mut stream = dial(&path).await;
    let sent = vec![b'x'; 300_000];
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; "db\n".len() + sent.len()];
    let (to, from) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    assert!(to.is_ok() && from.is_ok() && back.starts_with(b"db\n") && back.ends_with(&sent));
    // An end goes through.
    write.shutdown().await.expect("it is open");
    assert_eq!(read.read_to_end(&mut back).await.expect("an orderly end"), 0);

    // Without a protocol the first bytes say what it is.
    let path = folder.path().join("any").display().to_string();
    let _world = three
        .start(&format!("port: {{number: 0, protocol: \"\", name: a}}, bind: \"unix://{path}\", hosts: [\"./*\"]"))
        .await;
    assert_eq!(
        status_and_server(&send_on(dial(&path).await, get(&format!("api:{}", three.port), "/")).await),
        (200, "api")
    );
    let mut stream = dial(&path).await;
    stream.write_all(b"\x01\x02\x03\x04").await.expect("it is open");
    let mut back = [0; 7];
    stream.read_exact(&mut back).await.expect("bytes");
    assert_eq!(&back, b"db\n\x01\x02\x03\x04");
}

#[tokio::test]
async fn proxies_for_http() {
    let three = Three::new().await;
    let at = place();
    let world = three
        .start(&format!(
            "port: {{number: {}, protocol: HTTP_PROXY, name: a}}, bind: {}, captureMode: NONE, hosts: [\"./*\"]",
            at.port(),
            at.ip()
        ))
        .await;
    let listener = name(at);
    let other = format!("http://api:{}/x?y", three.port);
    for (url, answer) in [
        ("http://web/x?y", (200, "web")),
        (&other, (200, "api")),
        ("http://api/x?y", (503, "")),
        ("http://unknown.example/", (503, "")),
    ] {
        let host = url.split('/').nth(2).expect("a host");
        let got = world.send_to(&listener, Request::get(url).header("host", host)).await;
        assert_eq!(status_and_server(&got), answer, "{url}");
        if answer.0 == 200 {
            assert_eq!(got.echo()["path"], "/x?y", "{url}");
        }
    }
    // It makes no tunnels (Istio's neither).
    let tunnel = world.send_to(&listener, Request::connect("web:80").header("host", "web:80")).await;
    assert_ne!(tunnel.status, 200);
    assert_eq!((three.web.count(), three.api.count()), (1, 1));
}
