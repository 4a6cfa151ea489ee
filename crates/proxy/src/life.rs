//! How far the end of the process has come, told apart for both directions of traffic, and what still lives in it.
//!
//! A connection asks [`Life::phase`] for each answer (an atomic, no lock) and sleeps on [`Life::follow`] between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, watch};

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It has not begun.
    #[default]
    Serving,
    /// Connections are taken and served on, and told to go elsewhere: HTTP/2 by GOAWAY, HTTP/1 by `connection: close`
    /// on the next answer. An idle HTTP/1 connection stays: closed without a word it would meet a request on its way.
    Draining,
    /// No connection is taken any more.
    Closed,
    /// Idle connections are closed too; what is in flight may finish.
    Ending,
}

impl Phase {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Serving,
            1 => Self::Draining,
            2 => Self::Closed,
            _ => Self::Ending,
        }
    }
}

/// Which connections are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those from other workloads.
    Inbound,
    /// All.
    All,
}

/// The phases of both directions, and the connections that live.
#[derive(Debug, Default)]
pub(crate) struct Life {
    inbound: AtomicU8,
    outbound: AtomicU8,
    changes: watch::Sender<()>,
    open: AtomicUsize,
    accepted: AtomicU64,
    emptied: Notify,
}

impl Life {
    /// The phase of a direction.
    pub(crate) fn phase(&self, inbound: bool) -> Phase {
        Phase::of(self.of(inbound).load(Relaxed))
    }

    fn of(&self, inbound: bool) -> &AtomicU8 {
        if inbound { &self.inbound } else { &self.outbound }
    }

    /// Goes on to a phase; never back.
    pub(crate) fn advance(&self, scope: Scope, phase: Phase) {
        self.inbound.fetch_max(phase as u8, Relaxed);
        if scope == Scope::All {
            self.outbound.fetch_max(phase as u8, Relaxed);
        }
        self.changes.send_replace(());
    }

    /// Takes an announcement back, where nothing more has happened.
    pub(crate) fn resume(&self) {
        for direction in [&self.inbound, &self.outbound] {
            // Beyond `Draining` there is no way back.
            let _ = direction.compare_exchange(Phase::Draining as u8, Phase::Serving as u8, Relaxed, Relaxed);
        }
        self.changes.send_replace(());
    }

    /// Wakes at changes of a direction.
    pub(crate) fn follow(self: &Arc<Self>, inbound: bool) -> Follow {
        Follow { life: self.clone(), changes: self.changes.subscribe(), inbound }
    }

    /// Counts a connection for as long as what is given back lives.
    pub(crate) fn enter(self: &Arc<Self>) -> Alive {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
        Alive(self.clone())
    }

    /// Connections that live.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections taken so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Waits until no connection lives.
    pub(crate) async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// A connection that lives.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Life>);

impl Drop for Alive {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

/// Follows the phase of one direction.
#[derive(Debug)]
pub(crate) struct Follow {
    life: Arc<Life>,
    changes: watch::Receiver<()>,
    inbound: bool,
}

impl Follow {
    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        self.life.phase(self.inbound)
    }

    /// Waits until a phase is reached.
    pub(crate) async fn reach(&mut self, phase: Phase) {
        loop {
            self.changes.borrow_and_update();
            if self.phase() >= phase {
                return;
            }
            if self.changes.changed().await.is_err() {
                // The sender is part of what we hold; it cannot go.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_direction_goes_forward_only_and_wakes_who_follows() {
        let life: Arc<Life> = Arc::default();
        let mut inbound = life.follow(true);
        let outbound = life.follow(false);
        life.advance(Scope::Inbound, Phase::Draining);
        inbound.reach(Phase::Draining).await;
        assert_eq!(outbound.phase(), Phase::Serving, "only inbound was told");
        life.resume();
        assert_eq!(inbound.phase(), Phase::Serving, "an announcement can be taken back");
        life.advance(Scope::All, Phase::Closed);
        life.advance(Scope::All, Phase::Draining);
        life.resume();
        assert_eq!((inbound.phase(), outbound.phase()), (Phase::Closed, Phase::Closed));
    }

    #[tokio::test]
    async fn empty_waits_for_the_last_connection() {
        let life: Arc<Life> = Arc::default();
        let (one, two) = (life.enter(), life.enter());
        let waiting = tokio::spawn({
            let life = life.clone();
            async move { life.empty().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "one still lives");
        drop(two);
        waiting.await.expect("it ends with the last");
        assert_eq!(life.accepted(), 2);
    }
}
