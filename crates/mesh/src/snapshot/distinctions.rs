//! What tells callers apart: of their labels, namespaces and nodes only those that something in the mesh asks for decide
//! what they are sent of the services that they call.

use std::collections::{BTreeMap, BTreeSet};

use istio_api::networking::{LoadBalancerSettings, LocalityLbSetting, TrafficPolicy, ZoneAwareLbSetting};

use super::{Inner, Snapshot};
use crate::model::{Distribution, HOSTNAME};

/// Labels of places, which every preference of places may ask for.
const PLACES: &str = "topology.";

/// What something in a mesh asks callers for.
#[derive(Debug, Default)]
pub(super) struct Distinctions {
    /// Keys of labels: of selectors, of `sourceLabels` and of `failoverPriority`.
    labels: BTreeSet<String>,
    /// Namespaces with rules or services of their own, and those that an `exportTo` names; `None`: all.
    namespaces: Option<BTreeSet<String>>,
    /// Something ranks endpoints by the node of who calls.
    nodes: bool,
}

impl Snapshot {
    /// Whether it matters to anybody on which node a caller is.
    pub fn tells_nodes_apart(&self) -> bool {
        self.0.distinctions.nodes
    }

    /// Whether clients in a namespace may be sent other clusters and endpoints than those of any other. Their routes
    /// differ all the same, by the short names of hosts.
    pub fn tells_apart(&self, namespace: &str) -> bool {
        self.0.distinctions.namespaces.as_ref().is_none_or(|told| told.contains(namespace))
    }

    /// Of a caller's labels those that decide which rules and routes are its own.
    pub fn telling_labels(&self, of: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let told = |key: &str| key.starts_with(PLACES) || self.0.distinctions.labels.contains(key);
        of.iter().filter(|(key, _)| told(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Distinctions {
    pub(super) fn of(mesh: &Inner) -> Self {
        let mut found = Self { namespaces: Some(BTreeSet::new()), ..Self::default() };
        found.priorities(mesh.mesh.locality_lb_setting.as_ref(), mesh.mesh.zone_aware_lb_setting.as_ref());
        for ((namespace, _), rule) in mesh.rules.iter().flat_map(|(key, rules)| rules.iter().map(move |r| (key, r))) {
            found.labels.extend(rule.selector.keys().cloned());
            found.namespace(namespace);
            found.exported(&rule.export_to);
            let of_subsets = rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
            rule.traffic_policy.iter().chain(of_subsets).for_each(|policy| found.policy(policy));
        }
        for sidecar in &mesh.sidecars {
            found.labels.extend(sidecar.spec.workload_selector.iter().flat_map(|s| s.labels.keys().cloned()));
        }
        for http in mesh.roots.iter().flat_map(|vs| &vs.spec.http) {
            found.labels.extend(http.r#match.iter().flat_map(|m| m.source_labels.keys().cloned()));
        }
        for service in &mesh.services {
            found.nodes |= service.distribution == Some(Distribution::SameNode);
            if !service.visible_to("") {
                found.namespace(&service.namespace);
                found.exported(&service.export_to);
            }
        }
        for several in mesh.declared.values().filter(|all| all.len() > 1) {
            several.iter().for_each(|declared| found.namespace(&declared.service.namespace));
        }
        if !mesh.sidecars.is_empty() {
            // `./*` means another thing to each.
            found.namespaces = None;
        }
        found
    }

    fn namespace(&mut self, name: &str) {
        if let Some(known) = &mut self.namespaces {
            known.insert(name.to_owned());
        }
    }

    fn exported(&mut self, to: &[String]) {
        to.iter().filter(|name| !matches!(name.as_str(), "*" | "." | "~")).for_each(|name| self.namespace(name));
    }

    fn policy(&mut self, of: &TrafficPolicy) {
        self.balancer(of.load_balancer.as_ref());
        of.port_level_settings.iter().for_each(|port| self.balancer(port.load_balancer.as_ref()));
    }

    fn balancer(&mut self, of: Option<&LoadBalancerSettings>) {
        if let Some(of) = of {
            self.priorities(of.locality_lb_setting.as_ref(), of.zone_aware_lb_setting.as_ref());
        }
    }

    fn priorities(&mut self, places: Option<&LocalityLbSetting>, zones: Option<&ZoneAwareLbSetting>) {
        let of_places = places.iter().flat_map(|setting| &setting.failover_priority);
        for label in of_places.chain(zones.iter().flat_map(|setting| &setting.failover_priority)) {
            // `key=value` asks for a value of the endpoint alone.
            self.nodes |= label == HOSTNAME;
            self.labels.insert(label.clone());
        }
    }
}
