//! Endpoints: the addresses behind a cluster.

use std::collections::BTreeMap;

use mesh::{Endpoint, Snapshot};
use serde_json::{Value, json};

use crate::{Proxy, Resource, names};

/// The load assignments of the named clusters; a cluster that does not exist is left out.
pub fn endpoints(snapshot: &Snapshot, proxy: &Proxy, wanted: &[String]) -> Vec<Resource> {
    wanted
        .iter()
        .filter_map(|name| {
            let mut json = assignment(snapshot, proxy, name, true)?;
            json["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
            Resource::from_json(name, json)
        })
        .collect()
}

/// One load assignment without its type; `health`: whether to say how each host is.
pub(crate) fn assignment(snapshot: &Snapshot, proxy: &Proxy, name: &str, health: bool) -> Option<Value> {
    let (port, subset, host) = names::parse_outbound(name)?;
    let service = snapshot.service(host)?;
    service.ports.iter().find(|p| p.port == port)?;
    let labels = if subset.is_empty() {
        BTreeMap::new()
    } else {
        let rule = snapshot.destination_rule_for(host, &proxy.namespace, &proxy.labels)?;
        rule.subsets.iter().find(|s| s.name == subset)?.labels.clone()
    };
    let mut places: BTreeMap<String, Vec<(u32, Value)>> = BTreeMap::new();
    for endpoint in snapshot.endpoints(host, port) {
        if labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)) {
            let weight = endpoint.weight.max(1);
            places
                .entry(endpoint.locality.clone())
                .or_default()
                .push((weight, host_entry(&endpoint, proxy, weight, health)));
        }
    }
    let mut out = json!({"clusterName": name});
    if !places.is_empty() {
        out["endpoints"] = places.into_iter().map(|(place, hosts)| locality(&place, hosts)).collect();
    }
    Some(out)
}

fn locality(place: &str, hosts: Vec<(u32, Value)>) -> Value {
    let weight = hosts.iter().fold(0u32, |sum, (weight, _)| sum.saturating_add(*weight));
    let mut parts = place.splitn(3, '/');
    let mut at = json!({});
    for key in ["region", "zone", "subZone"] {
        if let Some(part) = parts.next().filter(|part| !part.is_empty()) {
            at[key] = json!(part);
        }
    }
    let hosts: Vec<Value> = hosts.into_iter().map(|(_, host)| host).collect();
    json!({"lbEndpoints": hosts, "loadBalancingWeight": weight, "locality": at})
}

fn host_entry(endpoint: &Endpoint, proxy: &Proxy, weight: u32, health: bool) -> Value {
    let mut metadata = json!({"istio": {"workload": workload(endpoint, proxy)}});
    if endpoint.workload.as_ref().is_some_and(|workload| workload.in_mesh) {
        metadata["envoy.transport_socket_match"] = json!({"tlsMode": "istio"});
    }
    let mut out = json!({
        "endpoint": {"address": {"socketAddress": {"address": endpoint.address, "portValue": endpoint.port}}},
        "loadBalancingWeight": weight,
        "metadata": {"filterMetadata": metadata}
    });
    if health {
        out["healthStatus"] = json!(if endpoint.ready { "HEALTHY" } else { "UNHEALTHY" });
    }
    out
}

/// `WORKLOAD;NAMESPACE;CANONICAL NAME;REVISION;CLUSTER`, by which metrics know the peer.
fn workload(endpoint: &Endpoint, proxy: &Proxy) -> String {
    let cluster = proxy.cluster_id();
    match &endpoint.workload {
        Some(w) => {
            format!("{};{};{};{};{cluster}", w.workload_name, w.namespace, w.canonical_service, w.canonical_revision)
        }
        None => format!(";;;;{cluster}"),
    }
}
