//! The connections of one worker to one host.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Version;
use super::dial::Dialing;
use super::lease::{Conn, Lease, Shared};
use crate::cluster::{Cluster, Permit};
use crate::connect::Alpn;
use crate::error::Cause;
use crate::host::Host;
use crate::proxied::Proxied;

/// Unused connections kept to one host by one worker.
const MAX_IDLE: usize = 256;
/// Envoy's default idle timeout of upstream connections.
const IDLE: Duration = Duration::from_secs(3600);

/// The connections of one worker to one host.
#[derive(Debug)]
pub(super) struct HostPool {
    pub(super) cluster: Arc<Cluster>,
    pub(super) host: Arc<Host>,
    pub(super) version: Version,
    pub(super) alpn: Alpn,
    /// Whom the connections are for, where servers are told.
    pub(super) proxied: Option<Proxied>,
    /// HTTP/1 connections that wait for a request; the last was used last.
    idle: RefCell<Vec<(Conn, Instant)>>,
    /// HTTP/2 connections.
    pub(super) shared: RefCell<Vec<Rc<Shared>>>,
    /// Connections that live, those being dialled included.
    pub(super) open: Cell<u32>,
    /// Connections being dialled.
    pub(super) dialing: Cell<u32>,
    /// Dials that failed, and why the last one did: those who waited for it fail with it.
    pub(super) failures: Cell<u64>,
    pub(super) failure: RefCell<Option<Cause>>,
    waiting: Cell<u32>,
    changed: Notify,
}

impl HostPool {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        host: Arc<Host>,
        version: Version,
        alpn: Alpn,
        proxied: Option<Proxied>,
    ) -> Self {
        Self {
            cluster,
            host,
            version,
            alpn,
            proxied,
            idle: RefCell::default(),
            shared: RefCell::default(),
            open: Cell::new(0),
            dialing: Cell::new(0),
            failures: Cell::new(0),
            failure: RefCell::default(),
            waiting: Cell::new(0),
            changed: Notify::new(),
        }
    }

    /// A connection for one request, and whether it is new: a pooled one, else a new one where the limits allow, else
    /// the first that becomes free. `fresh` passes idle HTTP/1 connections over, and closes them.
    pub(super) async fn acquire(self: &Rc<Self>, fresh: bool) -> Result<(Lease, bool), Cause> {
        if fresh {
            self.idle.borrow_mut().clear();
        }
        match self.take() {
            Some(lease) => Ok((lease, false)),
            // To connect is long in every respect: the state of it would be part of every request's.
            None => Box::pin(self.acquire_later()).await,
        }
    }

    /// The same where nothing is ready.
    async fn acquire_later(self: &Rc<Self>) -> Result<(Lease, bool), Cause> {
        self.cluster.stats.rq_pending_total.fetch_add(1, Relaxed);
        let _pending = self.cluster.pending_permit().ok_or(Cause::Overflow)?;
        if !self.idle.borrow().is_empty() {
            // A connection just given back is ready once its task has run.
            tokio::task::yield_now().await;
        }
        loop {
            if let Some(lease) = self.take() {
                return Ok((lease, false));
            }
            if let Some(permit) = self.may_dial() {
                return self.dial(permit).await.map(|lease| (lease, true));
            }
            let unready = self.idle.borrow_mut().pop();
            if let Some((mut conn, _)) = unready {
                if conn.sender.ready().await.is_ok() {
                    return Ok((Lease::http1(self.clone(), conn), false));
                }
                continue;
            }
            self.wait().await?;
        }
    }

    /// A pooled connection that is ready.
    fn take(self: &Rc<Self>) -> Option<Lease> {
        let config = &self.cluster.config;
        match self.version {
            Version::Http1 => {
                let mut idle = self.idle.borrow_mut();
                if let Some(max) = config.max_connection_duration {
                    idle.retain(|(conn, _)| conn.born.elapsed() < max);
                }
                if !idle.last()?.0.sender.is_ready() {
                    idle.retain(|(conn, _)| !conn.sender.is_closed());
                }
                let at = idle.iter().rposition(|(conn, _)| conn.sender.is_ready())?;
                let (conn, _) = idle.remove(at);
                Some(Lease::http1(self.clone(), conn))
            }
            Version::Http2 => {
                let mut shared = self.shared.borrow_mut();
                shared.retain(|s| s.is_alive(config));
                let found = shared.iter().find(|s| s.has_room(config.max_concurrent_streams))?.clone();
                Some(Lease::http2(self.clone(), found))
            }
        }
    }

    /// A place for one more connection. HTTP/2 requests share the one being dialled.
    fn may_dial(&self) -> Option<Permit> {
        if self.version == Version::Http2 && self.dialing.get() > 0 {
            return None;
        }
        let permit = self.cluster.connection_permit();
        permit.or_else(|| (self.open.get() == 0).then(|| self.cluster.first_connection_permit()))
    }

    async fn dial(self: &Rc<Self>, permit: Permit) -> Result<Lease, Cause> {
        let dialled = Dialing::new(self).run(permit).await;
        if let Err(cause) = &dialled {
            self.failures.set(self.failures.get() + 1);
            *self.failure.borrow_mut() = Some(cause.clone());
        }
        match self.version {
            // Who waited for the dial shares its result.
            Version::Http2 => self.changed.notify_waiters(),
            Version::Http1 if dialled.is_err() => self.wake_one(),
            Version::Http1 => {}
        }
        dialled
    }

    /// Waits until a connection becomes free or ends. There is one, or we should have dialled.
    async fn wait(&self) -> Result<(), Cause> {
        /// Counts a waiter even if its request is given up.
        struct Waiting<'a>(&'a Cell<u32>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let before = self.failures.get();
        self.waiting.set(self.waiting.get() + 1);
        let waiting = Waiting(&self.waiting);
        self.changed.notified().await;
        drop(waiting);
        match &*self.failure.borrow() {
            Some(cause) if self.version == Version::Http2 && self.failures.get() > before => Err(cause.clone()),
            _ => Ok(()),
        }
    }

    /// Tells one waiter that something became free.
    pub(super) fn wake_one(&self) {
        if self.waiting.get() > 0 {
            self.changed.notify_one();
        }
    }

    /// Takes an HTTP/1 connection back; one that may not serve on is dropped, which closes it.
    pub(super) fn put(&self, conn: Conn) {
        let max = self.cluster.config.max_requests_per_connection;
        if max > 0 && conn.served >= max {
            self.cluster.stats.cx_max_requests.fetch_add(1, Relaxed);
            return;
        }
        if self.cluster.config.max_connection_duration.is_some_and(|max| conn.born.elapsed() >= max) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE && !self.is_retired() && !conn.sender.is_closed() {
            idle.push((conn, Instant::now()));
            self.wake_one();
        }
    }

    fn is_retired(&self) -> bool {
        self.host.is_removed() || self.cluster.is_retired()
    }

    /// Lets go of connections that are dead, unused for too long, or retired; requests in flight finish.
    pub(super) fn sweep(&self) {
        if self.is_retired() {
            self.idle.borrow_mut().clear();
            self.shared.borrow_mut().clear();
            return;
        }
        let limit = self.cluster.config.idle_timeout.unwrap_or(IDLE);
        let fresh = |since: Instant| {
            let fresh = since.elapsed() < limit;
            if !fresh {
                self.cluster.stats.cx_idle_timeout.fetch_add(1, Relaxed);
            }
            fresh
        };
        let config = &self.cluster.config;
        let young = |born: Instant| config.max_connection_duration.is_none_or(|max| born.elapsed() < max);
        self.idle.borrow_mut().retain(|(conn, since)| !conn.sender.is_closed() && young(conn.born) && fresh(*since));
        self.shared.borrow_mut().retain(|s| s.is_alive(config) && (s.streams.get() > 0 || fresh(s.last_used.get())));
    }

    /// Whether nothing lives in it and nobody waits.
    pub(super) fn is_unused(&self) -> bool {
        self.open.get() == 0 && self.waiting.get() == 0
    }
}
