//! Which places traffic prefers (`localityLbSetting`, `zoneAwareLbSetting`, a Service's `trafficDistribution`): priorities
//! and weights of endpoints by where they are.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use istio_api::mesh::MeshConfig;
use istio_api::networking::{
    LocalityDistribute, LocalityFailover, LocalityLbSetting, TrafficPolicy, ZoneAwareLbSetting,
};
use mesh::{Distribution, HOSTNAME, Service};
use serde_json::{Value, json};

/// The label that tells networks apart.
const NETWORK: &str = "topology.istio.io/network";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// What counts for the endpoints of one cluster.
pub(crate) enum Preference<'a> {
    /// All are alike.
    Alike,
    /// Places, as a setting says.
    Places {
        /// The setting.
        setting: Cow<'a, LocalityLbSetting>,
        /// Priorities make sense only where something tells who is well: outlier detection, or a Service that asks for this.
        ranked: bool,
    },
    /// Regions are ranked; within a region the proxy counts by zone.
    Zones(&'a ZoneAwareLbSetting),
}

impl<'a> Preference<'a> {
    /// A rule's word counts before the Service's, and that before the mesh's; without a word near places come first.
    pub(crate) fn of(mesh: &'a MeshConfig, traffic: Option<&'a TrafficPolicy>, service: &Service) -> Self {
        let rule = traffic.and_then(|t| t.load_balancer.as_ref());
        let detects = traffic.is_some_and(|t| t.outlier_detection.is_some());
        let places = |setting: &'a LocalityLbSetting| match setting.enabled {
            Some(false) => Self::Alike,
            _ => Self::Places { setting: Cow::Borrowed(setting), ranked: detects },
        };
        if let Some(setting) = rule.and_then(|lb| lb.zone_aware_lb_setting.as_ref()) {
            return Self::Zones(setting);
        }
        if let Some(setting) = rule.and_then(|lb| lb.locality_lb_setting.as_ref()) {
            return places(setting);
        }
        if let Some(distribution) = service.distribution {
            return Self::Places { setting: Cow::Owned(distributed(distribution)), ranked: true };
        }
        if let Some(setting) = &mesh.zone_aware_lb_setting {
            return Self::Zones(setting);
        }
        let default = || Self::Places { setting: Cow::Owned(LocalityLbSetting::default()), ranked: detects };
        mesh.locality_lb_setting.as_ref().map_or_else(default, places)
    }

    /// How the proxy counts places, as a field of `commonLbConfig`.
    pub(crate) fn field(&self) -> Option<(&'static str, Value)> {
        match self {
            Self::Alike => None,
            Self::Places { setting, ranked } => {
                let named = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
                let weighted = !setting.distribute.is_empty() || (*ranked && named);
                weighted.then(|| ("localityWeightedLbConfig", json!({})))
            }
            Self::Zones(setting) => {
                let mut out = json!({});
                if setting.enabled == Some(false) {
                    // A proxy that knows its replicas counts by zone without being told.
                    out["routingEnabled"] = json!({"value": 0});
                }
                if let Some(least) = setting.min_cluster_size {
                    out["minClusterSize"] = json!(least);
                }
                Some(("zoneAwareLbConfig", out))
            }
        }
    }
}

/// What a Service's word means.
fn distributed(distribution: Distribution) -> LocalityLbSetting {
    let labels: &[&str] = match distribution {
        Distribution::SameZone => &[NETWORK, REGION, ZONE],
        Distribution::SameNode => &[NETWORK, REGION, ZONE, SUBZONE, HOSTNAME],
    };
    let failover_priority = labels.iter().map(|label| (*label).to_owned()).collect();
    LocalityLbSetting { failover_priority, ..LocalityLbSetting::default() }
}

/// Where somebody is, and what labels say of it.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    /// `region/zone/subzone`; empty when it is not known.
    pub locality: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The node, when it is known.
    pub node: Option<&'a str>,
}

/// One endpoint before it has a priority.
pub(crate) struct Candidate {
    /// `region/zone/subzone`.
    pub locality: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its node.
    pub node: Option<String>,
    /// Its share.
    pub weight: u32,
    /// Its entry in the assignment.
    pub host: Value,
}

impl Candidate {
    fn spot(&self) -> Spot<'_> {
        Spot { locality: &self.locality, labels: &self.labels, node: self.node.as_deref() }
    }
}

/// Endpoints of one place and priority.
pub(crate) struct Group {
    /// `region/zone/subzone`.
    pub locality: String,
    /// 0 is used first.
    pub priority: u32,
    /// The share of the place.
    pub weight: u32,
    /// Their entries; a place that gets nothing has none.
    pub hosts: Vec<Value>,
}

/// Groups endpoints by place, as a client sees them.
pub(crate) fn groups(preference: &Preference<'_>, client: Spot<'_>, all: Vec<Candidate>) -> Vec<Group> {
    match preference {
        Preference::Alike => grouped(all, |_| 0),
        Preference::Places { setting, ranked } => placed(setting, *ranked, client, all),
        Preference::Zones(setting) if setting.enabled == Some(false) => grouped(all, |_| 0),
        Preference::Zones(setting) => {
            let region = |candidate: &Candidate| region(client.locality, &candidate.locality, &setting.failover);
            grouped(all, |candidate| {
                mismatch(&setting.failover_priority, client, candidate.spot()) * 3 + region(candidate)
            })
        }
    }
}

fn placed(setting: &LocalityLbSetting, ranked: bool, client: Spot<'_>, all: Vec<Candidate>) -> Vec<Group> {
    if client.locality.is_empty() && setting.failover_priority.is_empty() {
        return grouped(all, |_| 0);
    }
    if !setting.distribute.is_empty() {
        let mut groups = grouped(all, |_| 0);
        distribute(&setting.distribute, client.locality, &mut groups);
        return groups;
    }
    if !ranked {
        return grouped(all, |_| 0);
    }
    let place = |candidate: &Candidate| distance(client.locality, &candidate.locality, &setting.failover);
    if setting.failover_priority.is_empty() {
        return grouped(all, place);
    }
    grouped(all, |candidate| {
        let by_label = mismatch(&setting.failover_priority, client, candidate.spot());
        if setting.failover.is_empty() { by_label } else { by_label * 8 + place(candidate) }
    })
}

/// Endpoints that are all alike, by place.
pub(crate) fn alike(all: Vec<Candidate>) -> Vec<Group> {
    grouped(all, |_| 0)
}

/// 0: the client's region; 1: the one that `failover` names for it; 2: any other.
fn region(own: &str, other: &str, failover: &[LocalityFailover]) -> u32 {
    let region = |place| parts(place).first().copied().unwrap_or_default();
    let (own, other) = (region(own), region(other));
    match failover.iter().find(|rule| rule.from == own) {
        _ if own == other => 0,
        Some(rule) if rule.to == other => 1,
        _ => 2,
    }
}

/// Groups by place and rank; ranks become priorities without gaps.
fn grouped(all: Vec<Candidate>, rank: impl Fn(&Candidate) -> u32) -> Vec<Group> {
    let mut groups: BTreeMap<(u32, String), Vec<Candidate>> = BTreeMap::new();
    for candidate in all {
        groups.entry((rank(&candidate), candidate.locality.clone())).or_default().push(candidate);
    }
    let ranks: BTreeSet<u32> = groups.keys().map(|(rank, _)| *rank).collect();
    let priority = |rank: u32| u32::try_from(ranks.iter().position(|r| *r == rank).unwrap_or(0)).unwrap_or(0);
    let group = |((rank, locality), members): ((u32, String), Vec<Candidate>)| Group {
        locality,
        priority: priority(rank),
        weight: members.iter().fold(0, |sum: u32, m| sum.saturating_add(m.weight)),
        hosts: members.into_iter().map(|m| m.host).collect(),
    };
    groups.into_iter().map(group).collect()
}

/// How far away a place is: 0 the same, 1 the zone, 2 the region, 3 another region, 4 another one than `failover` names.
fn distance(own: &str, other: &str, failover: &[LocalityFailover]) -> u32 {
    let (own, other): (Vec<&str>, Vec<&str>) = (parts(own), parts(other));
    let same = own.iter().zip(&other).take_while(|(a, b)| a == b).count();
    match same {
        3.. => 0,
        2 => 1,
        1 => 2,
        _ => {
            let named = failover.iter().find(|rule| Some(&rule.from.as_str()) == own.first());
            if named.is_some_and(|rule| Some(&rule.to.as_str()) != other.first()) { 4 } else { 3 }
        }
    }
}

fn parts(locality: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = locality.splitn(3, '/').collect();
    parts.resize(3, "");
    parts
}

/// How many of the labels are left at the first that the endpoint has otherwise than the client; `key=value` asks for the
/// value, whatever the client has. In another network, when that comes first, the others count all the same, behind all
/// of the own network.
fn mismatch(labels: &[String], client: Spot<'_>, endpoint: Spot<'_>) -> u32 {
    let fits = |label: &String| match label.split_once('=') {
        Some((key, value)) => value_of(key, endpoint) == Some(value),
        None => value_of(label, client) == value_of(label, endpoint),
    };
    let away = labels.first().is_some_and(|first| first == NETWORK && !fits(first));
    let skipped = usize::from(away);
    let matched = skipped + labels.iter().skip(skipped).take_while(|label| fits(label)).count();
    let behind = if away { labels.len() } else { 0 };
    u32::try_from(labels.len() - matched + behind).unwrap_or(u32::MAX / 8)
}

/// A label; those of topology are told by the place and the node as well.
fn value_of<'a>(key: &str, of: Spot<'a>) -> Option<&'a str> {
    let told = match key {
        REGION => parts(of.locality).first().copied(),
        ZONE => parts(of.locality).get(1).copied(),
        SUBZONE => parts(of.locality).get(2).copied(),
        HOSTNAME => of.node,
        _ => None,
    };
    told.filter(|part| !part.is_empty()).or_else(|| of.labels.get(key).map(String::as_str))
}

/// Gives places their shares; those that are not named get nothing.
fn distribute(rules: &[LocalityDistribute], own: &str, groups: &mut [Group]) {
    let Some(rule) = rules.iter().find(|rule| is_within(own, &rule.from)) else { return };
    // The narrower pattern counts first.
    let mut to: Vec<(&String, u32)> = rule.to.iter().map(|(pattern, weight)| (pattern, *weight)).collect();
    to.sort_by_key(|(pattern, _)| Reverse(pattern.split('/').filter(|part| *part != "*").count()));
    let mut left: Vec<usize> = (0..groups.len()).collect();
    for (pattern, weight) in to {
        let fits = |index: &usize| groups.get(*index).is_some_and(|g| is_within(&g.locality, pattern));
        let (here, others): (Vec<usize>, Vec<usize>) = left.into_iter().partition(fits);
        left = others;
        let sum: u64 = here.iter().filter_map(|i| groups.get(*i)).map(|g| u64::from(g.weight)).sum();
        for index in here {
            if let Some(group) = groups.get_mut(index) {
                let share = (u64::from(group.weight) * u64::from(weight)).div_ceil(sum.max(1));
                group.weight = u32::try_from(share).unwrap_or(u32::MAX);
            }
        }
    }
    for index in left {
        if let Some(group) = groups.get_mut(index) {
            group.hosts.clear();
        }
    }
}

/// Whether a place is within a pattern such as `region/zone/*`.
fn is_within(place: &str, pattern: &str) -> bool {
    let place = parts(place);
    pattern == "*" || pattern.split('/').zip(place).take_while(|(p, _)| *p != "*").all(|(p, part)| p == part)
}

#[cfg(test)]
mod tests;
