//! HTTP/2 and gRPC, both ways.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use serde_json::json;
use tokio::net::TcpStream;

use crate::proxy::{Config, Running};
use crate::wire::{Upstream, Wire, eventually, field};

/// An HTTP/2 client with prior knowledge.
pub async fn client(to: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(to).await.expect("the proxy listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(async move {
        // How it ends, the streams tell.
        let _ = connection.await;
    });
    send.ready().await.expect("a connection")
}

/// The next data of a body.
pub async fn next(body: &mut RecvStream) -> Option<Bytes> {
    let data = body.data().await?.expect("the stream goes on");
    body.flow_control().release_capacity(data.len()).expect("it was counted");
    Some(data)
}

/// All data frames of a body.
async fn frames(body: &mut RecvStream) -> Vec<Bytes> {
    let mut all = Vec::new();
    while let Some(data) = next(body).await {
        all.push(data);
    }
    all
}

async fn whole(body: &mut RecvStream) -> Vec<u8> {
    frames(body).await.concat()
}

type Server = h2::server::Connection<TcpStream, Bytes>;
type Call = (Request<RecvStream>, SendResponse<Bytes>);

async fn accept(upstream: &Upstream) -> Server {
    h2::server::handshake(upstream.accept_stream().await).await.expect("HTTP/2")
}

/// The next request; afterwards the connection must be driven on by [`drive`].
async fn call(server: &mut Server) -> Call {
    server.accept().await.expect("a request").expect("HTTP/2")
}

fn drive(mut server: Server) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while let Some(Ok(_)) = server.accept().await {} })
}

fn get(path: &str) -> Request<()> {
    Request::builder().uri(format!("http://a{path}")).version(Version::HTTP_2).body(()).expect("a request")
}

fn http2(upstream: &Upstream) -> Config {
    let mut config = Config::http(upstream.address);
    config.http2_upstream();
    config
}

#[tokio::test]
async fn either_side_may_speak_either_version() {
    let upstream = Upstream::bind().await;
    // HTTP/2 to HTTP/1.1.
    let proxy = Config::http(upstream.address).start();
    let mut h2 = client(proxy.address).await;
    let (response, _) = h2.send_request(get("/x"), true).expect("sent");
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && field(&head, "host") == Some("a"), "{head}");
    server
        .send("HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: 3\r\ncontent-length: 2\r\n\r\nok")
        .await;
    let response = response.await.expect("an answer");
    assert!(!["x-hop", "connection", "keep-alive"].iter().any(|h| response.headers().contains_key(*h)));
    assert_eq!(whole(&mut response.into_body()).await, b"ok");

    // HTTP/1.1 to HTTP/2 (an upgrade policy).
    let proxy = http2(&upstream).start();
    let mut h1 = Wire::connect(proxy.address).await;
    h1.send("POST /y HTTP/1.1\r\nhost: b:80\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let mut server = accept(&upstream).await;
    let (request, mut respond) = call(&mut server).await;
    assert_eq!(request.uri().authority().map(|a| a.as_str()), Some("b:80"));
    assert!(!request.headers().contains_key("host") && !request.headers().contains_key("transfer-encoding"));
    let driving = drive(server);
    assert_eq!(whole(&mut request.into_body()).await, b"abc");
    let mut body = respond.send_response(Response::new(()), false).expect("sent");
    body.send_data(Bytes::from_static(b"ok"), true).expect("sent");
    assert!(h1.until("0\r\n\r\n").await.ends_with("2\r\nok\r\n0\r\n\r\n"));
    driving.abort();
}

#[tokio::test]
async fn the_clients_version_is_used_where_configured() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.upstream_options(json!({
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}
    }));
    let proxy = config.start();
    let mut h1 = Wire::connect(proxy.address).await;
    h1.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // Kept open: a GET whose connection breaks before its answer is sent once more.
    let mut first = upstream.accept().await;
    assert!(first.head().await.starts_with("GET /1 HTTP/1.1\r\n"));
    let mut h2 = client(proxy.address).await;
    let (response, _) = h2.send_request(get("/2"), true).expect("sent");
    let mut server = accept(&upstream).await;
    let (request, mut respond) = call(&mut server).await;
    assert_eq!(request.uri().path(), "/2");
    respond.send_response(Response::new(()), true).expect("sent");
    let _driving = drive(server);
    assert_eq!(response.await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_takes_no_more_than_its_reader() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["http2_protocol_options"] =
        json!({"initial_stream_window_size": 65535, "initial_connection_window_size": 1_048_576});
    let proxy = config.start();
    let mut h2 = client(proxy.address).await;
    let request = Request::post("http://a/").body(()).expect("a request");
    let (response, mut up) = h2.send_request(request, false).expect("sent");
    let mut server = upstream.accept().await;
    server.head().await;
    // The upstream reads nothing: the client is stopped by windows and buffers, and goes on when it reads.
    let total = 64 << 20;
    let sending = tokio::spawn(async move {
        let mut left = total;
        while left > 0 {
            up.reserve_capacity(left);
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx)).await.expect("open").expect("open");
            let piece = room.min(left);
            up.send_data(Bytes::from(vec![1; piece]), left == piece).expect("sent");
            left -= piece;
        }
    });
    let mut first = Some(server.until("\r\n").await);
    assert!(!sending.is_finished(), "64 MiB do not fit between the two");
    let mut read = 0;
    while read < total {
        let size = match first.take() {
            Some(size) => size,
            None => server.until("\r\n").await,
        };
        let size = size.trim();
        if size.is_empty() {
            continue;
        }
        let size = usize::from_str_radix(size, 16).expect("a chunk");
        server.skip(size).await;
        read += size;
    }
    sending.await.expect("all was sent");
    server.until("0\r\n\r\n").await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(response.await.expect("an answer").status(), StatusCode::OK);
}

/// Envoy ends a connection that brings it two empty frames in a row, with all its streams.
#[tokio::test]
async fn empty_frames_are_not_passed_on() {
    let upstream = Upstream::bind().await;
    let proxy = http2(&upstream).start();
    let mut h2 = client(proxy.address).await;
    let send = |stream: &mut SendStream<Bytes>| {
        for data in [&b""[..], b"one", b"", b"", b"two", b""] {
            stream.send_data(Bytes::from_static(data), false).expect("sent");
        }
        stream.send_trailers(HeaderMap::new()).expect("sent");
    };
    let request = Request::post("http://a/x").version(Version::HTTP_2).body(()).expect("a request");
    let (response, mut up) = h2.send_request(request, false).expect("sent");
    let mut server = accept(&upstream).await;
    let (request, mut reply) = call(&mut server).await;
    let _driven = drive(server);
    send(&mut up);
    assert_eq!(frames(&mut request.into_body()).await, ["one", "two"]);
    let mut down = reply.send_response(Response::new(()), false).expect("sent");
    send(&mut down);
    let mut response = response.await.expect("an answer").into_body();
    assert_eq!(frames(&mut response).await, ["one", "two"]);
    assert!(response.trailers().await.expect("an end").is_some());
}

#[tokio::test]
async fn no_more_streams_than_configured() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["http2_protocol_options"] = json!({"max_concurrent_streams": 7});
    let proxy = config.start();
    let mut h2 = client(proxy.address).await;
    let (response, _) = h2.send_request(get("/"), true).expect("sent");
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    response.await.expect("an answer");
    assert_eq!(h2.current_max_send_streams(), 7);
}

#[tokio::test]
async fn after_goaway_requests_go_out_on_a_new_connection() {
    let upstream = Upstream::bind().await;
    let proxy = http2(&upstream).start();
    let mut h2 = client(proxy.address).await;
    let (first, _) = h2.send_request(get("/1"), true).expect("sent");
    let mut server = accept(&upstream).await;
    let (_, mut respond) = call(&mut server).await;
    server.graceful_shutdown();
    let body = respond.send_response(Response::new(()), false).expect("sent");
    let old = tokio::spawn(async move { while let Some(Ok(_)) = server.accept().await {} });
    let response = first.await.expect("the stream in flight goes on");
    let (second, _) = h2.send_request(get("/2"), true).expect("sent");
    let mut server = accept(&upstream).await;
    let (request, mut respond) = call(&mut server).await;
    assert_eq!(request.uri().path(), "/2");
    respond.send_response(Response::new(()), true).expect("sent");
    let _driving = drive(server);
    assert_eq!(second.await.expect("an answer").status(), StatusCode::OK);
    let mut body = body;
    body.send_data(Bytes::from_static(b"late"), true).expect("sent");
    assert_eq!(whole(&mut response.into_body()).await, b"late");
    old.abort();
}

/// REFUSED_STREAM says that nothing was done with the request (RFC 9113, 8.7): a POST too may go out again.
#[tokio::test]
async fn a_refused_stream_is_sent_again_where_the_route_says_so() {
    for (retries, status) in [(json!({"retry_on": "refused-stream", "num_retries": 1}), 200), (json!(null), 503)] {
        let upstream = Upstream::bind().await;
        let mut config = http2(&upstream);
        config.route()["route"]["retry_policy"] = retries;
        let proxy = config.start();
        let mut h2 = client(proxy.address).await;
        let post = Request::post("http://a/").body(()).expect("a request");
        let (response, mut up) = h2.send_request(post, false).expect("sent");
        up.send_data(Bytes::from_static(b"once"), true).expect("sent");
        let mut server = accept(&upstream).await;
        let (request, mut respond) = call(&mut server).await;
        let serving = tokio::spawn(async move {
            while let Some(Ok((request, mut respond))) = server.accept().await {
                tokio::spawn(async move {
                    assert_eq!(whole(&mut request.into_body()).await, b"once");
                    respond.send_response(Response::new(()), true).expect("sent");
                });
            }
        });
        // The whole body has come, so that the request can be sent again.
        assert_eq!(whole(&mut request.into_body()).await, b"once");
        respond.send_reset(Reason::REFUSED_STREAM);
        assert_eq!(response.await.expect("an answer").status(), status);
        serving.abort();
    }
}

#[tokio::test]
async fn resets_are_told_apart() {
    let upstream = Upstream::bind().await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut config = http2(&upstream);
    config.log(file.path().to_str().expect("a plain path"), "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    let proxy = config.start();
    let lines = || std::fs::read_to_string(file.path()).expect("a file");

    let mut h2 = client(proxy.address).await;
    let post = || Request::post("http://a/").body(()).expect("a request");
    let (response, mut up) = h2.send_request(post(), false).expect("sent");
    up.send_data(Bytes::from_static(b"x"), true).expect("sent");
    let mut server = accept(&upstream).await;
    let (request, mut respond) = call(&mut server).await;
    drop(request);
    respond.send_reset(Reason::CANCEL);
    let answering = tokio::spawn(async move {
        // The second stream is reset in the middle of its answer.
        let (_request, mut respond) = call(&mut server).await;
        let mut body = respond.send_response(Response::new(()), false).expect("sent");
        body.send_data(Bytes::from_static(b"begun"), false).expect("sent");
        let begun = tokio::spawn(async move { while let Some(Ok(_)) = server.accept().await {} });
        (body, begun)
    });
    let response = response.await.expect("an answer of the proxy");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    eventually("a line", || lines().contains("503 UR upstream_reset_before_response_started{remote_reset}")).await;

    let (response, _) = h2.send_request(get("/"), true).expect("sent");
    let (mut sender, driving) = answering.await.expect("a second stream");
    let mut body = response.await.expect("an answer").into_body();
    assert_eq!(next(&mut body).await, Some(Bytes::from_static(b"begun")));
    sender.send_reset(Reason::INTERNAL_ERROR);
    let error = body.data().await.expect("not the end").expect_err("broken off");
    assert!(error.is_reset(), "{error}");
    eventually("a line", || lines().contains("200 UR upstream_reset_after_response_started{remote_reset}")).await;
    driving.abort();
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_call() {
    let upstream = Upstream::bind().await;
    let proxy = http2(&upstream).start();
    let mut h2 = client(proxy.address).await;
    let (response, mut up) =
        h2.send_request(Request::post("http://a/").body(()).expect("a request"), false).expect("sent");
    let mut server = accept(&upstream).await;
    let (request, respond) = call(&mut server).await;
    let _driving = drive(server);
    up.send_reset(Reason::CANCEL);
    drop(response);
    let mut body = request.into_body();
    let end = body.data().await;
    assert!(matches!(end, Some(Err(_))), "the upstream's stream is reset: {end:?}");
    drop(respond);
}

// gRPC

fn message(text: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(text.len()).expect("short"));
    out.put_slice(text);
    out.freeze()
}

fn grpc(method: &str) -> Request<()> {
    let uri = format!("http://a/shop.Cart/{method}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).expect("a request")
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers
}

struct GrpcCall {
    response: h2::client::ResponseFuture,
    up: SendStream<Bytes>,
    seen: RecvStream,
    respond: SendResponse<Bytes>,
    headers: HeaderMap,
}

struct Grpc {
    proxy: Running,
    client: SendRequest<Bytes>,
    calls: tokio::sync::mpsc::UnboundedReceiver<Call>,
}

impl Grpc {
    async fn start() -> Self {
        let upstream = Upstream::bind().await;
        let mut config = http2(&upstream);
        config.metrics(json!({}));
        let proxy = config.start();
        let client = client(proxy.address).await;
        let (put, calls) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut server = accept(&upstream).await;
            while let Some(Ok(call)) = server.accept().await {
                if put.send(call).is_err() {
                    return;
                }
            }
        });
        Self { proxy, client, calls }
    }

    async fn call(&mut self, request: Request<()>) -> GrpcCall {
        let (response, up) = self.client.send_request(request, false).expect("sent");
        let (request, respond) = self.calls.recv().await.expect("a call");
        assert_eq!(request.headers().get("te").map(HeaderValue::as_bytes), Some(&b"trailers"[..]));
        let headers = request.headers().clone();
        GrpcCall { response, up, seen: request.into_body(), respond, headers }
    }
}

fn reply() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("an answer")
}

#[tokio::test]
async fn all_four_kinds_of_grpc_call_stream_message_by_message() {
    let mut grpc_ends = Grpc::start().await;
    // Unary and client streaming: `sent` messages up, one down. Server streaming and bidirectional: several down.
    for (method, sent, answered) in [("Unary", 1, 1), ("Client", 3, 1), ("Server", 1, 3), ("Both", 3, 3)] {
        let GrpcCall { response, mut up, mut seen, mut respond, .. } = grpc_ends.call(grpc(method)).await;
        for n in 0..sent {
            up.send_data(message(b"ask"), n + 1 == sent).expect("sent");
            assert_eq!(
                next(&mut seen).await,
                Some(message(b"ask")),
                "{method}: each message arrives before the next is sent"
            );
        }
        let mut down = respond.send_response(reply(), false).expect("sent");
        let mut body = response.await.expect("an answer").into_body();
        for _ in 0..answered {
            down.send_data(message(b"answer"), false).expect("sent");
            assert_eq!(next(&mut body).await, Some(message(b"answer")), "{method}");
        }
        down.send_trailers(status("0")).expect("sent");
        assert_eq!(next(&mut body).await, None);
        let trailers = body.trailers().await.expect("a whole stream").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0", "{method}");
    }
    let proxy = &grpc_ends.proxy;
    let labels = ["request_protocol=\"grpc\"", "grpc_response_status=\"0\""];
    eventually("four calls", || proxy.metric("istio_requests_total", &labels) == 4.0).await;
    assert_eq!(proxy.metric("istio_request_messages_total", &[]), 8.0);
    assert_eq!(proxy.metric("istio_response_messages_total", &[]), 8.0);
}

#[tokio::test]
async fn a_grpc_answer_of_trailers_alone_keeps_its_status() {
    let mut grpc_ends = Grpc::start().await;
    let GrpcCall { response, mut up, mut respond, .. } = grpc_ends.call(grpc("Unary")).await;
    up.send_data(message(b"ask"), true).expect("sent");
    let mut answer = reply();
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
    respond.send_response(answer, true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream());
    let labels = ["response_code=\"200\"", "grpc_response_status=\"5\""];
    eventually("one call", || grpc_ends.proxy.metric("istio_requests_total", &labels) == 1.0).await;
}

#[tokio::test]
async fn a_grpc_timeout_is_passed_on_and_kept() {
    let mut grpc_ends = Grpc::start().await;
    let mut request = grpc("Unary");
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("20S"));
    let call = grpc_ends.call(request).await;
    assert_eq!(call.headers["grpc-timeout"], "20S");
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status_when_no_upstream_answers() {
    let upstream = Upstream::bind().await;
    let gone = upstream.address;
    drop(upstream);
    let mut config = Config::http(gone);
    config.http2_upstream();
    let proxy = config.start();
    let mut h2 = client(proxy.address).await;
    let (response, _) = h2.send_request(grpc("Unary"), true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &HeaderValue::from_static("14"))
    );
}

/// Smuggling by HTTP/2: what HTTP/1.1 would read as framing or another message never gets there (RFC 9113, 8.2 and 8.3).
#[tokio::test]
async fn http2_requests_in_doubt_reach_no_upstream() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    // (name, value) pairs of a header block, written without indexing or Huffman coding.
    let good = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut all = good.to_vec();
        all.extend_from_slice(extra);
        all
    };
    let replaced = |name: &str, value: &'static str| {
        good.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect::<Vec<_>>()
    };
    let table = [
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("connection", with(&[("connection", "x")])),
        ("te", with(&[("te", "gzip")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("LF in a value", with(&[("x", "a\nb")])),
        ("CR in a value", with(&[("x", "a\rb")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("CRLF in a path", replaced(":path", "/ HTTP/1.1\r\nx: y")),
        ("a space in a path", replaced(":path", "/a b")),
        ("a path without a slash", replaced(":path", "a")),
        ("a method with a space", replaced(":method", "GET / HTTP/1.1\r\n")),
        ("an upper-case name", with(&[("X", "y")])),
        ("a colon in a name", with(&[("x: y", "z")])),
        ("an unknown pseudo header", with(&[(":x", "y")])),
        ("a pseudo header after others", with(&[("x", "y"), (":method", "POST")])),
        ("two paths", with(&[(":path", "/b")])),
        ("another host", with(&[("host", "b")])),
        ("two hosts", with(&[("host", "a"), ("host", "a")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("a length that is no number", with(&[("content-length", "x")])),
        ("an authority with a user", replaced(":authority", "u@a")),
    ];
    assert!(
        matches!(raw(proxy.address, &replaced(":path", "/../x")).await, Answer::Status(400)),
        "such a block is read"
    );
    for (what, headers) in table {
        let answer = raw(proxy.address, &headers).await;
        match answer {
            Answer::Reset => {}
            Answer::Status(status) => assert_eq!(status, 400, "{what}"),
        }
        assert!(upstream.accepted().is_none(), "{what} reached the upstream");
    }
}

enum Answer {
    /// The stream or the connection was ended.
    Reset,
    Status(u16),
}

/// Sends one request whose header block is written by hand, and reads until it is answered.
async fn raw(to: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    let mut wire = Wire::connect(to).await;
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, u8::try_from(block.len()).expect("short"), 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    wire.try_send(bytes).await;
    loop {
        let Some(head) = wire.try_exactly(9).await else { return Answer::Reset };
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(payload) = wire.try_exactly(length).await else { return Answer::Reset };
        match head[3] {
            3 | 7 => return Answer::Reset,
            1 => return Answer::Status(static_status(payload.first().copied().unwrap_or_default(), &payload)),
            _ => {}
        }
    }
}

/// `:status` as our side encodes it: indexed (RFC 7541, appendix A), or a literal with an indexed name.
fn static_status(first: u8, payload: &[u8]) -> u16 {
    match first {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        _ => panic!("another form of status: {payload:?}"),
    }
}
