//! Picking a host. Everything is prepared when the hosts change; a pick takes no lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use xxhash_rust::xxh64::xxh64;

use crate::config::Balance;
use crate::host::Host;

/// Slots of a weighted round robin at the most.
const MAX_SCHEDULE: u64 = 4096;
/// Points of a hash ring at the most.
const MAX_RING: u32 = 1 << 16;

/// The hosts of a cluster at one moment, ready to pick from.
#[derive(Debug)]
pub(crate) struct HostSet {
    pub(crate) all: Vec<Arc<Host>>,
    /// By priority.
    levels: Vec<Level>,
    panic_percent: u32,
}

#[derive(Debug)]
struct Level {
    hosts: Vec<Arc<Host>>,
    /// Indexes into `hosts`, each as often as its weight asks, interleaved.
    schedule: Vec<u32>,
    next: AtomicUsize,
    points: Points,
}

#[derive(Debug)]
enum Points {
    None,
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl HostSet {
    pub(crate) fn new(all: Vec<Arc<Host>>, balance: Balance, panic_percent: u32) -> Self {
        let mut priorities: Vec<u32> = all.iter().map(|h| h.config.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let level = |priority: u32| {
            let hosts: Vec<_> = all.iter().filter(|h| h.config.priority == priority).cloned().collect();
            Level {
                schedule: schedule(&hosts),
                // Clients that start together must not all begin with the same host.
                next: AtomicUsize::new(fastrand::usize(..1 << 16)),
                points: points(&hosts, balance),
                hosts,
            }
        };
        let levels = priorities.into_iter().map(level).collect();
        Self { all, levels, panic_percent }
    }

    /// A host that is available and not in `tried`; when all are tried, one of those.
    pub(crate) fn pick(&self, balance: Balance, hash: Option<u64>, tried: &[SocketAddr]) -> Option<&Arc<Host>> {
        let fresh = |h: &Host| h.is_available() && !tried.contains(&h.address);
        for level in &self.levels {
            if let Some(host) = level.pick(balance, hash, &fresh) {
                return Some(host);
            }
        }
        let any = |h: &Host| h.is_available();
        for level in &self.levels {
            if let Some(host) = level.pick(balance, hash, &any) {
                return Some(host);
            }
        }
        // Panic: better a sick host than none, when the configuration says so.
        if self.panic_percent > 0 {
            return self.levels.first().and_then(|level| level.pick(balance, hash, &|_| true));
        }
        None
    }
}

impl Level {
    fn pick(&self, balance: Balance, hash: Option<u64>, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        match (balance, &self.points) {
            (Balance::LeastRequest(choices), _) => self.least_request(choices.max(2), wanted),
            (_, Points::Ring(ring)) => self.ring(ring, hash.unwrap_or_else(|| fastrand::u64(..)), wanted),
            (_, Points::Maglev(table)) => self.table(table, hash.unwrap_or_else(|| fastrand::u64(..)), wanted),
            (Balance::RoundRobin, _) => self.scheduled(self.next.fetch_add(1, Relaxed), wanted),
            _ => self.scheduled(fastrand::usize(..), wanted),
        }
    }

    /// The first wanted host of the schedule from a start on.
    fn scheduled(&self, start: usize, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        let length = self.schedule.len();
        (0..length).find_map(|step| {
            let index = self.schedule.get(start.wrapping_add(step) % length)?;
            self.hosts.get(*index as usize).filter(|h| wanted(h))
        })
    }

    /// Power of two choices: of a few random hosts the one with the fewest requests for its weight.
    fn least_request(&self, choices: u32, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        let load = |h: &Host| (h.stats.rq_active.load(Relaxed) + 1) as f64 / f64::from(h.config.weight.max(1));
        (0..choices)
            .filter_map(|_| self.scheduled(fastrand::usize(..1 << 30), wanted))
            .min_by(|a, b| load(a).total_cmp(&load(b)))
    }

    fn ring(&self, ring: &[(u64, u32)], hash: u64, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        let start = ring.partition_point(|(point, _)| *point < hash);
        (0..ring.len()).find_map(|step| {
            let (_, index) = ring.get((start + step) % ring.len())?;
            self.hosts.get(*index as usize).filter(|h| wanted(h))
        })
    }

    fn table(&self, table: &[u32], hash: u64, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        let length = table.len();
        let start = usize::try_from(hash % u64::try_from(length.max(1)).ok()?).ok()?;
        (0..length).find_map(|step| self.hosts.get(*table.get((start + step) % length)? as usize).filter(|h| wanted(h)))
    }
}

/// Earliest deadline first over the weights, so that a heavy host is spread among the light ones.
fn schedule(hosts: &[Arc<Host>]) -> Vec<u32> {
    let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
    let weights: Vec<u64> = hosts.iter().map(|h| u64::from(h.config.weight.max(1))).collect();
    if weights.windows(2).all(|w| w[0] == w[1]) {
        return (0..count).collect();
    }
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|w| w / divisor).sum::<u64>().clamp(1, MAX_SCHEDULE);
    let sum: u64 = weights.iter().sum();
    let mut credit = vec![0_i128; weights.len()];
    (0..total)
        .filter_map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += i128::from(*weight);
            }
            let best = credit.iter().enumerate().max_by_key(|(_, c)| **c)?.0;
            credit[best] -= i128::from(sum);
            u32::try_from(best).ok()
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn points(hosts: &[Arc<Host>], balance: Balance) -> Points {
    match balance {
        Balance::RingHash(minimum) => Points::Ring(ring(hosts, minimum.clamp(1, MAX_RING))),
        Balance::Maglev(size) => Points::Maglev(maglev(hosts, size)),
        _ => Points::None,
    }
}

/// Envoy's ring: each host has `hash("ADDRESS_N")` points, as many as its weight asks.
fn ring(hosts: &[Arc<Host>], minimum: u32) -> Vec<(u64, u32)> {
    let total: f64 = hosts.iter().map(|h| f64::from(h.config.weight.max(1))).sum();
    let lightest = hosts.iter().map(|h| h.config.weight.max(1)).min().unwrap_or(1);
    let smallest_share = f64::from(lightest) / total.max(1.0);
    let scale = ((smallest_share * f64::from(minimum)).ceil() / smallest_share).min(f64::from(MAX_RING));
    let mut ring = Vec::new();
    let (mut target, mut made) = (0.0, 0.0);
    for (index, host) in (0_u32..).zip(hosts) {
        target += scale * f64::from(host.config.weight.max(1)) / total;
        let mut n = 0_u32;
        while made < target {
            ring.push((xxh64(format!("{}_{n}", host.address).as_bytes(), 0), index));
            n += 1;
            made += 1.0;
        }
    }
    ring.sort_unstable();
    ring
}

/// The Maglev paper's population of the table, with weights as Envoy has them.
fn maglev(hosts: &[Arc<Host>], size: u32) -> Vec<u32> {
    let size = u64::from(size.clamp(3, 5_000_011));
    let heaviest = hosts.iter().map(|h| h.config.weight.max(1)).max().unwrap_or(1);
    if hosts.is_empty() {
        return Vec::new();
    }
    struct Walk {
        offset: u64,
        skip: u64,
        next: u64,
        credit: f64,
        share: f64,
    }
    let mut walks: Vec<Walk> = hosts
        .iter()
        .map(|host| {
            let key = host.address.to_string();
            Walk {
                offset: xxh64(key.as_bytes(), 0) % size,
                skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
                next: 0,
                credit: 0.0,
                share: f64::from(host.config.weight.max(1)) / f64::from(heaviest),
            }
        })
        .collect();
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
    let mut filled = 0;
    while filled < table.len() {
        for (index, walk) in (0_u32..).zip(walks.iter_mut()) {
            walk.credit += walk.share;
            if walk.credit < 1.0 {
                continue;
            }
            walk.credit -= 1.0;
            loop {
                let at = usize::try_from((walk.offset + walk.next * walk.skip) % size).unwrap_or(0);
                walk.next += 1;
                if let Some(slot) = table.get_mut(at).filter(|s| **s == u32::MAX) {
                    *slot = index;
                    filled += 1;
                    break;
                }
                if walk.next > size * 2 {
                    break;
                }
            }
            if filled == table.len() {
                break;
            }
        }
    }
    table
}
