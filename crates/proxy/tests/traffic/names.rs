//! DYNAMIC_DNS: callers bring the names of hosts. `*.localhost` is this machine for every resolver (RFC 6761), and
//! `*.invalid` is nowhere.

use std::sync::atomic::Ordering::SeqCst;

use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::server::{Act, Server, http};
use crate::stream::{hello, reached};
use crate::world::{Mesh, get};

/// A server where `*.localhost` leads to.
async fn local(name: &'static str, bytes: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let server = Server::state(name, listener.local_addr().expect("it is bound"), |_| Act::Echo);
    let state = server.0.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            state.connections.fetch_add(1, SeqCst);
            if bytes {
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
                continue;
            }
            let state = state.clone();
            tokio::spawn(async move { http(state, TokioIo::new(stream), false).await });
        }
    });
    server
}

fn entry(mesh: &mut Mesh, hosts: &str, port: u16, protocol: &str) {
    mesh.rule(&format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: names, namespace: shop}}\n\
         spec: {{hosts: [{hosts}], ports: [{{number: {port}, name: port, protocol: {protocol}}}], resolution: DYNAMIC_DNS}}"
    ));
}

#[tokio::test]
async fn hosts_of_requests() {
    let (one, two) = (local("one", false).await, local("two", false).await);
    let (to_one, to_two) = (one.0.address.port(), two.0.address.port());
    let mut mesh = Mesh::new();
    entry(&mut mesh, "\"*.localhost\", \"*.invalid\"", 80, "HTTP");
    let world = mesh.start().await;
    // The host says where the request goes, its port included.
    let answer = world.send(get(&format!("a.localhost:{to_one}"), "/x?y")).await;
    assert_eq!((answer.server(), answer.seen("host")), ("one", format!("a.localhost:{to_one}")));
    assert_eq!(world.send(get(&format!("b.localhost:{to_two}"), "/")).await.server(), "two");
    // Each name has connections of its own, and uses them again.
    for _ in 0..3 {
        assert_eq!(world.send(get(&format!("c.localhost:{to_two}"), "/")).await.server(), "two");
    }
    assert_eq!((one.count(), one.connections(), two.connections()), (1, 1, 2));
    assert_eq!(world.send(get(&format!("A.LOCALHOST:{to_one}"), "/")).await.server(), "one");
    let nowhere = world.send(get("a.invalid", "/")).await;
    assert_eq!((nowhere.status.as_u16(), nowhere.body.as_str()), (503, "DNS resolution failure"));
}

#[tokio::test]
async fn server_names_of_tls() {
    let server = local("server", true).await;
    let port = server.0.address.port();
    let mut mesh = Mesh::new();
    entry(&mut mesh, "\"*.localhost\"", port, "TLS");
    let world = mesh.start().await;
    let at = world.entry(&format!("0.0.0.0_{port}"));
    for name in ["a.localhost", "b.c.localhost"] {
        assert_eq!(reached(at, &hello(name)).await, "server", "{name}");
    }
    assert_eq!(server.connections(), 2);
}

/// A mesh that asks DNS for hosts that it does not know, and has one service of its own.
fn asking(web: &Server) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", web)]);
    mesh.rule(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
         data: {mesh: \"{enableAutoMtls: false, outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}\"}\n",
    );
    mesh
}

#[tokio::test]
async fn hosts_that_nobody_knows() {
    let (web, outside) = (Server::echo("web").await, local("outside", false).await);
    let port = outside.0.address.port();
    let mesh = asking(&web);
    let world = mesh.start().await;
    assert_eq!(world.send(get("web", "/")).await.server(), "web", "what is known goes where it always did");
    for host in [format!("a.localhost:{port}"), format!("B.LOCALHOST:{port}"), format!("127.0.0.1:{port}")] {
        let answer = world.send(get(&host, "/x?y")).await;
        assert_eq!((answer.server(), answer.seen("host")), ("outside", host));
    }
    let nowhere = world.send(get("a.invalid", "/")).await;
    assert_eq!((nowhere.status.as_u16(), nowhere.body.as_str()), (503, "DNS resolution failure"));
    // Entries of names that callers bring have their clusters still.
    let mut mesh = asking(&web);
    entry(&mut mesh, "\"*.localhost\"", 80, "HTTP");
    let world = mesh.start().await;
    for host in [format!("a.localhost:{port}"), format!("127.0.0.1:{port}")] {
        assert_eq!(world.send(get(&host, "/")).await.server(), "outside", "{host}");
    }
    // Who has a Sidecar with a word of its own on the unknown does what that says.
    let mut mesh = asking(&web);
    mesh.rule(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: own, namespace: shop}\n\
         spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    );
    let world = mesh.start().await;
    assert_eq!(world.send(get(&format!("a.localhost:{port}"), "/")).await.status, 502);
}

#[tokio::test]
async fn hosts_that_nobody_knows_on_ports_that_nobody_knows() {
    let (web, outside) = (Server::echo("web").await, local("outside", false).await);
    let mut mesh = asking(&web);
    mesh.catch_all();
    let world = mesh.start().await;
    let host = format!("a.localhost:{}", outside.0.address.port());
    assert_eq!(world.send_to("virtualOutbound", get(&host, "/")).await.server(), "outside");
    let nowhere = world.send_to("virtualOutbound", get("a.invalid", "/")).await;
    assert_eq!((nowhere.status.as_u16(), nowhere.body.as_str()), (503, "DNS resolution failure"));
}

#[test]
fn what_cannot_be_said_of_such_hosts_is_refused() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: names, namespace: shop}\n\
                spec: {hosts: [\"*.example.com\"], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DYNAMIC_DNS}\n\
                ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: names, namespace: shop}\n\
                spec: {host: \"*.example.com\", trafficPolicy: {tls: {mode: SIMPLE}}}\n";
    let refused = pilot::unsupported(&crate::world::snapshot(yaml));
    let [only] = refused.as_slice() else { panic!("{refused:?}") };
    assert_eq!(only.pointer, "/spec/trafficPolicy/tls/mode");
    assert!(only.reason.contains("DYNAMIC_DNS"), "{}", only.reason);
}
