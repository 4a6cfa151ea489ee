//! Consistent hashing: Envoy's ring and the Maglev table.

use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use crate::config::Balance;
use crate::host::Host;

/// Points of a hash ring at the most (Envoy's own limit).
const MAX_RING: u32 = 1 << 23;
/// Slots of a Maglev table at the most (Envoy's limit; a prime).
const MAX_TABLE: u64 = 5_000_011;

/// Where hashes point.
#[derive(Debug)]
pub(super) enum Points {
    None,
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Points {
    pub(super) fn new(hosts: &[Arc<Host>], weights: &[u64], balance: Balance) -> Self {
        match balance {
            Balance::RingHash(minimum) => Self::Ring(ring(hosts, weights, minimum.clamp(1, MAX_RING))),
            Balance::Maglev(size) => Self::Maglev(maglev(hosts, weights, prime(u64::from(size)))),
            _ => Self::None,
        }
    }

    /// Indexes of hosts from a hash on, each as often as it has points.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = u32> {
        let (length, start) = match self {
            Self::None => (0, 0),
            Self::Ring(ring) => (ring.len(), ring.partition_point(|(point, _)| *point < hash)),
            Self::Maglev(table) => {
                let start = hash.checked_rem(table.len() as u64).and_then(|s| usize::try_from(s).ok());
                (table.len(), start.unwrap_or(0))
            }
        };
        (0..length).filter_map(move |step| {
            let at = (start + step) % length;
            match self {
                Self::None => None,
                Self::Ring(ring) => ring.get(at).map(|(_, index)| *index),
                Self::Maglev(table) => table.get(at).copied(),
            }
        })
    }
}

/// Envoy's ring: each host has `hash("ADDRESS_N")` points, as many as its weight asks.
fn ring(hosts: &[Arc<Host>], weights: &[u64], minimum: u32) -> Vec<(u64, u32)> {
    let total: f64 = weights.iter().map(|w| *w as f64).sum();
    let lightest = weights.iter().copied().min().unwrap_or(1);
    let smallest_share = lightest as f64 / total.max(1.0);
    let scale = ((smallest_share * f64::from(minimum)).ceil() / smallest_share).min(f64::from(MAX_RING));
    let mut ring = Vec::new();
    let (mut target, mut made) = (0.0, 0.0);
    for (index, (host, weight)) in (0_u32..).zip(hosts.iter().zip(weights)) {
        target += scale * *weight as f64 / total;
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

/// A host's way through the Maglev table.
struct Walk {
    at: u64,
    skip: u64,
    credit: f64,
    share: f64,
}

/// The Maglev paper's population of the table, with weights as Envoy has them. `size` is a prime, so that each host's
/// walk comes by every slot and the table fills.
fn maglev(hosts: &[Arc<Host>], weights: &[u64], size: u64) -> Vec<u32> {
    let Some(heaviest) = weights.iter().copied().max() else { return Vec::new() };
    let walk = |(host, weight): (&Arc<Host>, &u64)| {
        let key = host.address.to_string();
        Walk {
            at: xxh64(key.as_bytes(), 0) % size,
            skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
            credit: 0.0,
            share: *weight as f64 / heaviest as f64,
        }
    };
    let mut walks: Vec<Walk> = hosts.iter().zip(weights).map(walk).collect();
    let mut table = vec![u32::MAX; usize::try_from(size).unwrap_or(0)];
    let mut free = table.len();
    while free > 0 {
        for (index, walk) in (0_u32..).zip(walks.iter_mut()) {
            walk.credit += walk.share;
            if walk.credit < 1.0 || free == 0 {
                continue;
            }
            walk.credit -= 1.0;
            free -= 1;
            claim(&mut table, walk, index, size);
        }
    }
    table
}

/// Takes the next free slot on a host's walk; there is one.
fn claim(table: &mut [u32], walk: &mut Walk, index: u32, size: u64) {
    for _ in 0..size {
        let at = usize::try_from(walk.at).unwrap_or(0);
        walk.at = (walk.at + walk.skip) % size;
        if let Some(slot) = table.get_mut(at).filter(|slot| **slot == u32::MAX) {
            *slot = index;
            return;
        }
    }
}

/// The smallest prime that is not less, within the limit.
fn prime(at_least: u64) -> u64 {
    let is_prime = |n: &u64| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (at_least.max(3)..=MAX_TABLE).find(is_prime).unwrap_or(MAX_TABLE)
}
