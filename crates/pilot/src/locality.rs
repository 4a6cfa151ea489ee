//! Which places traffic prefers (`localityLbSetting`): priorities and weights of endpoints by where they are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use istio_api::networking::{LocalityDistribute, LocalityFailover, LocalityLbSetting, TrafficPolicy};
use serde_json::Value;

/// One endpoint before it has a priority.
pub(crate) struct Candidate {
    /// `region/zone/subzone`.
    pub locality: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its share.
    pub weight: u32,
    /// Its entry in the assignment.
    pub host: Value,
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

/// The client.
pub(crate) struct Client<'a> {
    /// `region/zone/subzone`; empty when it is not known.
    pub locality: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Groups endpoints by place, under the setting of a rule, or Istio's default: near ones first. Priorities make sense only
/// where outlier detection tells who is well.
pub(crate) fn groups(traffic: Option<&TrafficPolicy>, client: &Client<'_>, all: Vec<Candidate>) -> Vec<Group> {
    let own = traffic.and_then(|t| t.load_balancer.as_ref()).and_then(|lb| lb.locality_lb_setting.as_ref());
    let default = LocalityLbSetting::default();
    let setting = own.unwrap_or(&default);
    let detects = traffic.is_some_and(|t| t.outlier_detection.is_some());
    if setting.enabled == Some(false) || client.locality.is_empty() && setting.failover_priority.is_empty() {
        return grouped(all, |_| 0);
    }
    if !setting.distribute.is_empty() {
        let mut groups = grouped(all, |_| 0);
        distribute(&setting.distribute, client.locality, &mut groups);
        return groups;
    }
    if !detects {
        return grouped(all, |_| 0);
    }
    let place = |candidate: &Candidate| distance(client.locality, &candidate.locality, &setting.failover);
    if setting.failover_priority.is_empty() {
        return grouped(all, place);
    }
    grouped(all, |candidate| {
        let by_label = mismatch(&setting.failover_priority, client, candidate);
        if setting.failover.is_empty() { by_label } else { by_label * 8 + place(candidate) }
    })
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
/// value, whatever the client has.
fn mismatch(labels: &[String], client: &Client<'_>, candidate: &Candidate) -> u32 {
    let fits = |label: &String| match label.split_once('=') {
        Some((key, value)) => value_of(key, &candidate.labels, &candidate.locality) == Some(value),
        None => {
            let own = value_of(label, client.labels, client.locality);
            own == value_of(label, &candidate.labels, &candidate.locality)
        }
    };
    let matched = labels.iter().take_while(|label| fits(label)).count();
    u32::try_from(labels.len() - matched).unwrap_or(u32::MAX)
}

/// A label; those of topology are told by the place as well.
fn value_of<'a>(key: &str, labels: &'a BTreeMap<String, String>, locality: &'a str) -> Option<&'a str> {
    let at = match key {
        "topology.kubernetes.io/region" => 0,
        "topology.kubernetes.io/zone" => 1,
        "topology.istio.io/subzone" => 2,
        _ => return labels.get(key).map(String::as_str),
    };
    let told = parts(locality).get(at).copied().filter(|part| !part.is_empty());
    told.or_else(|| labels.get(key).map(String::as_str))
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
