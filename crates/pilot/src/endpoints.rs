//! Endpoints: the addresses behind a cluster.

use std::collections::BTreeMap;

use istio_api::unix::socket_path;
use mesh::{Endpoint, Snapshot};
use serde_json::{Value, json};

use crate::locality::Preference;
use crate::{Outlook, Proxy, Resource, clusters, locality, names, object, scope};

/// The load assignments of the named clusters; a cluster that does not exist is left out.
pub fn endpoints(snapshot: &Snapshot, proxy: &Proxy, wanted: &[String]) -> Vec<Resource> {
    let mut all = called_endpoints(snapshot, &Outlook::of_places(snapshot, proxy), wanted);
    if wanted.iter().any(|name| name == names::LOCAL_CLUSTER) {
        all.extend(replicas(snapshot, proxy));
    }
    all
}

/// The load assignments of the named clusters of what may be called.
pub fn called_endpoints(snapshot: &Snapshot, outlook: &Outlook, wanted: &[String]) -> Vec<Resource> {
    wanted.iter().filter_map(|name| finished(name, assignment(snapshot, outlook, name, true)?)).collect()
}

/// The load assignment of `local_cluster`: the replicas of the proxy's own workload in its region, as endpoints of the
/// first of its services, under no rule: by where they are a proxy judges how many requests may stay in its zone. Those of
/// another rollout are left out: only replicas of one can be expected to be called alike. A proxy that does not say that it
/// knows them has none.
pub fn replicas(snapshot: &Snapshot, proxy: &Proxy) -> Option<Resource> {
    finished(names::LOCAL_CLUSTER, own_replicas(snapshot, proxy))
}

fn finished(name: &str, mut json: Value) -> Option<Resource> {
    json["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    Resource::from_json(name, json)
}

/// One load assignment without its type; `health`: whether to say how each host is.
pub(crate) fn assignment(snapshot: &Snapshot, outlook: &Outlook, name: &str, health: bool) -> Option<Value> {
    let (port, subset, host) = names::parse_outbound(name)?;
    let service = snapshot.service_for(host, &outlook.namespace)?;
    service.ports.iter().find(|p| p.port == port)?;
    let labels = if subset.is_empty() {
        BTreeMap::new()
    } else {
        let rule = snapshot.destination_rule_for(host, &outlook.namespace, &outlook.labels)?;
        rule.subsets.iter().find(|s| s.name == subset)?.labels.clone()
    };
    let candidates = snapshot.endpoints_of(service, port).into_iter().filter_map(|endpoint| {
        if !labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)) {
            return None;
        }
        Some(candidate(endpoint, outlook, health))
    });
    let traffic = clusters::traffic(snapshot, outlook, host, subset, port);
    let client = locality::Spot { locality: &outlook.locality, labels: &outlook.labels, node: outlook.node.as_deref() };
    let preference = Preference::of(snapshot.mesh_config(), traffic.as_ref(), service);
    Some(assigned(name, locality::groups(&preference, client, candidates.collect())))
}

fn own_replicas(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    const ROLLOUTS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];
    let own = scope::own_workload(snapshot, proxy).filter(|_| proxy.knows_replicas());
    let Some((own, (service, port))) = own.as_ref().and_then(|own| Some((own, scope::own_service(snapshot, own)?)))
    else {
        return assigned(names::LOCAL_CLUSTER, Vec::new());
    };
    let here = scope::locality(snapshot, proxy, Some(own));
    let region = |place: &str| place.split('/').next().unwrap_or_default().to_owned();
    let is_replica = |endpoint: &Endpoint| {
        endpoint.workload.as_ref().is_some_and(|other| other.workload_name == own.workload_name)
            && ROLLOUTS.iter().all(|key| endpoint.labels.get(*key) == own.labels.get(*key))
            && region(&endpoint.locality) == region(&here)
    };
    let all = snapshot.endpoints_of(service, port).into_iter().filter(is_replica);
    assigned(names::LOCAL_CLUSTER, locality::alike(all.map(|endpoint| candidate(endpoint, proxy, true)).collect()))
}

fn candidate(endpoint: Endpoint, proxy: &Proxy, health: bool) -> locality::Candidate {
    let weight = endpoint.weight.max(1);
    let host = host_entry(&endpoint, proxy, weight, health);
    let node = endpoint.workload.as_ref().and_then(|workload| workload.node.clone());
    locality::Candidate { locality: endpoint.locality, labels: endpoint.labels, node, weight, host }
}

fn assigned(name: &str, groups: Vec<locality::Group>) -> Value {
    let mut out = json!({"clusterName": name});
    if !groups.is_empty() {
        out["endpoints"] = groups.into_iter().map(group).collect();
    }
    out
}

fn group(of: locality::Group) -> Value {
    let mut parts = of.locality.splitn(3, '/');
    let mut at = json!({});
    for key in ["region", "zone", "subZone"] {
        if let Some(part) = parts.next().filter(|part| !part.is_empty()) {
            at[key] = json!(part);
        }
    }
    let mut out =
        object([("lbEndpoints", of.hosts.into()), ("loadBalancingWeight", of.weight.into()), ("locality", at)]);
    if of.priority > 0 {
        out["priority"] = json!(of.priority);
    }
    out
}

fn host_entry(endpoint: &Endpoint, proxy: &Proxy, weight: u32, health: bool) -> Value {
    let mut metadata = object([("istio", object([("workload", workload(endpoint, proxy).into())]))]);
    if endpoint.workload.as_ref().is_some_and(|workload| workload.in_mesh) {
        metadata["envoy.transport_socket_match"] = json!({"tlsMode": "istio"});
    }
    let address = match socket_path(&endpoint.address) {
        Some(path) => json!({"pipe": {"path": path}}),
        None => json!({"socketAddress": {"address": endpoint.address, "portValue": endpoint.port}}),
    };
    let mut out = object([
        ("endpoint", object([("address", address)])),
        ("loadBalancingWeight", weight.into()),
        ("metadata", object([("filterMetadata", metadata)])),
    ]);
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
