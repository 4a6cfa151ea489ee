//! What a load run counted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Latencies kept for percentiles; beyond it each new one takes a random place (reservoir sampling).
const KEPT: usize = 200_000;
/// Distinct error texts kept.
const MAX_ERRORS: usize = 64;

/// Counts while the run is on.
#[derive(Debug, Default)]
pub struct Tally {
    statuses: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    requests: u64,
    failed: u64,
    opened: u64,
    moved: u64,
    latencies: Vec<u32>,
}

/// The result of a run, or of one interval of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests that came to an end.
    pub requests: u64,
    /// Answers below 400 (and gRPC status 0).
    pub ok: u64,
    /// All others, and those without an answer.
    pub failed: u64,
    /// By HTTP status, or `grpc N`.
    pub statuses: BTreeMap<String, u64>,
    /// By the version that answered.
    pub versions: BTreeMap<String, u64>,
    /// By the pod that answered.
    pub pods: BTreeMap<String, u64>,
    /// Why there was no answer.
    pub errors: BTreeMap<String, u64>,
    /// Streams that were opened.
    #[serde(default)]
    pub opened: u64,
    /// Streams that the server ended in order, and that were opened again.
    #[serde(default)]
    pub moved: u64,
    /// How long it took.
    pub seconds: f64,
    /// Requests a second.
    pub rate: f64,
    /// Half of all answers came within this many milliseconds.
    pub p50_ms: f64,
    /// 90 % did.
    pub p90_ms: f64,
    /// 99 % did.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Tally {
    /// Counts an answer.
    pub fn answered(&mut self, status: &str, ok: bool, version: Option<&str>, pod: Option<&str>, took: Duration) {
        self.requests += 1;
        self.failed += u64::from(!ok);
        add(&mut self.statuses, status);
        if let Some(version) = version {
            add(&mut self.versions, version);
        }
        if let Some(pod) = pod {
            add(&mut self.pods, pod);
        }
        self.keep(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Counts a request without an answer.
    pub fn failed(&mut self, why: &str) {
        self.requests += 1;
        self.failed += 1;
        let known = self.errors.contains_key(why) || self.errors.len() < MAX_ERRORS;
        add(&mut self.errors, if known { why } else { "(other)" });
    }

    /// Counts a stream.
    pub fn opened(&mut self) {
        self.opened += 1;
    }

    /// Counts a stream that the server ended in order.
    pub fn moved(&mut self) {
        self.moved += 1;
    }

    fn keep(&mut self, micros: u32) {
        if self.latencies.len() < KEPT {
            self.latencies.push(micros);
        } else if let Ok(place) = usize::try_from(fastrand::u64(..self.requests))
            && let Some(slot) = self.latencies.get_mut(place)
        {
            *slot = micros;
        }
    }

    /// Sums up and starts again from nothing.
    pub fn take(&mut self, took: Duration) -> Report {
        let mut tally = std::mem::take(self);
        tally.latencies.sort_unstable();
        let at = |share: f64| percentile(&tally.latencies, share);
        let seconds = took.as_secs_f64();
        Report {
            requests: tally.requests,
            ok: tally.requests - tally.failed,
            failed: tally.failed,
            opened: tally.opened,
            moved: tally.moved,
            seconds,
            rate: if seconds > 0.0 { tally.requests as f64 / seconds } else { 0.0 },
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            statuses: tally.statuses,
            versions: tally.versions,
            pods: tally.pods,
            errors: tally.errors,
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}

/// In milliseconds; 0 when there is nothing.
fn percentile(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    sorted.get(index).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} requests in {:.2} s ({:.0}/s), {} ok, {} failed",
            self.requests, self.seconds, self.rate, self.ok, self.failed
        )?;
        writeln!(
            f,
            "latency p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms
        )?;
        if self.opened > 0 {
            writeln!(f, "{} streams, {} of them ended in order by the server", self.opened, self.moved)?;
        }
        for (title, counts) in
            [("status", &self.statuses), ("version", &self.versions), ("pod", &self.pods), ("error", &self.errors)]
        {
            for (key, count) in counts {
                let share = 100.0 * *count as f64 / self.requests.max(1) as f64;
                writeln!(f, "{title:8} {key}: {count} ({share:.1} %)")?;
            }
        }
        Ok(())
    }
}
