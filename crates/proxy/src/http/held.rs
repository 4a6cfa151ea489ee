//! The body of an answer, as hyper asks for it. One whose silence has a limit is watched: hyper asks for nothing while the
//! client does not read, and the time must run out then too (as Envoy's stream idle timeout).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;
use upstream::UpstreamBody;

use super::body::{Broken, Live};
use super::exchange::Exchange;
use super::idle::Idle;

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
        let until = live.idle().map(Idle::until);
        let shared = Rc::new(RefCell::new(Some(live)));
        until.into_iter().for_each(|until| connection.silences.add(&shared, until));
        Self::Watched(shared)
    }
}

/// The answers of one connection whose silence has a limit; the connection's own task watches them.
#[derive(Default)]
pub(super) struct Silences {
    answers: RefCell<Vec<Weak<Shared>>>,
    /// When the first of them may have been silent for too long.
    next: Cell<Option<Instant>>,
    /// Told when that has become earlier.
    earlier: Notify,
}

impl std::fmt::Debug for Silences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Silences").field("next", &self.next.get()).finish_non_exhaustive()
    }
}

impl Silences {
    fn add(&self, answer: &Rc<Shared>, until: Instant) {
        let mut answers = self.answers.borrow_mut();
        if answers.len() == answers.capacity() {
            answers.retain(|known| known.strong_count() > 0);
        }
        answers.push(Rc::downgrade(answer));
        if self.next.get().is_none_or(|next| until < next) {
            self.next.set(Some(until));
            self.earlier.notify_one();
        }
    }

    /// Takes bodies away of which nothing has moved for too long, so that their upstreams are let go at once. Ready when
    /// there was one: HTTP/1 has nothing else on the connection and ends it; a stream of HTTP/2 is reset when hyper comes
    /// for its next piece.
    pub(super) async fn over(&self) {
        loop {
            let Some(next) = self.next.get() else {
                self.earlier.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.earlier.notified() => continue,
            }
            if self.sweep(Instant::now()) {
                return;
            }
        }
    }

    /// Ends what is silent for too long; `true` when something was.
    fn sweep(&self, now: Instant) -> bool {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        self.answers.borrow_mut().retain(|answer| {
            let Some(answer) = answer.upgrade() else { return false };
            let Some(until) = answer.borrow().as_ref().and_then(Live::idle).map(Idle::until) else { return false };
            if until <= now {
                over.push(answer);
                return false;
            }
            next = Some(next.map_or(until, |next| next.min(until)));
            true
        });
        self.next.set(next);
        over.iter().filter_map(|answer| answer.borrow_mut().take()).map(Live::end_of_silence).count() > 0
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_over_leave_nothing_behind() {
        let silences = Silences::default();
        let limit = Duration::from_secs(300);
        let open: Rc<Shared> = Rc::default();
        silences.add(&open, Instant::now() + limit);
        for _ in 0..10_000 {
            silences.add(&Rc::default(), Instant::now() + limit);
        }
        assert!(silences.answers.borrow().len() < 10, "{}", silences.answers.borrow().len());
        assert!(!silences.sweep(Instant::now() + limit), "nothing was silent: all have ended");
        assert_eq!(silences.next.get(), None);
    }
}
