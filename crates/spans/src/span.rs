//! A finished span.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::context::TraceContext;

/// Which end of a call a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The caller's.
    Client,
    /// The one who is called.
    Server,
}

/// What all spans of one exporter have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Name of the service, such as `order-service.default`.
    pub service: Arc<str>,
    /// Further attributes of it.
    pub attributes: Vec<(String, String)>,
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place.
    pub context: TraceContext,
    /// Which end.
    pub side: Side,
    /// The operation, such as `payment-api.default.svc.cluster.local:8080/*`.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Our own address.
    pub local: SocketAddr,
    /// Tags in the order of their making.
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// It failed.
    pub error: bool,
}

impl Span {
    /// Beginning and end in nanoseconds since 1970.
    pub(crate) fn nanos(&self) -> (u64, u64) {
        let since = self.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        (nanos(since), nanos(since.saturating_add(self.duration)))
    }
}
