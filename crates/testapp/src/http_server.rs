//! HTTP/1.1 and h2c on one port: answers say who answered and what was received.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

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
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::server::App;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The largest body that `/bytes/N` makes.
const MAX_MADE: usize = 64 << 20;

/// Serves one connection until it ends; at a stop signal it is asked to end after the requests in flight.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, app: &Arc<App>, mut stopping: watch::Receiver<bool>) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let service = service_fn(|request| answer(app.clone(), peer, request));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            // An error here is the client's: it went away, or did not speak HTTP.
            _ = connection.as_mut() => return,
            _ = stopping.wait_for(|stop| *stop), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer(app: Arc<App>, peer: SocketAddr, request: Request<Incoming>) -> Result<Response<Body>, io::Error> {
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
        grpc_echo(request, fault.status)
    } else if let Some(status) = fault.status.and_then(|s| StatusCode::from_u16(s).ok()) {
        describe(&app, peer, &request, status)
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
fn grpc_echo(request: Request<Incoming>, failure: Option<u16>) -> Response<Body> {
    let mut response = match failure {
        // A gRPC failure is a status in a header-only answer (gRPC over HTTP/2, "Trailers-Only").
        Some(code) => {
            let mut response = Response::new(empty());
            response.headers_mut().insert("grpc-status", HeaderValue::from(grpc_code(code)));
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("failed on demand"));
            response
        }
        None => Response::new(WithStatus { inner: request.into_body(), ended: false }.boxed_unsync()),
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
}

impl http_body::Body for WithStatus {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
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
