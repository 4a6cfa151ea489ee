//! One endpoint and what is remembered of it.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Address;
use crate::config::{HostConfig, Outlier};

/// Counters of one host, for `/clusters`.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Connections made.
    pub cx_total: AtomicU64,
    /// Connections open.
    pub cx_active: AtomicU64,
    /// Connections that did not come about.
    pub cx_connect_fail: AtomicU64,
    /// Requests sent.
    pub rq_total: AtomicU64,
    /// Requests in flight.
    pub rq_active: AtomicU64,
    /// Requests answered below 500.
    pub rq_success: AtomicU64,
    /// Requests answered with 5xx or not at all.
    pub rq_error: AtomicU64,
    /// Requests that took too long.
    pub rq_timeout: AtomicU64,
}

/// How a request to a host ended, for outlier detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Status(u16),
    /// No connection.
    LocalFailure,
    /// A connection came about, and broke before an answer.
    Broken,
    /// No answer in time.
    Timeout,
}

/// One endpoint. It lives as long as discovery names its address, over all updates, and until its last request ends.
#[derive(Debug)]
pub struct Host {
    /// Identity within this process.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// What discovery says of it.
    pub config: HostConfig,
    /// Counters.
    pub stats: Arc<HostStats>,
    memory: Arc<Memory>,
    /// Shared by all forms of the host that share connections.
    removed: Arc<AtomicBool>,
}

/// What outlives an update.
#[derive(Debug)]
struct Memory {
    /// When the host was first named, on [`now`]'s clock.
    since: AtomicU64,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds on [`now`]'s clock; 0: not aside.
    ejected_until: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            since: AtomicU64::new(now()),
            consecutive_5xx: AtomicU32::default(),
            consecutive_gateway: AtomicU32::default(),
            consecutive_local: AtomicU32::default(),
            ejections: AtomicU32::default(),
            ejected_until: AtomicU64::default(),
        }
    }
}

impl Host {
    pub(crate) fn new(config: HostConfig, former: Option<&Self>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // A host whose transport changed must not share connections with its former self.
        let (id, removed) = match former {
            Some(former) if former.config.transport == config.transport => (former.id, former.removed.clone()),
            _ => (NEXT.fetch_add(1, Relaxed), Arc::default()),
        };
        Arc::new(Self {
            id,
            address: config.address.clone(),
            config,
            stats: former.map(|f| f.stats.clone()).unwrap_or_default(),
            memory: former.map(|f| f.memory.clone()).unwrap_or_default(),
            removed,
        })
    }

    /// Whether discovery no longer names it; its idle connections are then closed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }

    pub(crate) fn remove(&self) {
        self.removed.store(true, Relaxed);
    }

    /// When it was first named, on [`now`]'s clock.
    pub(crate) fn since(&self) -> u64 {
        self.memory.since.load(Relaxed)
    }

    /// Whether it is aside by outlier detection.
    pub fn is_ejected(&self) -> bool {
        self.ejected_until().is_some()
    }

    /// When it comes back, on [`now`]'s clock; `None` when it is not aside.
    pub(crate) fn ejected_until(&self) -> Option<u64> {
        let until = self.memory.ejected_until.load(Relaxed);
        (until != 0 && now() < until).then_some(until)
    }

    /// Whether it may be picked.
    pub fn is_available(&self) -> bool {
        self.config.healthy && !self.is_ejected()
    }

    /// Counts an outcome; `true` when the host should be put aside.
    pub(crate) fn count(&self, rules: &Outlier, outcome: Outcome) -> bool {
        let memory = &self.memory;
        let reaches = |counter: &AtomicU32, limit: u32| counter.fetch_add(1, Relaxed) + 1 >= limit && limit > 0;
        let clear = |counter: &AtomicU32| {
            if counter.load(Relaxed) != 0 {
                counter.store(0, Relaxed);
            }
        };
        match outcome {
            Outcome::Status(status @ 500..) => {
                let gateway = if matches!(status, 502..=504) {
                    reaches(&memory.consecutive_gateway, rules.consecutive_gateway)
                } else {
                    clear(&memory.consecutive_gateway);
                    false
                };
                clear(&memory.consecutive_local);
                reaches(&memory.consecutive_5xx, rules.consecutive_5xx) || gateway
            }
            Outcome::Status(_) => {
                clear(&memory.consecutive_5xx);
                clear(&memory.consecutive_gateway);
                clear(&memory.consecutive_local);
                false
            }
            Outcome::LocalFailure | Outcome::Timeout if rules.split_local => {
                reaches(&memory.consecutive_local, rules.consecutive_local)
            }
            // With Envoy the connection that came about ends the row of failures; what follows begins a new one.
            Outcome::Broken if rules.split_local => {
                clear(&memory.consecutive_local);
                reaches(&memory.consecutive_local, rules.consecutive_local)
            }
            Outcome::LocalFailure | Outcome::Broken | Outcome::Timeout => {
                let gateway = reaches(&memory.consecutive_gateway, rules.consecutive_gateway);
                reaches(&memory.consecutive_5xx, rules.consecutive_5xx) || gateway
            }
        }
    }

    /// Puts the host aside for the base time, times the number of ejections, up to the longest.
    pub(crate) fn eject(&self, rules: &Outlier) -> Duration {
        let times = self.memory.ejections.fetch_add(1, Relaxed) + 1;
        let aside = rules.base_ejection.saturating_mul(times).min(rules.max_ejection.max(rules.base_ejection));
        self.memory.ejected_until.store(now() + millis(aside), Relaxed);
        for counter in [&self.memory.consecutive_5xx, &self.memory.consecutive_gateway, &self.memory.consecutive_local]
        {
            counter.store(0, Relaxed);
        }
        aside
    }

    /// One interval without ejection makes the next one shorter again.
    pub(crate) fn fade(&self) {
        if !self.is_ejected() {
            let _ = self.memory.ejections.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Milliseconds since the first call, from 1; tokio's clock, so that tests can pause it.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    millis(START.get_or_init(Instant::now).elapsed()) + 1
}
