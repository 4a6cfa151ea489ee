//! The hold of one request and its answer on a connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::time::Instant;

use super::dial::{Connection, Life};
use super::host_pool::HostPool;
use crate::body::Body;
use crate::cluster::Permit;
use crate::config::ClusterConfig;

/// What is known of a connection.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(super) local: Option<SocketAddr>,
    pub(super) peer_uri: Option<Arc<str>>,
}

/// One HTTP/1 connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) sender: http1::SendRequest<Body>,
    pub(super) about: About,
    pub(super) served: u32,
    pub(super) born: Instant,
    /// Its count among the connections.
    pub(super) life: Rc<Life>,
}

/// One HTTP/2 connection, shared by its streams.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<Body>,
    pub(super) about: About,
    pub(super) streams: Cell<u32>,
    pub(super) served: Cell<u32>,
    /// Owned by the connection's task; asked how many streams the peer allows at once.
    pub(super) connection: Weak<RefCell<Connection>>,
    pub(super) born: Instant,
    /// When the last stream ended.
    pub(super) last_used: Cell<Instant>,
    /// It failed a request: no other goes out on it.
    pub(super) failed: Cell<bool>,
}

impl Shared {
    /// Whether it can take one more stream.
    pub(super) fn has_room(&self, limit: u32) -> bool {
        let streams = self.streams.get();
        // The peer's settings may have come since the last request: they are read where hyper keeps them.
        let peer = || self.connection.upgrade().map_or(0, |c| c.borrow().current_max_send_streams());
        streams < limit && (streams as usize) < peer()
    }

    /// Whether it serves on, by the requests and the time of its life.
    pub(super) fn is_alive(&self, config: &ClusterConfig) -> bool {
        let max = config.max_requests_per_connection;
        !self.failed.get()
            && !self.sender.is_closed()
            && (max == 0 || self.served.get() < max)
            && config.max_connection_duration.is_none_or(|longest| self.born.elapsed() < longest)
    }
}

/// A connection held by a request.
#[derive(Debug)]
pub(super) enum Held {
    Http1(Conn),
    Http2(Rc<Shared>),
    Nothing,
}

/// Counts a request at its host, from the moment it waits for a connection: least-request balancing looks at it.
#[derive(Debug)]
pub(super) struct AtHost(Rc<HostPool>);

impl AtHost {
    pub(super) fn new(pool: &Rc<HostPool>) -> Self {
        pool.host.stats.rq_active.fetch_add(1, Relaxed);
        Self(pool.clone())
    }
}

impl Drop for AtHost {
    fn drop(&mut self) {
        self.0.host.stats.rq_active.fetch_sub(1, Relaxed);
    }
}

/// The hold of one response on its connection.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<HostPool>,
    held: Held,
    /// Its request's places among the requests of the cluster and of the host.
    places: Option<(Permit, AtHost)>,
}

impl Lease {
    pub(super) fn http1(pool: Rc<HostPool>, conn: Conn) -> Self {
        Self { pool, held: Held::Http1(conn), places: None }
    }

    /// One more stream of a shared connection.
    pub(super) fn http2(pool: Rc<HostPool>, shared: Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self { pool, held: Held::Http2(shared), places: None }
    }

    /// Counts its request as long as it lasts.
    pub(super) fn count(&mut self, permit: Permit, at_host: AtHost) {
        self.places = Some((permit, at_host));
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> (Result<Response<Incoming>, TrySendError<Request<Body>>>, About) {
        let (sending, about) = match &mut self.held {
            Held::Http1(conn) => {
                conn.served += 1;
                let connect = request.method() == Method::CONNECT;
                let upgrades = connect || request.headers().contains_key(header::UPGRADE);
                conn.life.upgrading(upgrades);
                let result = conn.sender.try_send_request(request).await;
                let upgraded = |r: &Response<Incoming>| is_upgraded(connect, r.status());
                conn.life.upgrading(upgrades && result.as_ref().is_ok_and(upgraded));
                (result, conn.about.clone())
            }
            Held::Http2(shared) => {
                shared.served.set(shared.served.get() + 1);
                let result = shared.sender.clone().try_send_request(request).await;
                // A refused stream says nothing of the connection; anything else ends its use.
                if result.as_ref().is_err_and(|e| !crate::error::is_stream_reset(e.error())) {
                    shared.failed.set(true);
                }
                (result, shared.about.clone())
            }
            Held::Nothing => unreachable!("only `give_back`, which consumes the lease, takes its connection"),
        };
        (sending, about)
    }

    /// Whether the connection has become another protocol's: it lasts as long as the lease.
    pub(crate) fn is_upgraded(&self) -> bool {
        matches!(&self.held, Held::Http1(conn) if conn.life.is_upgraded())
    }

    /// The response has ended in order: an HTTP/1 connection may serve the next request. A stream ends by the drop.
    pub(crate) fn give_back(mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Http1(conn) => self.pool.put(conn),
            stream => self.held = stream,
        }
    }
}

/// Whether an answer ends HTTP on its connection (RFC 9110, 15.2.2 and 9.3.6).
fn is_upgraded(connect: bool, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || connect && status.is_success()
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::Http2(shared) = &self.held {
            shared.streams.set(shared.streams.get().saturating_sub(1));
            shared.last_used.set(Instant::now());
            self.pool.wake_one();
        }
    }
}
