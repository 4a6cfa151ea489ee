//! A new connection of a pool: connect, agree on HTTP, and leave the connection to a task of this thread.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use h2::{Ping, PingPong};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Version;
use super::host_pool::HostPool;
use super::lease::{About, Conn, Lease, Shared};
use crate::cluster::Permit;
use crate::config::Http2Keepalive;
use crate::connect::{Connected, Transport, connect_with};
use crate::error::Cause;
use crate::host::HostStats;

/// Header fields of one answer at the most.
const MAX_HEADERS: usize = 256;
/// HTTP/2 windows: what a stream, and a connection, may send ahead of us.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of an HTTP/2 answer's head at the most (Envoy's `max_response_headers_kb`).
const MAX_HEAD: u32 = 60 << 10;

/// A connection being dialled; counted even if the request that dials is given up.
pub(super) struct Dialing<'a> {
    pool: &'a Rc<HostPool>,
    done: bool,
}

impl<'a> Dialing<'a> {
    pub(super) fn new(pool: &'a Rc<HostPool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        pool.dialing.set(pool.dialing.get() + 1);
        Self { pool, done: false }
    }

    /// Dials. From then on the connection counts itself.
    pub(super) async fn run(mut self, permit: Permit) -> Result<Lease, Cause> {
        let pool = self.pool;
        let connected = connect_with(&pool.cluster, &pool.host, pool.alpn, pool.proxied.as_ref(), permit).await?;
        let lease = match pool.version {
            Version::Http1 => http1(pool, connected).await?,
            Version::Http2 => http2(pool, connected).await?,
        };
        self.done = true;
        Ok(lease)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.pool.dialing.set(self.pool.dialing.get() - 1);
        if !self.done {
            self.pool.open.set(self.pool.open.get() - 1);
            self.pool.wake_one();
        }
    }
}

/// Counts a connection while it lives.
#[derive(Debug)]
struct Living {
    /// Gone when nobody uses the pool any more; the connection must not keep it, or neither would ever end.
    pool: Weak<HostPool>,
    stats: Arc<HostStats>,
    _permit: Permit,
}

impl Living {
    fn new(pool: &Rc<HostPool>, permit: Permit) -> Self {
        let stats = pool.host.stats.clone();
        stats.cx_active.fetch_add(1, Relaxed);
        Self { pool: Rc::downgrade(pool), stats, _permit: permit }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.stats.cx_active.fetch_sub(1, Relaxed);
        if let Some(pool) = self.pool.upgrade() {
            pool.open.set(pool.open.get() - 1);
            pool.wake_one();
        }
    }
}

/// The count of an HTTP/1 connection: while its task runs and, once it has become another protocol's, while its lease lasts.
#[derive(Debug)]
pub(super) struct Life {
    living: RefCell<Option<Living>>,
    upgraded: Cell<bool>,
}

impl Life {
    fn new(living: Living) -> Rc<Self> {
        Rc::new(Self { living: RefCell::new(Some(living)), upgraded: Cell::new(false) })
    }

    /// The task has ended.
    fn end(&self) {
        if !self.upgraded.get() {
            self.living.take();
        }
    }

    /// Whether the connection is becoming another protocol's; its task ends before the one that asked hears of it.
    pub(super) fn upgrading(&self, upgrading: bool) {
        self.upgraded.set(upgrading);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.get()
    }
}

async fn http1(pool: &Rc<HostPool>, connected: Connected) -> Result<Lease, Cause> {
    let Connected { stream, local, peer_uri, permit } = connected;
    let (sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .preserve_header_case(pool.cluster.config.preserve_case)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(protocol)?;
    pool.cluster.stats.cx_http1_total.fetch_add(1, Relaxed);
    let life = Life::new(Living::new(pool, permit));
    let of_task = life.clone();
    tokio::task::spawn_local(async move {
        // An error here reaches the request that waits on this connection.
        let _ = connection.with_upgrades().await;
        of_task.end();
    });
    let about = About { local, peer_uri };
    Ok(Lease::http1(pool.clone(), Conn { sender, about, served: 0, born: Instant::now(), life }))
}

async fn http2(pool: &Rc<HostPool>, connected: Connected) -> Result<Lease, Cause> {
    let Connected { stream, local, peer_uri, permit } = connected;
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD);
    let (sender, connection) = builder.handshake(stream).await.map_err(|error| Cause::Protocol(error.to_string()))?;
    pool.cluster.stats.cx_http2_total.fetch_add(1, Relaxed);
    let shared = Rc::new(Shared {
        sender,
        about: About { local, peer_uri },
        streams: Cell::new(0),
        served: Cell::new(0),
        born: Instant::now(),
        last_used: Cell::new(Instant::now()),
        over: Rc::default(),
    });
    let (living, over) = (Living::new(pool, permit), shared.over.clone());
    let keepalive = pool.cluster.config.http2_keepalive;
    tokio::task::spawn_local(async move {
        run(connection, keepalive).await;
        over.set(true);
        drop(living);
    });
    pool.shared.borrow_mut().push(shared.clone());
    Ok(Lease::http2(pool.clone(), shared))
}

/// Runs a connection until it ends, or its peer is found to be gone.
async fn run(mut connection: h2::client::Connection<Transport>, keepalive: Option<Http2Keepalive>) {
    let pings = keepalive.zip(connection.ping_pong());
    let silent = async {
        match pings {
            Some((keepalive, pings)) => silence(keepalive, pings).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // An error here reaches the requests that wait on this connection.
        _ = connection => {}
        () = silent => {}
    }
}

/// Until a ping has no answer in time.
async fn silence(keepalive: Http2Keepalive, mut pings: PingPong) {
    loop {
        tokio::time::sleep(keepalive.draw()).await;
        let answered = tokio::time::timeout(keepalive.timeout, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

fn protocol(error: hyper::Error) -> Cause {
    Cause::Protocol(error.to_string())
}
