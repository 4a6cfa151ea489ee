use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upstream::{Answer, Body, Cause, Http2Keepalive, SendError, Version};

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

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Reads up to the first HEADERS frame and gives back its stream.
async fn read_request(stream: &mut TcpStream) -> u32 {
    let mut preface = [0; PREFACE];
    stream.read_exact(&mut preface).await.expect("the preface");
    stream.write_all(SETTINGS).await.expect("the peer reads");
    read_frame(stream, HEADERS).await.0
}

/// Accepts a connection and reads its first request: the connection, and the request's stream.
async fn accept(listener: &TcpListener) -> (TcpStream, u32) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let id = read_request(&mut stream).await;
    (stream, id)
}

/// Reads up to the next frame of a kind and gives back its stream and its payload.
async fn read_frame(stream: &mut TcpStream, kind: u8) -> (u32, Vec<u8>) {
    loop {
        let mut head = [0_u8; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.expect("its payload");
        if head[3] == kind {
            return (u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload);
        }
    }
}

/// A frame on a stream.
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, length, kind, flags], &id.to_be_bytes()[..], payload].concat()
}

/// The head of a 200 in HPACK's static table; more follows unless it is the end.
fn ok(id: u32, end: bool) -> Vec<u8> {
    frame(HEADERS, if end { 5 } else { 4 }, id, &[0x88])
}

/// A server that answers the first request with one frame.
async fn answering(frame: impl FnOnce(u32) -> Vec<u8> + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    tokio::task::spawn_local(async move {
        let (mut stream, id) = accept(&listener).await;
        stream.write_all(&frame(id)).await.expect("the peer reads");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    Client::new(address, Version::Http2, |_| ())
}

#[tokio::test]
async fn a_refused_stream_is_told_from_a_reset_one() {
    worker(async {
        for (code, refused) in [(7, true), (8, false)] {
            let client = answering(move |id| frame(RST_STREAM, 0, id, &[0, 0, 0, code])).await;
            let failed = client.get("/").await.expect_err("no answer");
            assert_eq!(failed.cause == Cause::Refused, refused, "{:?}", failed.cause);
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_beyond_goaway_was_not_looked_at() {
    worker(async {
        let client = answering(|_| frame(7, 0, 0, &[0; 8])).await;
        let failed = client.get("/").await.expect_err("no answer");
        assert_eq!(failed.cause, Cause::Refused);
    })
    .await;
}

#[tokio::test]
async fn after_goaway_requests_go_elsewhere() {
    worker(async {
        let (listener, server) = server::listen().await;
        let client = Client::new(server.address, Version::Http2, |_| ());
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                server.connections.set(server.connections.get() + 1);
                let id = read_request(&mut stream).await;
                let goaway = frame(7, 0, 0, &[id.to_be_bytes(), [0; 4]].concat());
                stream.write_all(&[ok(id, true), goaway].concat()).await.expect("the peer reads");
                let _ = stream.read_to_end(&mut Vec::new()).await;
                assert!(server.connections.get() <= 3);
            }
        });
        for _ in 0..3 {
            client.get("/").await.expect("an answer on a connection of its own");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_was_reset_is_never_whole() {
    worker(async {
        for code in [0, 8] {
            let client = answering(move |id| {
                [ok(id, false), frame(DATA, 0, id, b"ab"), frame(RST_STREAM, 0, id, &[0, 0, 0, code])].concat()
            })
            .await;
            let body = client.send("/").await.expect("a head").response.into_body();
            let broken = body.collect().await.expect_err("half a body");
            assert!(broken.is_stream_reset(), "{broken}");
        }
    })
    .await;
}

/// A request whose body is there only after an event.
async fn upload(client: &Client, event: impl Future<Output = ()> + 'static) -> Result<Box<Answer>, SendError> {
    let body = Body::Full("late".into()).after(event);
    let request = Request::post("http://a/").header("host", "a").body(body).expect("a request");
    client.pools.send(&client.cluster, &client.host, Box::new(request), client.options).await
}

#[tokio::test]
async fn what_is_given_up_is_reset_though_its_body_is_on_its_way() {
    worker(async {
        for answered in [false, true] {
            let (listener, server) = server::listen().await;
            let client = Client::new(server.address, Version::Http2, |_| ());
            let serving = async {
                let (mut stream, id) = accept(&listener).await;
                server.requests.set(1);
                if answered {
                    stream.write_all(&ok(id, false)).await.expect("the peer reads");
                }
                assert_eq!(read_frame(&mut stream, RST_STREAM).await, (id, CANCEL.to_vec()));
            };
            let calling = async {
                tokio::select! {
                    answer = upload(&client, std::future::pending()) => drop(answer.expect("a head")),
                    () = async { until(|| !answered && server.requests.get() == 1).await } => {}
                }
            };
            tokio::join!(serving, calling);
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_goes_on_its_way_when_the_answer_has_ended_first() {
    worker(async {
        let (listener, server) = server::listen().await;
        let client = Client::new(server.address, Version::Http2, |_| ());
        let (gone, event) = tokio::sync::oneshot::channel::<()>();
        let serving = async {
            let (mut stream, id) = accept(&listener).await;
            stream.write_all(&ok(id, true)).await.expect("the peer reads");
            let body = tokio::time::timeout(Duration::from_secs(10), read_frame(&mut stream, DATA)).await;
            assert_eq!(body.expect("the body comes"), (id, b"late".to_vec()));
        };
        let calling = async {
            drop(upload(&client, async { drop(event.await) }).await.expect("an answer without a body"));
            gone.send(()).expect("the body waits");
        };
        tokio::join!(serving, calling);
    })
    .await;
}

/// A client that asks its server for a sign of life at short intervals.
fn asking(address: SocketAddr, timeout: Duration) -> Client {
    let interval = Duration::from_millis(5);
    Client::new(address, Version::Http2, |c| {
        c.http2_keepalive = Some(Http2Keepalive { interval, timeout, jitter_percent: 0 });
    })
}

#[tokio::test]
async fn a_server_without_a_sign_of_life_is_given_up() {
    worker(async {
        let (listener, server) = server::listen().await;
        let client = asking(server.address, Duration::from_millis(20));
        let serving = async {
            let (mut stream, _) = accept(&listener).await;
            read_frame(&mut stream, PING).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let (failed, ()) = tokio::join!(client.get("/"), serving);
        assert!(matches!(failed, Err(SendError { cause: Cause::Reset(_), .. })), "{failed:?}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_answers_pings_has_time() {
    worker(async {
        let (listener, server) = server::listen().await;
        let client = asking(server.address, Duration::from_secs(600));
        let serving = async {
            let (mut stream, id) = accept(&listener).await;
            for _ in 0..3 {
                let (_, ping) = read_frame(&mut stream, PING).await;
                stream.write_all(&frame(PING, 1, 0, &ping)).await.expect("the peer reads");
            }
            stream.write_all(&ok(id, true)).await.expect("the peer reads");
            stream
        };
        let (answered, _open) = tokio::join!(client.get("/"), serving);
        assert!(answered.is_ok(), "{answered:?}");
    })
    .await;
}
