//! Histograms with Istio's bucket bounds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of Envoy's default histogram buckets, which Istio's metrics use (milliseconds or bytes).
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The same in thousandths.
const THOUSANDTHS: [u64; BOUNDS.len()] = {
    let mut thousandths = [0; BOUNDS.len()];
    let mut at = 0;
    while at < BOUNDS.len() {
        thousandths[at] = (BOUNDS[at] * 1000.0) as u64;
        at += 1;
    }
    thousandths
};

/// Counts by bucket, and the sum in thousandths of the unit.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_thousandths: AtomicU64,
}

impl Histogram {
    /// Adds one value, given in thousandths of the unit (microseconds for milliseconds).
    pub(crate) fn record_thousandths(&self, value: u64) {
        let index = THOUSANDTHS.partition_point(|bound| *bound < value);
        self.buckets[index].fetch_add(1, Relaxed);
        self.sum_thousandths.fetch_add(value, Relaxed);
    }

    /// Cumulative counts (the last is the total) and the sum in the unit.
    pub(crate) fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut total = 0;
        let mut cumulative = [0; BOUNDS.len() + 1];
        for (out, bucket) in cumulative.iter_mut().zip(&self.buckets) {
            total += bucket.load(Relaxed);
            *out = total;
        }
        (cumulative, self.sum_thousandths.load(Relaxed) as f64 / 1000.0)
    }
}
