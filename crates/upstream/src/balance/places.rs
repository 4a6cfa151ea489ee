//! Localities: hosts of one place, and the share of the traffic that their place has (Envoy's locality weighted balancing).

use std::sync::Arc;

use super::weight;
use crate::host::Host;

/// A place counts in full while so many percent of its hosts, divided by this, are well (Envoy's overprovisioning).
const OVERPROVISIONING: u64 = 140;
/// What the weight of a place is divided into.
const PARTS: u64 = 1000;

/// Hosts by place, in the order in which places come.
pub(super) fn split(hosts: &[Arc<Host>]) -> Vec<Vec<Arc<Host>>> {
    let mut places: Vec<Vec<Arc<Host>>> = Vec::new();
    for host in hosts {
        let known = places.iter_mut().find(|p| p.first().is_some_and(|h| h.config.locality == host.config.locality));
        match known {
            Some(place) => place.push(host.clone()),
            None => places.push(vec![host.clone()]),
        }
    }
    places
}

/// The share of a place, less when many of its hosts are unwell.
pub(super) fn share(place: &[Arc<Host>], panic: bool) -> u64 {
    let given = place.first().map_or(0, |h| u64::from(h.config.locality_weight));
    if panic {
        return given * 100;
    }
    let available = place.iter().filter(|h| h.is_available()).count() as u64;
    given * (available * OVERPROVISIONING).checked_div(place.len() as u64).unwrap_or(0).min(100)
}

/// All hosts with weights that give each place its share.
pub(super) fn scaled(places: &[Vec<Arc<Host>>], panic: bool) -> (Vec<Arc<Host>>, Vec<u64>) {
    let mut out = (Vec::new(), Vec::new());
    for place in places {
        let share = place.first().map_or(0, |h| u64::from(h.config.locality_weight));
        let hosts: Vec<&Arc<Host>> = place.iter().filter(|h| panic || h.is_available()).collect();
        let sum: u64 = hosts.iter().map(|h| weight(h)).sum();
        for host in hosts.into_iter().filter(|_| share > 0) {
            let part = (share * PARTS * weight(host)).checked_div(sum).unwrap_or(0);
            out.1.push(part.max(1));
            out.0.push(host.clone());
        }
    }
    out
}
