//! The times of a connection's requests and answers. The connection's own task watches them with one timer: a timer for each
//! would be made and thrown away with every request.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::body::Live;
use super::held::Shared;
use super::idle::Idle;

/// What is watched on one connection.
pub(super) struct Limits {
    watched: RefCell<Vec<Watched>>,
    /// When the time of the first of them may be over.
    next: Cell<Option<Instant>>,
    /// Woken when that has become earlier. Not where requests are served by the very task that watches: it looks anyway,
    /// after it has served.
    watcher: Cell<Option<Waker>>,
    apart: bool,
}

enum Watched {
    Request(Weak<Waiting>),
    Answer(Weak<Shared>),
}

impl Watched {
    fn lives(&self) -> bool {
        match self {
            Self::Request(request) => request.strong_count() > 0,
            Self::Answer(answer) => answer.strong_count() > 0,
        }
    }

    /// When its time is over, if nothing moves until then; `None` when it has ended.
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Request(request) => request.upgrade().map(|request| request.idle.until()),
            Self::Answer(answer) => answer.upgrade()?.borrow().as_ref().and_then(Live::until),
        }
    }

    /// Ends it; `true` for an answer that had begun.
    fn end(&self) -> bool {
        match self {
            Self::Request(request) => {
                if let Some(request) = request.upgrade() {
                    request.end();
                }
                false
            }
            Self::Answer(answer) => {
                let live = answer.upgrade().and_then(|answer| answer.borrow_mut().take());
                live.map(Live::end).is_some()
            }
        }
    }
}

/// A request that has no answer yet.
pub(super) struct Waiting {
    idle: Idle,
    over: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Waiting {
    fn end(&self) {
        self.over.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Until nothing has moved for too long.
    pub(super) async fn over(&self) {
        std::future::poll_fn(|cx| {
            if self.over.get() {
                return Poll::Ready(());
            }
            keep(&self.waker, cx.waker());
            Poll::Pending
        })
        .await;
    }
}

/// Remembers whom to wake; the same one is not made anew.
fn keep(kept: &Cell<Option<Waker>>, waker: &Waker) {
    let known = kept.take().filter(|known| known.will_wake(waker));
    kept.set(Some(known.unwrap_or_else(|| waker.clone())));
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("next", &self.next.get()).finish_non_exhaustive()
    }
}

impl Limits {
    /// `apart` where other tasks than the one that watches serve the requests.
    pub(super) fn new(apart: bool) -> Self {
        Self { watched: RefCell::default(), next: Cell::new(None), watcher: Cell::new(None), apart }
    }

    /// Watches the silence of a request that has no answer yet.
    pub(super) fn request(&self, idle: Idle) -> Rc<Waiting> {
        let until = idle.until();
        let waiting = Rc::new(Waiting { idle, over: Cell::new(false), waker: Cell::new(None) });
        self.add(Watched::Request(Rc::downgrade(&waiting)), until);
        waiting
    }

    /// Watches an answer, whose time is over then at the earliest.
    pub(super) fn answer(&self, answer: &Rc<Shared>, until: Instant) {
        self.add(Watched::Answer(Rc::downgrade(answer)), until);
    }

    fn add(&self, new: Watched, until: Instant) {
        let mut watched = self.watched.borrow_mut();
        if watched.len() == watched.capacity() {
            watched.retain(Watched::lives);
        }
        watched.push(new);
        if self.next.get().is_none_or(|next| until < next) {
            self.next.set(Some(until));
            self.watcher.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Tells requests whose time is over, and takes the bodies of answers away, so that their upstreams are let go at once.
    /// Ready when there was such an answer: HTTP/1 has nothing else on the connection and ends it; a stream of HTTP/2 is
    /// reset when hyper comes for its next piece.
    pub(super) async fn over(&self) {
        let timer = tokio::time::sleep_until(Instant::now());
        tokio::pin!(timer);
        std::future::poll_fn(|cx| {
            loop {
                if self.apart {
                    keep(&self.watcher, cx.waker());
                }
                let Some(next) = self.next.get() else { return Poll::Pending };
                if timer.deadline() != next {
                    timer.as_mut().reset(next);
                }
                std::task::ready!(timer.as_mut().poll(cx));
                if self.sweep(Instant::now()) {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }

    /// Ends what has had its time; `true` when an answer had.
    fn sweep(&self, now: Instant) -> bool {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        let mut kept = Vec::new();
        for watched in self.watched.take() {
            match watched.until() {
                Some(until) if until <= now => over.push(watched),
                Some(until) => {
                    next = Some(next.map_or(until, |next| next.min(until)));
                    kept.push(watched);
                }
                None => {}
            }
        }
        self.watched.replace(kept);
        self.next.set(next);
        over.iter().filter(|watched| watched.end()).count() > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_over_leave_nothing_behind() {
        let limits = Limits::new(true);
        let open: Rc<Shared> = Rc::default();
        limits.answer(&open, Instant::now() + LIMIT);
        for _ in 0..10_000 {
            limits.answer(&Rc::default(), Instant::now() + LIMIT);
        }
        assert!(limits.watched.borrow().len() < 10, "{}", limits.watched.borrow().len());
        assert!(!limits.sweep(Instant::now() + LIMIT), "nothing was late: all have ended");
        assert_eq!(limits.next.get(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_request_is_told_and_one_that_moves_is_not() {
        let limits = Limits::new(true);
        let (silent, moving) = (Idle::new(LIMIT, Instant::now()), Idle::new(LIMIT, Instant::now()));
        let (of_silent, of_moving) = (limits.request(silent), limits.request(moving.clone()));
        let started = Instant::now();
        let mover = async {
            tokio::time::sleep(LIMIT / 2).await;
            moving.touch();
            std::future::pending::<()>().await;
        };
        let ends = async {
            of_silent.over().await;
            assert_eq!(started.elapsed(), LIMIT);
            of_moving.over().await;
            assert_eq!(started.elapsed(), LIMIT + LIMIT / 2);
        };
        tokio::select! {
            () = limits.over() => unreachable!("there is no answer to be cut"),
            () = mover => {}
            () = ends => {}
        }
    }
}
