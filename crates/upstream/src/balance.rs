//! Picking a host. Everything is prepared when hosts or their health change; a pick takes no lock.

mod hashing;
mod levels;
mod places;
#[cfg(test)]
mod tests;
mod warm;
mod zones;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::cluster::PickContext;
use crate::config::{Balance, ClusterConfig};
use crate::host::{self, Host};

use zones::Zones;
pub(crate) use zones::{Around, Replicas};

/// Slots of a weighted round robin at the most, when there are not more hosts than that.
const MAX_SCHEDULE: u64 = 4096;

/// The hosts of a cluster at one moment, ready to pick from.
#[derive(Debug)]
pub(crate) struct HostSet {
    pub(crate) all: Vec<Arc<Host>>,
    levels: Vec<Level>,
    /// Percent of the traffic for each level; adds up to 100, or to nothing when nobody may be picked.
    loads: Vec<u32>,
    /// When the first ejection ends, on [`host::now`]'s clock: then the set must be made anew.
    stale_at: u64,
}

/// The hosts of one priority that may be picked, in groups that share its traffic by weight.
#[derive(Debug)]
struct Level {
    groups: Vec<(u64, Group)>,
    total: u64,
    /// The same hosts by zone, where requests prefer their own.
    zones: Option<Zones>,
}

/// Hosts among which one is picked.
#[derive(Debug)]
struct Group {
    hosts: Vec<Arc<Host>>,
    /// Indexes into `hosts`, each as often as its weight asks, interleaved.
    schedule: Vec<u32>,
    next: AtomicUsize,
    points: hashing::Points,
}

impl HostSet {
    /// `around`: what zones are judged by, where the proxy knows its own replicas.
    pub(crate) fn new(all: Vec<Arc<Host>>, config: &ClusterConfig, around: Option<Around<'_>>) -> Self {
        let mut priorities: Vec<u32> = all.iter().map(|h| h.config.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let members: Vec<Vec<Arc<Host>>> = priorities
            .iter()
            .map(|priority| all.iter().filter(|h| h.config.priority == *priority).cloned().collect())
            .collect();
        let healths: Vec<levels::Health> = members
            .iter()
            .map(|hosts| levels::Health {
                total: hosts.len(),
                available: hosts.iter().filter(|h| h.is_available()).count(),
            })
            .collect();
        let (loads, panic) = levels::spread(&healths, config.panic_percent);
        // Zones count among hosts of the first priority, while those that are well are used alone.
        let zones = |priority: u32, hosts: &[Arc<Host>], panic: bool| {
            let around = around.filter(|_| priority == 0)?;
            let zones = Zones::new(hosts, around, &|host| warm::weight(host, config.slow_start.as_ref()), config);
            zones.filter(|_| !panic)
        };
        let levels = members.into_iter().zip(panic).zip(priorities).map(|((hosts, panic), priority)| {
            let zones = zones(priority, &hosts, panic);
            Level { zones, ..Level::new(hosts, panic, config) }
        });
        let back = all.iter().filter_map(|h| h.ejected_until()).min().unwrap_or(u64::MAX);
        let stale_at = back.min(warm::next(&all, config.slow_start.as_ref()));
        Self { levels: levels.collect(), loads, stale_at, all }
    }

    /// Whether an ejection has ended since the set was made.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale_at != u64::MAX && host::now() >= self.stale_at
    }

    /// A host that is not in `tried`; when all of the chosen priority are tried, one of those: as with Envoy, earlier
    /// tries do not move a request to another priority.
    pub(crate) fn pick(&self, balance: Balance, context: &PickContext<'_>) -> Option<&Arc<Host>> {
        let (hash, tried) = (context.hash, context.tried);
        let level = self.other_level(context.priorities).or_else(|| self.level(hash))?;
        let group = level.group(hash)?;
        if tried.is_empty() {
            return group.pick(balance, hash, &|_| true);
        }
        let fresh = |h: &Host| !tried.contains(&h.address);
        // Envoy draws the place anew for each pick; here another one is taken when this one has nobody left.
        let other = || level.groups.iter().find_map(|(_, group)| group.pick(balance, hash, &fresh));
        group.pick(balance, hash, &fresh).or_else(other).or_else(|| group.pick(balance, hash, &|_| true))
    }

    /// The first priority that is not to be avoided and has a host that is well.
    fn other_level(&self, avoid: &[u32]) -> Option<&Level> {
        if avoid.is_empty() {
            return None;
        }
        self.levels.iter().find(|level| {
            level.hosts().next().is_some_and(|h| !avoid.contains(&h.config.priority))
                && level.hosts().any(|h| h.is_available())
        })
    }

    fn level(&self, hash: Option<u64>) -> Option<&Level> {
        if self.loads.first() == Some(&100) {
            return self.levels.first();
        }
        let mut point = hash.map_or_else(|| fastrand::u64(..100), |hash| hash % 100);
        let chosen = self.loads.iter().position(|load| {
            let here = point < u64::from(*load);
            point = point.wrapping_sub(if here { 0 } else { u64::from(*load) });
            here
        });
        self.levels.get(chosen?)
    }
}

impl Level {
    fn new(hosts: Vec<Arc<Host>>, panic: bool, config: &ClusterConfig) -> Self {
        let usable = |hosts: &[Arc<Host>]| -> Vec<Arc<Host>> {
            hosts.iter().filter(|h| panic || h.is_available()).cloned().collect()
        };
        let hashes = matches!(config.balance, Balance::RingHash(_) | Balance::Maglev(_));
        if !config.locality_weighted {
            let hosts = usable(&hosts);
            let weights = hosts.iter().map(|h| warm::weight(h, config.slow_start.as_ref())).collect();
            return Self { groups: vec![(1, Group::new(hosts, weights, config.balance))], total: 1, zones: None };
        }
        let places = places::split(&hosts);
        if hashes {
            // One ring for all places, where each host has its part of its place's share.
            let (hosts, weights) = places::scaled(&places, panic);
            return Self { groups: vec![(1, Group::new(hosts, weights, config.balance))], total: 1, zones: None };
        }
        let groups: Vec<(u64, Group)> = places
            .iter()
            .map(|place| {
                let hosts = usable(place);
                let weights = hosts.iter().map(|h| warm::weight(h, config.slow_start.as_ref())).collect();
                (places::share(place, panic), Group::new(hosts, weights, config.balance))
            })
            .filter(|(share, group)| *share > 0 && !group.hosts.is_empty())
            .collect();
        Self { total: groups.iter().map(|(share, _)| share).sum(), groups, zones: None }
    }

    fn group(&self, hash: Option<u64>) -> Option<&Group> {
        if let Some(zone) = self.zones.as_ref().and_then(Zones::draw).filter(|zone| !zone.hosts.is_empty()) {
            return Some(zone);
        }
        if let [(_, only)] = self.groups.as_slice() {
            return Some(only);
        }
        let mut point = hash.unwrap_or_else(|| fastrand::u64(..)).checked_rem(self.total)?;
        let chosen = self.groups.iter().find(|(share, _)| {
            let here = point < *share;
            point = point.wrapping_sub(if here { 0 } else { *share });
            here
        });
        chosen.map(|(_, group)| group)
    }

    fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.groups.iter().flat_map(|(_, group)| &group.hosts)
    }
}

impl Group {
    fn new(hosts: Vec<Arc<Host>>, weights: Vec<u64>, balance: Balance) -> Self {
        let mut both: Vec<(Arc<Host>, u64)> = hosts.into_iter().zip(weights).collect();
        if matches!(balance, Balance::RingHash(_) | Balance::Maglev(_)) {
            // Two proxies that learnt the same hosts in another order must agree.
            both.sort_unstable_by(|(a, _), (b, _)| a.address.cmp(&b.address));
        }
        let (hosts, weights): (Vec<Arc<Host>>, Vec<u64>) = both.into_iter().unzip();
        Self {
            schedule: schedule(&weights),
            // Clients that start together must not all begin with the same host.
            next: AtomicUsize::new(fastrand::usize(..1 << 16)),
            points: hashing::Points::new(&hosts, &weights, balance),
            hosts,
        }
    }

    fn pick(&self, balance: Balance, hash: Option<u64>, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        match balance {
            Balance::LeastRequest(choices) => self.least_request(choices.max(2), wanted),
            Balance::RingHash(_) | Balance::Maglev(_) => {
                let hash = hash.unwrap_or_else(|| fastrand::u64(..));
                let wanted = |index: u32| self.hosts.get(index as usize).filter(|h| wanted(h));
                self.points.walk(hash).find_map(wanted)
            }
            Balance::RoundRobin => self.scheduled(self.next.fetch_add(1, Relaxed), wanted),
            Balance::Random | Balance::Original => self.scheduled(fastrand::usize(..), wanted),
        }
    }

    /// The first wanted host of the schedule from a start on.
    fn scheduled(&self, start: usize, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        let length = self.schedule.len();
        let start = start.checked_rem(length)?;
        (0..length).find_map(|step| {
            let index = self.schedule.get((start + step) % length)?;
            self.hosts.get(*index as usize).filter(|h| wanted(h))
        })
    }

    /// Power of two choices: of a few hosts, drawn by weight, the least loaded for its weight. The first drawn wins a
    /// tie, so that idle hosts are used by weight.
    fn least_request(&self, choices: u32, wanted: &dyn Fn(&Host) -> bool) -> Option<&Arc<Host>> {
        if let [only] = &*self.hosts {
            return Some(only).filter(|h| wanted(h));
        }
        let load = |h: &Host| h.stats.rq_active.load(Relaxed) as f64 / f64::from(h.config.weight.max(1));
        (0..choices)
            .filter_map(|_| self.scheduled(fastrand::usize(..), wanted))
            .min_by(|a, b| load(a).total_cmp(&load(b)))
    }
}

/// Earliest deadline first over the weights, so that a heavy host is spread among the light ones. A host of weight `w`
/// is due for the `k`th time at `(2k + 1) / 2w`.
fn schedule(weights: &[u64]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let limit = MAX_SCHEDULE.max(weights.len() as u64 * 4);
    let weights: Vec<u64> = weights.iter().map(|w| (w / divisor).max(1)).collect();
    let length = weights.iter().sum::<u64>().min(limit);
    let due = |k: u64, weight: u64| (u128::from(2 * k + 1) << 64) / u128::from(2 * weight);
    let mut heap: BinaryHeap<_> = (0_u32..).zip(&weights).map(|(i, w)| Reverse((due(0, *w), i, 0_u64, *w))).collect();
    let mut slots: Vec<u32> = Vec::new();
    for _ in 0..length {
        let Some(Reverse((_, index, k, weight))) = heap.pop() else { break };
        slots.push(index);
        heap.push(Reverse((due(k + 1, weight), index, k + 1, weight)));
    }
    // Beyond the limit the lightest would never be reached.
    slots.extend(heap.into_iter().filter(|Reverse((_, _, k, _))| *k == 0).map(|Reverse((_, index, ..))| index));
    slots
}

fn weight(host: &Host) -> u64 {
    u64::from(host.config.weight.max(1))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
