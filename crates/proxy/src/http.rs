//! HTTP: serving a connection's requests.

mod attempt;
mod awaiting;
mod body;
mod doubt;
mod exchange;
mod filters;
mod forward;
mod headers;
mod held;
mod idle;
mod limits;
mod mirror;
mod named;
mod reply;
mod request;
mod token;
mod trace;
mod upgrade;

pub(crate) use body::AdminBody;
pub(crate) use forward::for_version;
pub(crate) use mirror::drain;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_config::{HttpManager, Listener, Terminal};
use telemetry::ResponseFlags;
use tokio::sync::Notify;
use tokio::time::Instant;

use doubt::{Watch, Watched};
use held::ReplyBody;

use crate::connection::{About, chain_for};
use crate::life::Phase;
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
    /// The raw bytes of HTTP/1 requests.
    watch: Arc<Watch>,
    /// Requests so far.
    served: Cell<u64>,
    /// Requests under way.
    in_flight: Cell<usize>,
    /// When the last request ended.
    last_used: Cell<Instant>,
    /// It has had an answer.
    answered: Cell<bool>,
    /// Answers whose time has a limit.
    limits: limits::Limits,
    /// Told at each answer while draining.
    told: Notify,
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

    /// Whether clients are to go elsewhere.
    pub(crate) fn is_draining(&self) -> bool {
        self.worker.shared.life.phase(self.inbound) != Phase::Serving
    }
}

/// Marks an answer to a request that the upstream has not seen a byte of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untouched;

/// Why there is no answer.
#[derive(Debug)]
enum NoAnswer {
    /// The connection is closed.
    Revoked,
    /// The stream is refused: whoever sent the request may send it elsewhere (RFC 9113, 8.7).
    Refused(h2::Error),
}

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the configuration no longer admits this connection",
            Self::Refused(_) => "the application has gone already",
        })
    }
}

impl std::error::Error for NoAnswer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Revoked => None,
            Self::Refused(reason) => Some(reason),
        }
    }
}

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
        Stream::Plain(_) | Stream::Pipe(_) => match manager.plain_http2 {
            Some(false) => false,
            wanted => match (is_http2(&stream, &about).await, wanted) {
                (false, Some(_)) => return stream.dismiss(manager.delayed_close).await,
                (told, _) => told,
            },
        },
    };
    let (stream, watch) = Watched::new(stream, manager.delayed_close);
    if http2 {
        watch.end();
    }
    let connection = Rc::new(Connection {
        worker: worker.clone(),
        about,
        inbound: listener.inbound,
        http2,
        current: RefCell::new((listener.clone(), manager.clone())),
        revoked: Cell::new(false),
        watch,
        served: Cell::new(0),
        in_flight: Cell::new(0),
        last_used: Cell::new(Instant::now()),
        answered: Cell::new(false),
        limits: limits::Limits::new(http2),
        told: Notify::new(),
    });
    if http2 {
        serve_http2(&connection, &manager, TokioIo::new(stream)).await;
    } else {
        serve_http1(&connection, &manager, TokioIo::new(stream)).await;
    }
}

/// Answers the requests of a connection, each under the configuration in force.
fn service<A, F>(
    connection: &Rc<Connection>,
    answer: A,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response<ReplyBody>, Error = NoAnswer> + use<A, F>
where
    A: Fn(Rc<Connection>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<ReplyBody>, NoAnswer>>,
{
    let connection = connection.clone();
    service_fn(move |request: Request<Incoming>| answer(connection.clone(), request))
}

/// Answers a request, or closes without an answer what must not get one.
async fn answer(connection: Rc<Connection>, request: Request<Incoming>) -> Result<Response<ReplyBody>, NoAnswer> {
    let manager = connection.manager().ok_or(NoAnswer::Revoked)?;
    let mut response = request::handle(&connection, &manager, request).await;
    connection.answered.set(true);
    if connection.is_draining() {
        if connection.http2 && response.extensions_mut().remove::<Untouched>().is_some() {
            return Err(NoAnswer::Refused(h2::Reason::REFUSED_STREAM.into()));
        }
        if !connection.http2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        connection.told.notify_one();
    }
    Ok(response)
}

async fn serve_http1(connection: &Rc<Connection>, manager: &HttpManager, io: TokioIo<Watched>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // It would also run between requests; how long a connection may be idle is configured.
        .header_read_timeout(None)
        .max_headers(manager.common.max_headers)
        .max_header_size(manager.max_head)
        .max_buf_size(manager.max_head.max(8192))
        .preserve_header_case(manager.preserve_case)
        .half_close(true);
    let serving = builder.serve_connection(io, service(connection, answer)).with_upgrades();
    tokio::pin!(serving);
    let result = tokio::select! {
        biased;
        result = &mut serving => result,
        () = connection.limits.over() => return,
        () = over(connection, manager) => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = serving => result,
                () = connection.limits.over() => return,
            }
        }
    };
    // How a connection ends otherwise is told by the log lines of its requests.
    if let Err(error) = result
        && (error.is_parse() || error.is_parse_too_large())
    {
        unreadable(connection, manager, &error);
    }
}

async fn serve_http2(connection: &Rc<Connection>, manager: &HttpManager, io: TokioIo<Watched>) {
    let options = manager.http2;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .initial_stream_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_header_list_size(u32::try_from(manager.max_head).unwrap_or(60 * 1024));
    if options.extended_connect {
        builder.enable_connect_protocol();
    }
    if let Some(keepalive) = options.keepalive {
        builder.keep_alive_interval(keepalive.draw()).keep_alive_timeout(keepalive.timeout);
    }
    // Each answer becomes a task: what is being answered is some 15 KB, and a task moves what it runs nine times. HTTP/1
    // keeps it in one place for the whole connection.
    let boxed = |connection, request| Box::pin(answer(connection, request));
    let serving = builder.serve_connection(io, service(connection, boxed));
    let serving = async {
        tokio::pin!(serving);
        tokio::select! {
            biased;
            _ = &mut serving => {}
            () = over(connection, manager) => {
                serving.as_mut().graceful_shutdown();
                // How the connection ends is told by the log lines of its requests.
                let _ = serving.await;
            }
        }
    };
    let limits = async {
        loop {
            connection.limits.over().await;
        }
    };
    tokio::select! {
        biased;
        () = serving => {}
        () = limits => {}
    }
}

/// Until the connection is to take no more requests: the process drains, nobody used it for long, or it is too old.
async fn over(connection: &Connection, manager: &HttpManager) {
    tokio::select! {
        biased;
        () = farewell(connection) => {}
        () = unused(connection, manager.common.idle_timeout) => {}
        () = after(manager.common.max_duration) => {}
    }
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn unused(connection: &Connection, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let busy = connection.in_flight.get() > 0;
        let since = if busy { Instant::now() } else { connection.last_used.get() };
        tokio::time::sleep_until(since + limit).await;
        if connection.in_flight.get() == 0 && connection.last_used.get().elapsed() >= limit {
            return;
        }
    }
}

/// Logs a request that could not be read; hyper has answered it.
fn unreadable(connection: &Connection, manager: &HttpManager, error: &hyper::Error) {
    let mut record = crate::connection::record(&connection.about, ResponseFlags::DPE);
    record.response_code = if error.is_parse_too_large() { 431 } else { 400 };
    record.details = Some("http1.codec_error");
    manager.logs.iter().for_each(|log| log.log(&record));
    tracing::debug!(source = %connection.about.source, %error, "a request could not be read");
}

/// Waits for the moment to say goodbye. HTTP/2 says it at once, and to a connection that has had no answer yet after its
/// first one: its client would dial again and again and never get one. HTTP/1 says it in its answers, and only at the very
/// end to who is idle.
async fn farewell(connection: &Connection) {
    let mut life = connection.worker.shared.life.follow(connection.inbound);
    if !connection.http2 {
        return life.reach(Phase::Ending).await;
    }
    life.reach(Phase::Draining).await;
    if !connection.answered.get() {
        tokio::select! {
            () = connection.told.notified() => {}
            () = life.reach(Phase::Ending) => {}
        }
    }
}

/// Whether plain text is HTTP/2: the bytes have told, or the first of them are awaited.
async fn is_http2(stream: &Stream, about: &About) -> bool {
    match about.protocols.first().map(Vec::as_slice) {
        Some(b"h2c") => true,
        Some(_) => false,
        None => {
            /// A client that says nothing is cut by the header timeout later.
            const WAIT: std::time::Duration = std::time::Duration::from_secs(60);
            matches!(crate::inspect::first_bytes(stream, WAIT).await, Ok(mtls::sniff::First::Http2))
        }
    }
}

/// Runs hyper's streams on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        // Not in an `async` block: it would move the future once more.
        tokio::task::spawn_local(future);
    }
}
