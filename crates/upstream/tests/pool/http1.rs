use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use upstream::{Cause, Thresholds, Version};

use crate::server::{self, until};
use crate::{Client, worker};

const ONE_CONNECTION: Thresholds =
    Thresholds { connections: 1, pending: 1, requests: 1024, retries: 3, retry_budget: None };

#[tokio::test]
async fn a_connection_serves_again() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |_| ());
        for _ in 0..5 {
            client.get("/").await.expect("an answer");
        }
        assert_eq!(server.connections.get(), 1);
        assert_eq!(client.host.stats.cx_active.load(Relaxed), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_the_peer_closes_is_not_used_again() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |_| ());
        for _ in 0..3 {
            client.get("/last").await.expect("an answer");
        }
        assert_eq!(server.connections.get(), 3);
        until(|| client.cluster.stats.cx_active.load(Relaxed) == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_ends_after_its_number_of_requests() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |c| c.max_requests_per_connection = 2);
        for _ in 0..4 {
            client.get("/").await.expect("an answer");
        }
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn at_the_limit_of_connections_one_request_waits_and_the_next_overflows() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |c| c.thresholds = ONE_CONNECTION);
        let get = || {
            let client = client.clone();
            tokio::task::spawn_local(async move { client.get("/gated").await })
        };
        let first = get();
        until(|| server.requests.get() == 1).await;
        let second = get();
        until(|| client.cluster.stats.rq_pending_active.load(Relaxed) == 1).await;
        let third = client.get("/gated").await.expect_err("no place to wait");
        assert_eq!(third.cause, Cause::Overflow);
        assert!(third.request.is_some(), "it was not sent");
        server.gate.add_permits(2);
        assert!(first.await.expect("it ran").is_ok());
        assert!(second.await.expect("it ran").is_ok(), "it got the connection of the first");
        assert_eq!(server.connections.get(), 1);
        assert_eq!(client.cluster.stats.rq_pending_active.load(Relaxed), 0);
    })
    .await;
}

#[tokio::test]
async fn who_waits_goes_on_when_the_busy_connection_is_given_up() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |c| c.thresholds = ONE_CONNECTION);
        let (one, two) = (client.clone(), client.clone());
        let first = tokio::task::spawn_local(async move { one.get("/gated").await });
        until(|| server.requests.get() == 1).await;
        let second = tokio::task::spawn_local(async move { two.get("/").await });
        until(|| client.cluster.stats.rq_pending_active.load(Relaxed) == 1).await;
        first.abort();
        assert!(second.await.expect("it ran").is_ok());
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_refused_connection_gives_the_request_back() {
    worker(async {
        let (listener, server) = server::listen().await;
        drop(listener);
        let client = Client::new(server.address, Version::Http1, |_| ());
        let failed = client.get("/").await.expect_err("nobody listens");
        assert!(matches!(failed.cause, Cause::Connect(_)), "{:?}", failed.cause);
        assert!(failed.request.is_some());
        assert_eq!(client.cluster.stats.cx_connect_fail.load(Relaxed), 1);
        assert_eq!(client.cluster.stats.cx_active.load(Relaxed), 0);
    })
    .await;
}

/// Reads a request's head; says whether one came.
async fn read_head(stream: &mut tokio::net::TcpStream) -> bool {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
            _ => return false,
        }
    }
    true
}

#[tokio::test]
async fn a_kept_connection_that_breaks_under_a_request_says_so() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("the peer reads");
            read_head(&mut stream).await;
        });
        let client = Client::new(address, Version::Http1, |_| ());
        client.get("/").await.expect("an answer");
        let failed = client.get("/").await.expect_err("the second gets none");
        assert!(matches!(failed.cause, Cause::Reset(_)), "{:?}", failed.cause);
        assert!(failed.reused, "an idempotent request may go out again");
        assert!(failed.request.is_none(), "the peer may have seen it");
    })
    .await;
}

#[tokio::test]
async fn what_is_no_http_is_a_protocol_error() {
    worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            read_head(&mut stream).await;
            stream.write_all(b"no such thing\r\n\r\n").await.expect("the peer reads");
        });
        let failed = Client::new(address, Version::Http1, |_| ()).get("/").await.expect_err("no answer");
        assert!(matches!(failed.cause, Cause::Protocol(_)), "{:?}", failed.cause);
    })
    .await;
}

#[tokio::test]
async fn connections_of_a_removed_host_or_a_replaced_cluster_are_closed() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |_| ());
        client.get("/").await.expect("an answer");
        let stats = client.cluster.stats.clone();
        assert_eq!(stats.cx_active.load(Relaxed), 1);
        tokio::task::spawn_local(client.pools.clone().sweep(client.registry.changes()));
        client.registry.apply(client.cluster.config.clone());
        until(|| stats.cx_active.load(Relaxed) == 0).await;
    })
    .await;
}

#[tokio::test]
async fn unused_connections_are_closed_after_the_idle_timeout() {
    worker(async {
        let server = server::http1().await;
        let client = Client::new(server.address, Version::Http1, |c| c.idle_timeout = Some(Duration::from_millis(100)));
        tokio::task::spawn_local(client.pools.clone().sweep(client.registry.changes()));
        client.get("/").await.expect("an answer");
        until(|| client.cluster.stats.cx_active.load(Relaxed) == 0).await;
        assert_eq!(client.cluster.stats.cx_idle_timeout.load(Relaxed), 1);
    })
    .await;
}
