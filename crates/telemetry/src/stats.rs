//! Envoy-style statistics: plain counters and gauges with dotted names.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Whether a statistic only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One statistic as a source reports it at scrape time.
///
/// `cluster` + `outbound|80||x` + `upstream_rq_total` is `cluster.outbound|80||x.upstream_rq_total` in `/stats` and
/// `envoy_cluster_upstream_rq_total{cluster_name="outbound|80||x"}` for Prometheus, as Envoy's tag extraction has it.
#[derive(Clone, Debug)]
pub struct Stat<'a> {
    /// First part of the name, such as `cluster`.
    pub scope: &'a str,
    /// The Prometheus label and the entity it names, when the statistic belongs to one.
    pub entity: Option<(&'static str, &'a str)>,
    /// Last part of the name.
    pub leaf: &'a str,
    /// Counter or gauge.
    pub kind: StatKind,
    /// The value now.
    pub value: i64,
}

impl Stat<'_> {
    /// The dotted name of `/stats`.
    pub(crate) fn dotted(&self) -> String {
        match self.entity {
            Some((_, entity)) => format!("{}.{entity}.{}", self.scope, self.leaf),
            None => format!("{}.{}", self.scope, self.leaf),
        }
    }

    /// The Prometheus metric name.
    pub(crate) fn metric(&self) -> String {
        let mut name = format!("envoy_{}_{}", self.scope, self.leaf);
        let clean = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == ':' { c } else { '_' };
        name = name.chars().map(clean).collect();
        name
    }
}
