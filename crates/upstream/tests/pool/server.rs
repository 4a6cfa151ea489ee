//! A server that counts its connections and does what the path says.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What the tests see of the server.
pub struct Server {
    pub address: SocketAddr,
    pub connections: Cell<u32>,
    /// Requests that arrived.
    pub requests: Cell<u32>,
    /// `/gated` answers when a permit is added.
    pub gate: Semaphore,
}

pub async fn listen() -> (TcpListener, Rc<Server>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let address = listener.local_addr().expect("it is bound");
    let server = Server { address, connections: Cell::new(0), requests: Cell::new(0), gate: Semaphore::const_new(0) };
    (listener, Rc::new(server))
}

/// HTTP/1.1 on every connection.
pub async fn http1() -> Rc<Server> {
    let (listener, server) = listen().await;
    let shared = server.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.set(shared.connections.get() + 1);
            let server = shared.clone();
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request| answer(server.clone(), request));
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    server
}

/// HTTP/2 on every connection, with so many streams at once.
pub async fn http2(streams: u32) -> Rc<Server> {
    let (listener, server) = listen().await;
    let shared = server.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.set(shared.connections.get() + 1);
            let server = shared.clone();
            let service = service_fn(move |request| answer(server.clone(), request));
            let mut builder = hyper::server::conn::http2::Builder::new(Local);
            builder.max_concurrent_streams(streams);
            tokio::task::spawn_local(async move {
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    server
}

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

async fn answer(server: Rc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    server.requests.set(server.requests.get() + 1);
    if request.uri().path() == "/gated"
        && let Ok(permit) = server.gate.acquire().await
    {
        permit.forget();
    }
    let mut response = Response::new(Full::from(format!("answer {}", server.requests.get())));
    if request.uri().path() == "/last" {
        response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Lets everything run until a condition holds.
pub async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, waiting).await.expect("the condition holds in the end");
}
