//! Zone aware routing (Envoy's): as many requests stay in the caller's own zone as its endpoints can carry without more
//! load than others. That is judged by the part of all callers that are in a zone, and the part of all endpoints: where
//! there are more callers than endpoints, what is too much goes to the zones where it is the other way round.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Group, places};
use crate::config::{Balance, ClusterConfig};
use crate::host::Host;
use crate::stats::ClusterStats;

/// Envoy counts shares in parts of so many.
const WHOLE: u64 = 10_000;

/// `region/zone/subzone`.
type Place = Option<Arc<str>>;

/// Where the replicas of the workload beside this proxy are: the hosts of Envoy's local cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replicas {
    /// Where this proxy is.
    here: Place,
    places: Vec<Callers>,
}

/// The replicas of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Callers {
    place: Place,
    all: u64,
    well: u64,
}

impl Replicas {
    /// Where the hosts of the local cluster are. This proxy is where the host of its own address is, else where it was told.
    pub(crate) fn new(hosts: &[Arc<Host>], ip: IpAddr, told: Place) -> Self {
        let own = hosts.iter().find(|h| h.address.ip().is_some_and(|at| at.ip() == ip));
        let of = |hosts: &Vec<Arc<Host>>| Callers {
            place: hosts.first().and_then(|h| h.config.locality.clone()),
            all: hosts.len() as u64,
            well: hosts.iter().filter(|h| h.is_available()).count() as u64,
        };
        let here = own.and_then(|h| h.config.locality.clone()).or(told);
        Self { here: here.filter(|place| !place.is_empty()), places: places::split(hosts).iter().map(of).collect() }
    }

    /// Whether too few of them are well to tell anything.
    fn panics(&self, percent: u32) -> bool {
        let count = |of: fn(&Callers) -> u64| self.places.iter().map(of).sum::<u64>();
        count(|c| c.well) * 100 < count(|c| c.all) * u64::from(percent)
    }

    /// The part of the callers that is in a place.
    fn share(&self, place: &Place) -> u64 {
        let well: u64 = self.places.iter().map(|c| c.well).sum();
        let here = self.places.iter().find(|c| c.place == *place).map_or(0, |c| c.well);
        (here * WHOLE).checked_div(well).unwrap_or(0)
    }
}

/// What the zones of a cluster are judged by.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) replicas: &'a Replicas,
    /// Of the cluster.
    pub(crate) stats: &'a Arc<ClusterStats>,
}

/// The hosts of the first priority by zone, the caller's own first when it has any.
#[derive(Debug)]
pub(super) struct Zones {
    groups: Vec<Group>,
    way: Way,
    /// Of a hundred requests so many are routed by zone.
    percent: u32,
    stats: Arc<ClusterStats>,
}

/// Where requests go.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// The replicas are so unwell that nothing can be told: to all zones.
    Unknown,
    /// All stay in the own zone.
    Direct,
    /// Of [`WHOLE`] requests `stay` stay; the others go where there is room: up to which part of all room each zone has its own.
    Beyond { stay: u64, room: Vec<u64> },
}

/// What a zone has of all callers and of all endpoints, in parts of [`WHOLE`].
#[derive(Clone, Copy, Debug)]
struct Share {
    callers: u64,
    endpoints: u64,
}

impl Zones {
    /// `None` where zones do not count.
    pub(super) fn new(
        hosts: &[Arc<Host>],
        around: Around<'_>,
        weigh: &dyn Fn(&Host) -> u64,
        config: &ClusterConfig,
    ) -> Option<Self> {
        let wanted = config.zone_aware?;
        if !matches!(config.balance, Balance::RoundRobin | Balance::LeastRequest(_) | Balance::Random) {
            return None;
        }
        let Around { replicas, stats } = around;
        stats.lb_recalculate_zone_structures.fetch_add(1, Relaxed);
        let mut all = places::split(hosts);
        if all.len() < 2 || replicas.places.len() < 2 {
            return None;
        }
        let place = |hosts: &Vec<Arc<Host>>| hosts.first().and_then(|h| h.config.locality.clone());
        if replicas.here.is_none() || !replicas.places.iter().any(|c| c.place == replicas.here) {
            stats.lb_local_cluster_not_ok.fetch_add(1, Relaxed);
            return None;
        }
        let well = |hosts: &[Arc<Host>]| hosts.iter().filter(|h| h.is_available()).count() as u64;
        let total = well(hosts);
        if total < wanted.least_hosts {
            stats.lb_zone_cluster_too_small.fetch_add(1, Relaxed);
            return None;
        }
        // The order of the others matters to nobody.
        all.sort_by_key(|hosts| place(hosts) != replicas.here);
        let here = all.first().is_some_and(|hosts| place(hosts) == replicas.here);
        let share = |hosts: &Vec<Arc<Host>>| match well(hosts) {
            0 => Share { callers: 0, endpoints: 0 },
            count => Share {
                callers: replicas.share(&place(hosts)),
                endpoints: (count * WHOLE).checked_div(total).unwrap_or(0),
            },
        };
        let shares: Vec<Share> = all.iter().map(share).collect();
        let way = if replicas.panics(config.panic_percent) { Way::Unknown } else { Way::of(&shares, here) };
        let group = |hosts: Vec<Arc<Host>>| {
            let hosts: Vec<Arc<Host>> = hosts.into_iter().filter(|h| h.is_available()).collect();
            let weights = hosts.iter().map(|h| weigh(h)).collect();
            Group::new(hosts, weights, config.balance)
        };
        let percent = wanted.percent;
        (percent > 0).then(|| Self { groups: all.into_iter().map(group).collect(), way, percent, stats: stats.clone() })
    }

    /// The zone of a request; `None` when it may go to any.
    pub(super) fn draw(&self) -> Option<&Group> {
        if self.percent < 100 && fastrand::u32(..100) >= self.percent {
            return None;
        }
        let count = |counter: &AtomicU64| counter.fetch_add(1, Relaxed);
        match &self.way {
            Way::Unknown => {
                count(&self.stats.lb_local_cluster_not_ok);
                None
            }
            Way::Direct => {
                count(&self.stats.lb_zone_routing_all_directly);
                self.groups.first()
            }
            Way::Beyond { stay, .. } if fastrand::u64(..WHOLE) < *stay => {
                count(&self.stats.lb_zone_routing_sampled);
                self.groups.first()
            }
            Way::Beyond { room, .. } => {
                count(&self.stats.lb_zone_routing_cross_zone);
                let Some(all) = room.last().copied().filter(|all| *all > 0) else {
                    // Shares are rounded down: it may be that none is left.
                    count(&self.stats.lb_zone_no_capacity_left);
                    return self.groups.get(fastrand::usize(..self.groups.len().max(1)));
                };
                let point = fastrand::u64(..all);
                self.groups.get(room.iter().position(|end| point < *end)?)
            }
        }
    }
}

impl Way {
    /// `here`: the first zone is the caller's own.
    fn of(shares: &[Share], here: bool) -> Self {
        let own = shares.first().filter(|_| here);
        if own.is_some_and(|own| own.endpoints > 0 && own.endpoints >= own.callers) {
            return Self::Direct;
        }
        let stay = own.and_then(|own| (own.endpoints * WHOLE).checked_div(own.callers)).unwrap_or(0);
        let mut room = Vec::with_capacity(shares.len());
        let mut sum = 0;
        for (index, share) in shares.iter().enumerate() {
            if index > 0 || !here {
                sum += share.endpoints.saturating_sub(share.callers);
            }
            room.push(sum);
        }
        Self::Beyond { stay, room }
    }
}

#[cfg(test)]
mod tests;
