use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upstream::{Cause, Version};

use crate::server::{self, until};
use crate::{Client, worker};

#[tokio::test]
async fn many_first_requests_share_one_connection() {
    worker(async {
        let server = server::http2(100).await;
        let client = Client::new(server.address, Version::Http2, |_| ());
        let all: Vec<_> = (0..20)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move { client.get("/").await })
            })
            .collect();
        for one in all {
            assert!(one.await.expect("it ran").is_ok());
        }
        assert_eq!(server.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn another_connection_is_made_when_the_peers_streams_are_used_up() {
    worker(async {
        let server = server::http2(2).await;
        let client = Client::new(server.address, Version::Http2, |_| ());
        client.get("/").await.expect("an answer, after the peer's settings");
        let all: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move { client.get("/gated").await })
            })
            .collect();
        until(|| server.requests.get() == 5).await;
        assert!(server.connections.get() >= 2);
        server.gate.add_permits(4);
        for one in all {
            assert!(one.await.expect("it ran").is_ok());
        }
    })
    .await;
}

#[tokio::test]
async fn our_own_limit_of_streams_holds_too() {
    worker(async {
        let server = server::http2(100).await;
        let client = Client::new(server.address, Version::Http2, |c| c.max_concurrent_streams = 1);
        let one = client.clone();
        let first = tokio::task::spawn_local(async move { one.get("/gated").await });
        until(|| server.requests.get() == 1).await;
        client.get("/").await.expect("an answer on another connection");
        assert_eq!(server.connections.get(), 2);
        server.gate.add_permits(1);
        assert!(first.await.expect("it ran").is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_finished_stream_makes_room_for_the_next() {
    worker(async {
        let server = server::http2(100).await;
        let client = Client::new(server.address, Version::Http2, |c| c.max_concurrent_streams = 1);
        for _ in 0..5 {
            client.get("/").await.expect("an answer");
        }
        assert_eq!(server.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn who_waited_for_a_dial_fails_with_it() {
    worker(async {
        let (listener, server) = server::listen().await;
        drop(listener);
        let client = Client::new(server.address, Version::Http2, |_| ());
        let (a, b, c) = tokio::join!(client.get("/"), client.get("/"), client.get("/"));
        for failed in [a, b, c] {
            let failed = failed.expect_err("nobody listens");
            assert!(failed.cause.is_connect() && failed.request.is_some());
        }
        assert_eq!(client.cluster.stats.cx_connect_fail.load(Relaxed), 1, "one dial for all");
    })
    .await;
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PREFACE: usize = 24;

/// Reads up to the first HEADERS frame and gives back its stream.
async fn read_request(stream: &mut TcpStream) -> u32 {
    let mut preface = [0; PREFACE];
    stream.read_exact(&mut preface).await.expect("the preface");
    stream.write_all(SETTINGS).await.expect("the peer reads");
    loop {
        let mut head = [0_u8; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.expect("its payload");
        if head[3] == 1 {
            return u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        }
    }
}

/// A server that answers the first request with one frame.
async fn answering(frame: impl FnOnce(u32) -> Vec<u8> + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let id = read_request(&mut stream).await;
        stream.write_all(&frame(id)).await.expect("the peer reads");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    Client::new(address, Version::Http2, |_| ())
}

#[tokio::test]
async fn a_refused_stream_is_told_from_a_reset_one() {
    worker(async {
        for (code, refused) in [(7, true), (8, false)] {
            let client = answering(move |id| {
                let mut frame = vec![0, 0, 4, 3, 0];
                frame.extend(id.to_be_bytes());
                frame.extend([0, 0, 0, code]);
                frame
            })
            .await;
            let failed = client.get("/").await.expect_err("no answer");
            assert_eq!(failed.cause == Cause::Refused, refused, "{:?}", failed.cause);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_beyond_goaway_was_not_looked_at() {
    worker(async {
        let client = answering(|_| vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        let failed = client.get("/").await.expect_err("no answer");
        assert_eq!(failed.cause, Cause::Refused);
    })
    .await;
}
