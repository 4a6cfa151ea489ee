//! The hold of one request and its answer on a connection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::time::Instant;

use super::dial::Connection;
use super::host_pool::HostPool;
use crate::body::Body;
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

/// The hold of one response on its connection.
#[derive(Debug)]
pub struct Lease {
    pool: Rc<HostPool>,
    held: Held,
}

impl Lease {
    pub(super) fn http1(pool: Rc<HostPool>, conn: Conn) -> Self {
        Self { pool, held: Held::Http1(conn) }
    }

    /// One more stream of a shared connection.
    pub(super) fn http2(pool: Rc<HostPool>, shared: Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self { pool, held: Held::Http2(shared) }
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> (Result<Response<Incoming>, TrySendError<Request<Body>>>, About) {
        let (sending, about) = match &mut self.held {
            Held::Http1(conn) => {
                conn.served += 1;
                (conn.sender.try_send_request(request).await, conn.about.clone())
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

    /// The response has ended in order: an HTTP/1 connection may serve the next request. A stream ends by the drop.
    pub(crate) fn give_back(mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Http1(conn) => self.pool.put(conn),
            stream => self.held = stream,
        }
    }
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
