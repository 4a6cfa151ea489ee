//! The body of an answer, as hyper asks for it. One whose silence has a limit is watched: hyper asks for nothing while the
//! client does not read, and the time must run out then too (as Envoy's stream idle timeout).

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use upstream::UpstreamBody;

use super::Connection;
use super::body::{Broken, Live};
use super::exchange::Exchange;

type Shared = RefCell<Option<Live>>;

/// The body of an answer.
pub(crate) enum ReplyBody {
    /// Nobody but hyper has it.
    Free(Live),
    /// Gone when its silence was too long.
    Watched(Rc<Shared>),
}

impl ReplyBody {
    /// A body that nobody waits for.
    pub(crate) fn bare(body: Bytes) -> Self {
        Self::Free(Live::bare(body))
    }

    pub(crate) fn local(body: Bytes, exchange: Box<Exchange>) -> Self {
        Self::Free(Live::local(body, exchange))
    }

    pub(crate) fn upstream(body: UpstreamBody, exchange: Box<Exchange>, deadline: Option<Instant>) -> Self {
        let connection = exchange.connection.clone();
        let live = Live::upstream(body, exchange, deadline);
        if live.idle().is_none() {
            return Self::Free(live);
        }
        let shared = Rc::new(RefCell::new(Some(live)));
        tokio::task::spawn_local(watch(connection, Rc::downgrade(&shared)));
        Self::Watched(shared)
    }
}

/// Takes the body away when nothing has moved for too long: the upstream is let go at once. HTTP/1 has nothing else on the
/// connection and ends it; a stream of HTTP/2 is reset when hyper comes for its next piece.
async fn watch(connection: Rc<Connection>, body: Weak<Shared>) {
    loop {
        let Some(idle) = body.upgrade().and_then(|shared| shared.borrow().as_ref()?.idle().cloned()) else { return };
        idle.over().await;
        let Some(shared) = body.upgrade() else { return };
        // While time was read the body may have moved.
        if Instant::now() < idle.until() {
            continue;
        }
        let Some(live) = shared.borrow_mut().take() else { return };
        live.end_of_silence();
        if !connection.http2 {
            connection.stuck.notify_one();
        }
        return;
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
                None => Poll::Ready(Some(Err(Broken("stream_idle_timeout")))),
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
