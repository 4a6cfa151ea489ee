//! Pools of HTTP connections, one set a worker thread: no lock, no hand-over between threads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::body::{Body, UpstreamBody};
use crate::cluster::Cluster;
use crate::connect::{Alpn, Connected, connect};
use crate::error::{Cause, SendError};
use crate::host::Host;

/// Unused connections kept to one host by one worker.
const MAX_IDLE: usize = 256;
/// Envoy's default idle timeout of upstream connections.
const IDLE: Duration = Duration::from_secs(3600);

/// HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How a request is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct SendOptions {
    /// HTTP version.
    pub version: Version,
    /// Offer the mesh's ALPN inside TLS (the `istio.alpn` filter is configured).
    pub mesh_alpn: bool,
}

type Key = (u64, u64, Version);

/// The pools of one worker; cheap to clone within it.
#[derive(Clone, Debug, Default)]
pub struct HttpPools(Rc<RefCell<HashMap<Key, HostPool>>>);

#[derive(Debug)]
struct HostPool {
    host: Arc<Host>,
    idle_timeout: Duration,
    http1: Vec<(Conn, Instant)>,
    http2: Vec<Rc<Shared>>,
}

/// One HTTP/1 connection.
#[derive(Debug)]
struct Conn {
    sender: http1::SendRequest<Body>,
    about: About,
    served: u32,
}

/// One HTTP/2 connection, shared by its streams.
#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<Body>,
    about: About,
    streams: std::cell::Cell<u32>,
    served: std::cell::Cell<u32>,
}

/// What is known of a connection.
#[derive(Clone, Debug)]
pub(crate) struct About {
    local: Option<SocketAddr>,
    peer_uri: Option<Arc<str>>,
}

/// The hold of one response on its connection.
#[derive(Debug)]
pub struct Lease {
    pools: HttpPools,
    key: Key,
    held: Held,
    max_requests: u32,
}

#[derive(Debug)]
enum Held {
    Http1(Conn),
    Http2(Rc<Shared>),
    Nothing,
}

impl Lease {
    /// The response has ended in order: an HTTP/1 connection may serve the next request.
    pub(crate) fn give_back(mut self) {
        if let Held::Http1(conn) = std::mem::replace(&mut self.held, Held::Nothing) {
            let spent = self.max_requests > 0 && conn.served >= self.max_requests;
            if !spent && !conn.sender.is_closed() {
                self.pools.put(self.key, conn);
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Held::Http2(shared) = &self.held {
            shared.streams.set(shared.streams.get().saturating_sub(1));
        }
    }
}

/// An answer with what is known of the connection it came on.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub response: Response<UpstreamBody>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// URI name of the verified server.
    pub peer_uri: Option<Arc<str>>,
}

impl HttpPools {
    /// Sends a request on a pooled or new connection and waits for the head of the answer.
    ///
    /// # Errors
    /// With the cause, and the request when it certainly was not sent.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        mut request: Request<Body>,
        options: SendOptions,
    ) -> Result<Answer, SendError> {
        let key = (cluster.id, host.id, options.version);
        // A pooled connection that died unused gives the request back: take the next, then a new one.
        loop {
            let pooled = self.take(key, cluster).await;
            let fresh = pooled.is_none();
            let held = match pooled {
                Some(held) => held,
                None => match self.open(key, cluster, host, options).await {
                    Ok(held) => held,
                    Err(cause) => return Err(SendError { cause, request: Some(Box::new(request)), reused: false }),
                },
            };
            match self.exchange(key, held, request, cluster).await {
                Err(SendError { request: Some(back), .. }) if !fresh => request = *back,
                Err(failed) => return Err(SendError { reused: !fresh, ..failed }),
                done => return done,
            }
        }
    }

    async fn exchange(
        &self,
        key: Key,
        held: Held,
        request: Request<Body>,
        cluster: &Cluster,
    ) -> Result<Answer, SendError> {
        let mut lease =
            Lease { pools: self.clone(), key, held, max_requests: cluster.config.max_requests_per_connection };
        let (result, about) = match &mut lease.held {
            Held::Http1(conn) => {
                conn.served += 1;
                (conn.sender.try_send_request(request).await, conn.about.clone())
            }
            Held::Http2(shared) => {
                shared.served.set(shared.served.get() + 1);
                (shared.sender.clone().try_send_request(request).await, shared.about.clone())
            }
            Held::Nothing => {
                let cause = Cause::Reset("no connection".to_owned());
                return Err(SendError { cause, request: Some(Box::new(request)), reused: false });
            }
        };
        match result {
            Ok(response) => Ok(Answer {
                response: response.map(|incoming| UpstreamBody::new(incoming, lease)),
                local: about.local,
                peer_uri: about.peer_uri,
            }),
            Err(mut failed) => {
                let request = failed.take_message().map(Box::new);
                Err(SendError { cause: cause(failed.error()), request, reused: false })
            }
        }
    }

    /// A pooled connection that is ready.
    async fn take(&self, key: Key, cluster: &Cluster) -> Option<Held> {
        loop {
            let candidate = {
                let mut pools = self.0.borrow_mut();
                let pool = pools.get_mut(&key)?;
                if key.2 == Version::Http2 {
                    let (limit, max) =
                        (cluster.config.max_concurrent_streams, cluster.config.max_requests_per_connection);
                    pool.http2.retain(|s| !s.sender.is_closed() && (max == 0 || s.served.get() < max));
                    let shared = pool.http2.iter().find(|s| s.streams.get() < limit)?;
                    shared.streams.set(shared.streams.get() + 1);
                    return Some(Held::Http2(shared.clone()));
                }
                pool.http1.pop()?.0
            };
            let mut conn = candidate;
            if conn.sender.is_ready() || (!conn.sender.is_closed() && conn.sender.ready().await.is_ok()) {
                return Some(Held::Http1(conn));
            }
        }
    }

    fn put(&self, key: Key, conn: Conn) {
        if let Some(pool) = self.0.borrow_mut().get_mut(&key)
            && pool.http1.len() < MAX_IDLE
            && !pool.host.is_removed()
        {
            pool.http1.push((conn, Instant::now()));
        }
    }

    async fn open(
        &self,
        key: Key,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        options: SendOptions,
    ) -> Result<Held, Cause> {
        let _pending = cluster.pending_permit().ok_or(Cause::Overflow)?;
        let alpn = match (options.mesh_alpn, options.version) {
            (false, _) => Alpn::Configured,
            (true, Version::Http1) => Alpn::MeshHttp1,
            (true, Version::Http2) => Alpn::MeshHttp2,
        };
        let Connected { stream, local, peer_uri, permit } = connect(cluster, host, alpn).await?;
        let about = About { local, peer_uri };
        let active = host.stats.clone();
        let protocol = |e: hyper::Error| Cause::Protocol(e.to_string());
        active.cx_active.fetch_add(1, Relaxed);
        let counted = Counted { permit, active };
        let io = TokioIo::new(stream);
        let held = match options.version {
            Version::Http1 => {
                let (sender, connection) =
                    http1::Builder::new().max_headers(256).handshake(io).await.map_err(protocol)?;
                tokio::task::spawn_local(async move {
                    let _counted = counted;
                    // An error here reaches the request that waits on this connection.
                    let _ = connection.with_upgrades().await;
                });
                Held::Http1(Conn { sender, about, served: 0 })
            }
            Version::Http2 => {
                let (sender, connection) = http2::Builder::new(LocalExecutor)
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake(io)
                    .await
                    .map_err(protocol)?;
                tokio::task::spawn_local(async move {
                    let _counted = counted;
                    let _ = connection.await;
                });
                Held::Http2(Rc::new(Shared { sender, about, streams: 1.into(), served: 0.into() }))
            }
        };
        let mut pools = self.0.borrow_mut();
        let pool = pools.entry(key).or_insert_with(|| HostPool {
            host: host.clone(),
            idle_timeout: cluster.config.idle_timeout.unwrap_or(IDLE),
            http1: Vec::new(),
            http2: Vec::new(),
        });
        if let Held::Http2(shared) = &held {
            pool.http2.push(shared.clone());
        }
        Ok(held)
    }

    /// Closes connections that were unused for too long, are dead, or whose host is gone; runs for ever.
    pub async fn sweep(self) {
        /// Between two looks.
        const LOOK: Duration = Duration::from_secs(2);
        loop {
            tokio::time::sleep(LOOK).await;
            self.0.borrow_mut().retain(|_, pool| {
                let gone = pool.host.is_removed();
                let idle = pool.idle_timeout;
                pool.http1.retain(|(conn, since)| !gone && !conn.sender.is_closed() && since.elapsed() < idle);
                pool.http2.retain(|shared| !(shared.sender.is_closed() || gone && shared.streams.get() == 0));
                !(pool.http1.is_empty() && pool.http2.is_empty())
            });
        }
    }
}

/// Counts a connection while it lives.
struct Counted {
    #[expect(dead_code, reason = "held for its drop")]
    permit: crate::cluster::Permit,
    active: Arc<crate::host::HostStats>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.active.cx_active.fetch_sub(1, Relaxed);
    }
}

fn cause(error: &hyper::Error) -> Cause {
    if error.is_parse() || error.is_parse_too_large() {
        return Cause::Protocol(error.to_string());
    }
    Cause::Reset(std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string))
}

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
