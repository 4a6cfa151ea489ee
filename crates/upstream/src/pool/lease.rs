//! The hold of one request and its answer on a connection.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::client::conn::http1;
use tokio::time::Instant;

use super::dial::Life;
use super::host_pool::HostPool;
use super::stream;
use crate::body::{AnswerBody, Body};
use crate::cluster::Permit;
use crate::config::ClusterConfig;
use crate::error::{Cause, SendError};

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
    pub(super) sender: h2::client::SendRequest<Bytes>,
    pub(super) about: About,
    pub(super) streams: Cell<u32>,
    pub(super) served: Cell<u32>,
    pub(super) born: Instant,
    /// When the last stream ended.
    pub(super) last_used: Cell<Instant>,
    /// It failed a request, or has ended: no other goes out on it.
    pub(super) over: Rc<Cell<bool>>,
}

impl Shared {
    /// Whether it can take one more stream.
    pub(super) fn has_room(&self, limit: u32) -> bool {
        let streams = self.streams.get();
        streams < limit && (streams as usize) < self.sender.current_max_send_streams()
    }

    /// Whether it serves on, by the requests and the time of its life.
    pub(super) fn is_alive(&self, config: &ClusterConfig) -> bool {
        let max = config.max_requests_per_connection;
        !self.over.get()
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
        request: Box<Request<Body>>,
    ) -> (Result<Response<AnswerBody>, SendError>, About) {
        match &mut self.held {
            Held::Http1(conn) => {
                conn.served += 1;
                let connect = request.method() == Method::CONNECT;
                let upgrades = connect || request.headers().contains_key(header::UPGRADE);
                conn.life.upgrading(upgrades);
                let result = conn.sender.try_send_request(*request).await;
                let upgraded = |status| is_upgraded(connect, status);
                conn.life.upgrading(upgrades && result.as_ref().is_ok_and(|answer| upgraded(answer.status())));
                let result = result.map(|answer| answer.map(AnswerBody::Http1)).map_err(|mut failed| {
                    let request = failed.take_message().map(Box::new);
                    SendError { cause: Cause::of_http1(failed.error()), request, reused: false }
                });
                (result, conn.about.clone())
            }
            Held::Http2(shared) => {
                shared.served.set(shared.served.get() + 1);
                let result = stream::exchange(shared.sender.clone(), request).await.map_err(|failed| {
                    if failed.ends_connection {
                        shared.over.set(true);
                    }
                    failed.error
                });
                (result.map(|answer| answer.map(AnswerBody::Http2)), shared.about.clone())
            }
            Held::Nothing => unreachable!("only `give_back`, which consumes the lease, takes its connection"),
        }
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
            let others = shared.streams.get().saturating_sub(1);
            shared.streams.set(others);
            if others == 0 {
                shared.last_used.set(Instant::now());
            }
            self.pool.wake_one();
        }
    }
}
