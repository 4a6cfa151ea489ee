//! HTTP/1.1 and h2c on one port: answers say who answered and what was received.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::server::{App, Stage};
use crate::stream::{FAREWELL, FAREWELL_HEADER, framed};

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The largest body that `/bytes/N` makes.
const MAX_MADE: usize = 64 << 20;

/// Serves one connection until it ends; at a stop signal it is asked to end after the requests in flight.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, app: &Arc<App>, mut stopping: watch::Receiver<Stage>) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let stage = stopping.clone();
    let service = service_fn(|request| answer(app.clone(), peer, stage.clone(), request));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            // An error here is the client's: it went away, or did not speak HTTP.
            _ = connection.as_mut() => return,
            _ = stopping.wait_for(|stage| *stage == Stage::Ending), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(
    app: Arc<App>,
    peer: SocketAddr,
    stage: watch::Receiver<Stage>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let version = request.version();
    let leaving = stage.clone();
    let mut response = respond(app, peer, stage, request).await?;
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if version < http::Version::HTTP_2 && !switched && *leaving.borrow() != Stage::Running {
        // Said before the connection is closed, so that no request is on its way then.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn respond(
    app: Arc<App>,
    peer: SocketAddr,
    stage: watch::Receiver<Stage>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::POST, "/fail") => return Ok(throw(&app, request.uri().query())),
        (&Method::POST, "/ready") => {
            app.ready.store(request.uri().query() != Some("value=false"), Ordering::Relaxed);
            return Ok(plain(StatusCode::OK, "ok\n"));
        }
        (&Method::GET, "/healthz") => {
            let ready = app.ready.load(Ordering::Relaxed);
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            return Ok(plain(status, if ready { "ok\n" } else { "told to be not ready\n" }));
        }
        _ => {}
    }
    let fault = app.faults.decide(request.headers());
    if !fault.delay.is_zero() {
        tokio::time::sleep(fault.delay).await;
    }
    if fault.reset {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "reset on demand"));
    }
    let mut response = if is_grpc(request.headers()) {
        grpc_echo(request, fault.status, stage)
    } else if let Some(status) = fault.status.and_then(|s| StatusCode::from_u16(s).ok()) {
        describe(&app, peer, &request, status)
    } else if request.headers().contains_key(http::header::UPGRADE) && request.version() < http::Version::HTTP_2 {
        switch(request, stage)
    } else if let Some(chunks) = path.strip_prefix("/drip/").and_then(|n| n.parse::<u32>().ok()) {
        Response::new(drip(chunks))
    } else if path == "/echo" {
        echo(request)
    } else if let Some(size) = path.strip_prefix("/bytes/").and_then(|n| n.parse::<usize>().ok()) {
        Response::new(full(vec![b'm'; size.min(MAX_MADE)]))
    } else {
        describe(&app, peer, &request, StatusCode::OK)
    };
    for (name, value) in [("x-app-name", &app.name), ("x-app-version", &app.version), ("x-app-pod", &app.pod)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// What the application says about a request.
#[derive(Serialize)]
struct Description<'a> {
    app: &'a str,
    version: &'a str,
    pod: &'a str,
    method: &'a str,
    path: &'a str,
    protocol: String,
    authority: Option<&'a str>,
    headers: BTreeMap<&'a str, String>,
    source: SocketAddr,
}

fn describe(app: &App, peer: SocketAddr, request: &Request<Incoming>, status: StatusCode) -> Response<Body> {
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in request.headers() {
        let text = String::from_utf8_lossy(value.as_bytes());
        headers.entry(name.as_str()).and_modify(|all| *all = format!("{all}, {text}")).or_insert_with(|| text.into());
    }
    let description = Description {
        app: &app.name,
        version: &app.version,
        pod: &app.pod,
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("/", |p| p.as_str()),
        protocol: format!("{:?}", request.version()),
        authority: request
            .uri()
            .authority()
            .map(http::uri::Authority::as_str)
            .or_else(|| request.headers().get("host").and_then(|h| h.to_str().ok())),
        headers,
        source: peer,
    };
    let mut text = serde_json::to_vec(&description).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body().boxed_unsync());
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Echoes the messages as they come, whatever the method's kind of stream, and ends with a status.
fn grpc_echo(request: Request<Incoming>, failure: Option<u16>, stage: watch::Receiver<Stage>) -> Response<Body> {
    let mut response = match failure {
        // A gRPC failure is a status in a header-only answer (gRPC over HTTP/2, "Trailers-Only").
        Some(code) => {
            let mut response = Response::new(empty());
            response.headers_mut().insert("grpc-status", HeaderValue::from(grpc_code(code)));
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("failed on demand"));
            response
        }
        None => {
            let farewell = request.headers().contains_key(FAREWELL_HEADER).then(|| {
                let mut stage = stage;
                let left: Left = Box::pin(async move {
                    let _ = stage.wait_for(|s| *s != Stage::Running).await;
                });
                left
            });
            let body = WithStatus { inner: request.into_body(), ended: false, farewell, framing: Framing::default() };
            Response::new(body.boxed_unsync())
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A gRPC code as it is; an HTTP status as the gRPC code that stands for it.
fn grpc_code(status: u16) -> u16 {
    match status {
        0..=16 => status,
        429 | 502 | 503 | 504 => 14,
        401 => 16,
        403 => 7,
        404 => 12,
        _ => 2,
    }
}

/// A body that is passed on and then followed by `grpc-status: 0`.
struct WithStatus {
    inner: Incoming,
    ended: bool,
    /// Told when the server is to end; taken when the client has been told.
    farewell: Option<Left>,
    framing: Framing,
}

type Left = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where in gRPC's framing (five bytes of head, the last four of them the length) a run of bytes has ended.
#[derive(Default)]
struct Framing {
    head: [u8; 5],
    have: usize,
    left: usize,
}

impl Framing {
    fn pass(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let skip = self.left.min(data.len());
                self.left -= skip;
                data = data.get(skip..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.head.get_mut(self.have) {
                *slot = *first;
            }
            self.have += 1;
            if self.have == self.head.len() {
                let [_, a, b, c, d] = self.head;
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.have = 0;
            }
            data = rest;
        }
    }

    fn between_messages(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

impl http_body::Body for WithStatus {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if self.framing.between_messages()
                && let Some(left) = &mut self.farewell
                && left.as_mut().poll(cx).is_ready()
            {
                self.farewell = None;
                return Poll::Ready(Some(Ok(Frame::data(framed(FAREWELL)))));
            }
            match Pin::new(&mut self.inner).poll_frame(cx) {
                // The client's end may be an empty frame; ours are the trailers, and Envoy allows no two empty ones in a row.
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(|data| !data.is_empty()) => {
                    if let Some(data) = frame.data_ref() {
                        self.framing.pass(data);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    self.ended = true;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Takes an upgrade, whatever the protocol is called, and echoes the bytes that follow; it is ended by the client.
fn switch(mut request: Request<Incoming>, mut stage: watch::Receiver<Stage>) -> Response<Body> {
    let protocol = request.headers().get(http::header::UPGRADE).cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        tokio::select! {
            // A failed copy is the client's going away: there is nobody left to tell.
            _ = tokio::io::copy(&mut reader, &mut writer) => {}
            _ = stage.wait_for(|s| *s == Stage::Ending) => {}
        }
        let _ = writer.shutdown().await;
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(http::header::UPGRADE, protocol);
    }
    response
}

/// A long download: a piece every 50 ms.
fn drip(chunks: u32) -> Body {
    let pieces = futures_util::stream::unfold(chunks, |left| async move {
        let left = left.checked_sub(1)?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"drop\n"))), left))
    });
    http_body_util::StreamBody::new(pieces).boxed_unsync()
}

/// `POST /fail?status=500&count=5`
fn throw(app: &App, query: Option<&str>) -> Response<Body> {
    let field = |name: &str| {
        query.unwrap_or_default().split('&').filter_map(|p| p.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
    };
    let Some(status) = field("status").and_then(|v| v.parse::<u16>().ok()) else {
        return plain(StatusCode::BAD_REQUEST, "say which status: POST /fail?status=500&count=5 (status=0 ends it)\n");
    };
    match field("count").map(str::parse::<u64>).transpose() {
        Ok(count) => {
            app.faults.throw(status, count);
            plain(StatusCode::OK, "ok\n")
        }
        Err(_) => plain(StatusCode::BAD_REQUEST, "count is not a number\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
