//! Connection pools and circuit breakers.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::destination::join_all;
use crate::server::{Act, Seen, Server, until};
use crate::world::{Answer, Mesh, World, get};

async fn web(policy: &str, act: Act) -> (World, Server) {
    let server = Server::with("web", move |_| act).await;
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &server)]);
    mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {policy}"));
    (mesh.start().await, server)
}

async fn at_once(world: &World, n: usize) -> Vec<Answer> {
    join_all((0..n).map(|_| world.send_apart(get("web", "/"))).collect()).await
}

fn overflows(answers: &[Answer]) -> usize {
    answers.iter().filter(|a| a.status == 503 && a.body.contains("overflow")).count()
}

const SLOW: Act = Act::Late(Duration::from_millis(700));

#[tokio::test]
async fn requests_have_a_limit() {
    let (world, server) = web("{connectionPool: {http: {http2MaxRequests: 3}}}", SLOW).await;
    let answers = at_once(&world, 8).await;
    assert_eq!((server.count(), overflows(&answers)), (3, 5), "{answers:?}");
}

#[tokio::test]
async fn a_request_that_waits_is_not_in_flight() {
    let policy =
        "{connectionPool: {tcp: {maxConnections: 1}, http: {http2MaxRequests: 1, http1MaxPendingRequests: 9}}}";
    let (world, server) = web(policy, Act::Late(Duration::from_millis(100))).await;
    let answers = at_once(&world, 4).await;
    assert_eq!((server.count(), overflows(&answers), server.connections()), (4, 0, 1), "{answers:?}");
}

#[tokio::test]
async fn connections_and_waiting_requests_have_a_limit() {
    let (world, server) =
        web("{connectionPool: {tcp: {maxConnections: 2}, http: {http1MaxPendingRequests: 1}}}", SLOW).await;
    // One after the other, for a request counts as waiting while its connection is being made.
    let busy = async |n: usize| until("a request is there", || server.0.arrived.load(SeqCst) == n).await;
    let one = async { world.send_apart(get("web", "/")).await };
    let two = async {
        busy(1).await;
        world.send_apart(get("web", "/")).await
    };
    let more = async {
        busy(2).await;
        at_once(&world, 2).await
    };
    let (one, two, more) = tokio::join!(one, two, more);
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200));
    assert_eq!(overflows(&more), 1, "one waits, the other may not: {more:?}");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn connections_have_a_number_of_requests_and_a_life() {
    let (world, server) = web("{connectionPool: {http: {maxRequestsPerConnection: 2}}}", Act::Echo).await;
    world.tally(6, || get("web", "/")).await;
    assert_eq!(server.connections(), 3);
    let (world, server) = web("{connectionPool: {http: {idleTimeout: 0.3s}}}", Act::Echo).await;
    world.tally(3, || get("web", "/")).await;
    until("the idle connection is closed", || server.0.open.load(SeqCst) == 0).await;
    assert_eq!(server.connections(), 1);
    let (world, server) = web("{connectionPool: {tcp: {maxConnectionDuration: 0.3s}}}", Act::Echo).await;
    world.tally(3, || get("web", "/")).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.tally(1, || get("web", "/")).await;
    assert_eq!(server.connections(), 2, "the first was too old");
}

#[tokio::test]
async fn connecting_has_a_limit_of_time() {
    // A full backlog: the kernel answers no more SYNs.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.77.99.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        filling.push(stream);
        assert!(filling.len() < 100, "the backlog fills up");
    }
    let silent = Server::state("silent", address, |_| Act::Echo);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &silent)]);
    mesh.destination_rule("web", "host: web\ntrafficPolicy: {connectionPool: {tcp: {connectTimeout: 0.2s, tcpKeepalive: {probes: 3, time: 60s, interval: 10s}}}}");
    mesh.virtual_service("web", "hosts: [web]\nhttp: [{retries: {attempts: 0}, route: [{destination: {host: web}}]}]");
    let world = mesh.start().await;
    let answer = world.send(get("web", "/")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("connection timeout"), "{}", answer.body);
    drop(listener);
}

#[tokio::test]
async fn http2_to_servers() {
    let (world, server) = web("{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}", Act::Echo).await;
    world.tally(3, || get("web", "/")).await;
    assert!(server.last().http2);
    let (world, server) = web("{connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}", Act::Echo).await;
    world.tally(3, || get("web", "/")).await;
    assert!(!server.last().http2);
    let (world, server) = web("{connectionPool: {http: {useClientProtocol: true}}}", Act::Echo).await;
    world.tally(3, || get("web", "/")).await;
    assert!(!server.last().http2, "the client speaks HTTP/1");
    let (world, server) =
        web("{connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 2, http2KeepAlive: {interval: 30s, timeout: 5s}}}}", SLOW).await;
    let answers = at_once(&world, 6).await;
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    assert_eq!(server.connections(), 3, "two streams on each");
}

#[tokio::test]
async fn retries_have_a_limit() {
    for (policy, all_retried) in [
        ("{connectionPool: {http: {maxRetries: 1}}}", false),
        ("{retryBudget: {percent: 0, minRetryConcurrency: 1}}", false),
        ("{retryBudget: {percent: 100, minRetryConcurrency: 1}}", true),
        ("{retryBudget: {}}", true),
        ("{retryBudget: {percent: 30, minRetryConcurrency: 1}}", false),
        // Four requests have ended before: those of the interval count as well.
        ("{retryBudget: {percent: 30, minRetryConcurrency: 1, budgetInterval: 600s}}", true),
    ] {
        let slow_unless_first = |seen: &Seen| {
            let first = seen.headers["x-envoy-attempt-count"] == "1";
            if seen.path == "/" && first { Act::Status(503) } else { SLOW }
        };
        let server = Server::echo("web").await;
        let mut mesh = Mesh::new();
        mesh.http("web", &[("", &server)]);
        mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {policy}"));
        mesh.virtual_service(
            "web",
            "hosts: [web]\nhttp: [{retries: {attempts: 1, retryOn: 5xx}, route: [{destination: {host: web}}]}]",
        );
        let world = mesh.start().await;
        for _ in 0..4 {
            assert_eq!(world.send_apart(get("web", "/before")).await.status, 200);
        }
        server.change(slow_unless_first);
        server.0.arrived.store(0, SeqCst);
        // Six others are on their way, of which a budget is a share.
        let others = async { join_all((0..6).map(|_| world.send_apart(get("web", "/other"))).collect()).await };
        let failing = async {
            until("the others are there", || server.0.arrived.load(SeqCst) == 6).await;
            at_once(&world, 3).await
        };
        let (_, answers) = tokio::join!(others, failing);
        let served = answers.iter().filter(|a| a.status == 200).count();
        assert_eq!(served == 3, all_retried, "{policy}: {answers:?}");
    }
}
