//! Endpoints: the addresses behind a cluster.

use std::collections::BTreeMap;

use istio_api::unix::socket_path;
use mesh::{Endpoint, Snapshot};
use serde_json::{Value, json};

use crate::{Proxy, Resource, clusters, locality, names, scope};

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
    let service = snapshot.service_for(host, &proxy.namespace)?;
    service.ports.iter().find(|p| p.port == port)?;
    let labels = if subset.is_empty() {
        BTreeMap::new()
    } else {
        let rule = snapshot.destination_rule_for(host, &proxy.namespace, &proxy.labels)?;
        rule.subsets.iter().find(|s| s.name == subset)?.labels.clone()
    };
    let candidates = snapshot.endpoints_of(service, port).into_iter().filter_map(|endpoint| {
        if !labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)) {
            return None;
        }
        let weight = endpoint.weight.max(1);
        let host = host_entry(&endpoint, proxy, weight, health);
        Some(locality::Candidate { locality: endpoint.locality, labels: endpoint.labels, weight, host })
    });
    let traffic = clusters::traffic(snapshot, proxy, host, subset, port);
    let here = scope::own_workload(snapshot, proxy).map(|own| snapshot.locality(&own)).unwrap_or_default();
    let client = locality::Client { locality: &here, labels: &proxy.labels };
    let groups = locality::groups(traffic.as_ref(), &client, candidates.collect());
    let mut out = json!({"clusterName": name});
    if !groups.is_empty() {
        out["endpoints"] = groups.into_iter().map(group).collect();
    }
    Some(out)
}

fn group(of: locality::Group) -> Value {
    let mut parts = of.locality.splitn(3, '/');
    let mut at = json!({});
    for key in ["region", "zone", "subZone"] {
        if let Some(part) = parts.next().filter(|part| !part.is_empty()) {
            at[key] = json!(part);
        }
    }
    let mut out = json!({"lbEndpoints": of.hosts, "loadBalancingWeight": of.weight, "locality": at});
    if of.priority > 0 {
        out["priority"] = json!(of.priority);
    }
    out
}

fn host_entry(endpoint: &Endpoint, proxy: &Proxy, weight: u32, health: bool) -> Value {
    let mut metadata = json!({"istio": {"workload": workload(endpoint, proxy)}});
    if endpoint.workload.as_ref().is_some_and(|workload| workload.in_mesh) {
        metadata["envoy.transport_socket_match"] = json!({"tlsMode": "istio"});
    }
    let address = match socket_path(&endpoint.address) {
        Some(path) => json!({"pipe": {"path": path}}),
        None => json!({"socketAddress": {"address": endpoint.address, "portValue": endpoint.port}}),
    };
    let mut out = json!({
        "endpoint": {"address": address},
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
