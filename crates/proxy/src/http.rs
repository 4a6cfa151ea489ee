//! HTTP: serving a connection's requests.

mod attempt;
mod body;
mod exchange;
mod filters;
mod forward;
mod headers;
mod mirror;
mod reply;
mod request;
mod token;
mod upgrade;

pub(crate) use body::AdminBody;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_config::{HttpManager, Listener, Terminal};

use crate::connection::{About, chain_for};
use crate::stream::Stream;
use crate::worker::Worker;

/// One client connection and its configuration.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) about: About,
    pub(crate) inbound: bool,
    pub(crate) http2: bool,
    /// The listener and manager in force; followed when the listener changes.
    current: RefCell<(Arc<Listener>, Arc<HttpManager>)>,
    /// The configuration no longer admits this connection.
    revoked: Cell<bool>,
}

impl Connection {
    /// The manager in force now. A long-lived connection must not go on under a policy that was replaced; when the new
    /// configuration would not take it at all (plain text under STRICT), there is none.
    fn manager(&self) -> Option<Arc<HttpManager>> {
        let mut current = self.current.borrow_mut();
        let listeners = &self.worker.shared.listeners;
        match listeners.named(&current.0.name) {
            Some(now) if !Arc::ptr_eq(&now, &current.0) => {
                let chain = chain_for(&now, &self.about).filter(|c| c.tls.is_some() == self.about.tls);
                match chain.map(|c| &c.terminal) {
                    Some(Terminal::Http(manager)) => *current = (now.clone(), manager.clone()),
                    _ => self.revoked.set(true),
                }
            }
            _ => {}
        }
        (!self.revoked.get()).then(|| current.1.clone())
    }
}

/// The connection is closed without an answer.
#[derive(Debug)]
struct Revoked;

impl std::fmt::Display for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the configuration no longer admits this connection")
    }
}

impl std::error::Error for Revoked {}

/// Serves requests until the connection ends.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<Listener>,
    manager: Arc<HttpManager>,
    stream: Stream,
    about: About,
) {
    let http2 = match stream {
        Stream::Tls(ref tls) => matches!(tls.get_ref().1.alpn_protocol(), Some(b"h2" | b"istio-h2")),
        Stream::Plain(ref tcp) => is_http2(tcp, &about).await,
    };
    let mut draining = worker.shared.draining.clone();
    let head = manager.max_head;
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        about,
        inbound: listener.inbound,
        http2,
        current: RefCell::new((listener.clone(), manager)),
        revoked: Cell::new(false),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = connection.clone();
        async move {
            match connection.manager() {
                Some(manager) => Ok(request::handle(&connection, &manager, request).await),
                None => Err(Revoked),
            }
        }
    });
    let io = TokioIo::new(stream);
    // How a connection ends is told by the log lines of its requests.
    let _: Result<(), Infallible> = if http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(1024)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_header_list_size(u32::try_from(head).unwrap_or(60 * 1024));
        let serving = builder.serve_connection(io, service);
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            () = drained(&mut draining) => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
        Ok(())
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).max_headers(256).max_buf_size(head.max(8192)).half_close(true);
        let serving = builder.serve_connection(io, service).with_upgrades();
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            () = drained(&mut draining) => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
        Ok(())
    };
}

async fn drained(draining: &mut tokio::sync::watch::Receiver<bool>) {
    // The sender lives as long as the process; should it go, nobody will ever drain.
    if draining.wait_for(|d| *d).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Whether plain text is HTTP/2: the bytes have told, or the first of them are awaited.
async fn is_http2(tcp: &tokio::net::TcpStream, about: &About) -> bool {
    match about.protocols.first().map(Vec::as_slice) {
        Some(b"h2c") => true,
        Some(_) => false,
        None => {
            /// A client that says nothing is cut by the header timeout later.
            const WAIT: std::time::Duration = std::time::Duration::from_secs(60);
            matches!(crate::inspect::first_bytes(tcp, WAIT).await, Ok(mtls::sniff::First::Http2))
        }
    }
}

/// Runs hyper's streams on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
