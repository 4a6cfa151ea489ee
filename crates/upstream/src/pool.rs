//! Pools of HTTP connections, one set a worker thread: no lock, no hand-over between threads.

mod dial;
mod host_pool;
mod lease;
mod stream;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::watch;

use crate::body::{Body, UpstreamBody};
use crate::cluster::Cluster;
use crate::connect::Alpn;
use crate::error::{Cause, SendError};
use crate::host::Host;
use crate::proxied::Proxied;
use host_pool::HostPool;
use lease::AtHost;
pub use lease::Lease;
pub(crate) use stream::StreamBody;

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
    /// Who is served, where the cluster tells its servers; those connections serve nobody else.
    pub proxied: Option<Proxied>,
    /// Do not use a kept HTTP/1 connection: its peer is about to end.
    pub fresh: bool,
}

impl SendOptions {
    fn alpn(self) -> Alpn {
        match (self.mesh_alpn, self.version) {
            (false, _) => Alpn::Configured,
            (true, Version::Http1) => Alpn::MeshHttp1,
            (true, Version::Http2) => Alpn::MeshHttp2,
        }
    }
}

/// Cluster, host, and how they are spoken to.
type Key = (u64, u64, Version, Alpn, Option<Proxied>);

/// The pools of one worker; cheap to clone within it.
#[derive(Clone, Debug, Default)]
pub struct HttpPools(Rc<RefCell<HashMap<Key, Rc<HostPool>>>>);

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
    /// Sends a request on a pooled or new connection and waits for the head of the answer. At the limit of connections
    /// the request waits, as long as the limit of pending requests allows, for one that becomes free. Only with its
    /// connection does it count among the cluster's requests (as Envoy), and until its answer has ended.
    ///
    /// # Errors
    /// With the cause, and the request when it certainly was not sent.
    ///
    /// Requests and answers are boxed: each function on the way would hold, and move, its own copy.
    pub async fn send(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        mut request: Box<Request<Body>>,
        options: SendOptions,
    ) -> Result<Box<Answer>, SendError> {
        let pool = self.pool(cluster, host, options);
        // A pooled connection that died unused gives the request back: take the next, then a new one.
        loop {
            let at_host = AtHost::new(&pool);
            let unsent = |cause, request| SendError { cause, request: Some(request), reused: false };
            let (mut lease, fresh) = match pool.acquire(options.fresh).await {
                Ok(acquired) => acquired,
                Err(cause) => return Err(unsent(cause, request)),
            };
            let Some(permit) = cluster.request_permit() else {
                lease.give_back();
                return Err(unsent(Cause::Overflow, request));
            };
            lease.count(permit, at_host);
            match exchange(lease, request).await {
                Err(SendError { request: Some(back), .. }) if !fresh => request = back,
                Err(failed) => return Err(SendError { reused: !fresh, ..failed }),
                answered => return answered,
            }
        }
    }

    fn pool(&self, cluster: &Arc<Cluster>, host: &Arc<Host>, options: SendOptions) -> Rc<HostPool> {
        let proxied = options.proxied.filter(|_| cluster.config.proxy_protocol.is_some());
        let key = (cluster.id, host.id, options.version, options.alpn(), proxied);
        let mut pools = self.0.borrow_mut();
        let make = || Rc::new(HostPool::new(cluster.clone(), host.clone(), options.version, options.alpn(), proxied));
        pools.entry(key).or_insert_with(make).clone()
    }

    /// Closes connections that were unused for too long, are dead, or whose host or cluster is gone, the last at once
    /// when `changes` tells; runs for ever.
    pub async fn sweep(self, mut changes: watch::Receiver<()>) {
        /// Between two looks.
        const LOOK: Duration = Duration::from_secs(2);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = changes.changed() => {}
            }
            self.0.borrow_mut().retain(|_, pool| {
                pool.sweep();
                !pool.is_unused()
            });
        }
    }
}

/// One request and the head of its answer. The lease goes on with the answer's body.
async fn exchange(mut lease: Lease, request: Box<Request<Body>>) -> Result<Box<Answer>, SendError> {
    let (result, about) = lease.send(request).await;
    let response = result?.map(|answer| UpstreamBody::new(answer, lease));
    Ok(Box::new(Answer { response, local: about.local, peer_uri: about.peer_uri }))
}
