//! The body of an answer, as hyper asks for it. One whose time has a limit is watched: hyper asks for nothing while the client
//! does not read, and the time must run out then too (as Envoy's stream idle timeout and route timeout). See `limits`.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use upstream::UpstreamBody;

use super::body::{Broken, Live};
use super::exchange::Exchange;

/// A body that is taken away when its time is over.
pub(super) type Shared = RefCell<Option<Live>>;

/// The body of an answer.
pub(crate) enum ReplyBody {
    /// Nobody but hyper has it.
    Free(Box<Live>),
    /// Gone when its time was over.
    Watched(Rc<Shared>),
}

impl ReplyBody {
    /// A body that nobody waits for.
    pub(crate) fn bare(body: Bytes) -> Self {
        Self::Free(Box::new(Live::bare(body)))
    }

    pub(crate) fn local(body: Bytes, exchange: Box<Exchange>) -> Self {
        Self::Free(Box::new(Live::local(body, exchange)))
    }

    pub(crate) fn upstream(body: UpstreamBody, exchange: Box<Exchange>, deadline: Option<Instant>) -> Self {
        let connection = exchange.connection.clone();
        let live = Live::upstream(body, exchange, deadline);
        let Some(until) = live.until() else { return Self::Free(Box::new(live)) };
        let shared = Rc::new(RefCell::new(Some(live)));
        connection.limits.answer(&shared, until);
        Self::Watched(shared)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Free(live) => Pin::new(live).poll_frame(cx),
            Self::Watched(shared) => match shared.borrow_mut().as_mut() {
                Some(live) => Pin::new(live).poll_frame(cx),
                None => Poll::Ready(Some(Err(Broken("its time was over")))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Free(live) => live.is_end_stream(),
            Self::Watched(shared) => shared.borrow().as_ref().is_some_and(Live::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Free(live) => live.size_hint(),
            Self::Watched(shared) => shared.borrow().as_ref().map_or_else(SizeHint::default, Live::size_hint),
        }
    }
}
