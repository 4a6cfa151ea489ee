//! What the mesh is: services, endpoints, workloads, objects, settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use istio_api::{Object, Resource};
use serde::Serialize;
use serde_json::{Value, json};

use crate::server::State;

/// All services.
pub(super) fn registry(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let services = loaded.snapshot.services().map(|s| {
        let ports: Vec<Value> = s
            .ports
            .iter()
            .map(|p| json!({"name": p.name, "port": p.port, "protocol": format!("{:?}", p.protocol)}))
            .collect();
        json!({"hostname": s.host, "vips": s.vips, "ports": ports})
    });
    services.collect()
}

/// All endpoints, by service and port.
pub(super) fn endpoints(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let snapshot = &loaded.snapshot;
    let of = |s: &Arc<mesh::Service>, port: u16| {
        let all = snapshot.endpoints(&s.host, port);
        let addresses: Vec<String> = all.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
        json!({"service": s.host, "port": port, "endpoints": addresses})
    };
    snapshot.services().flat_map(|s| s.ports.iter().map(move |p| of(s, p.port))).collect()
}

/// All workloads.
pub(super) fn instances(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let one = |w: &Arc<mesh::Workload>| {
        json!({
            "name": w.name, "namespace": w.namespace, "address": w.ip.to_string(), "labels": w.labels,
            "serviceAccount": w.service_account,
        })
    };
    loaded.snapshot.workloads().map(one).collect()
}

fn plain<T: Serialize + Default>(object: &Object<T>) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    prune(&mut value);
    value
}

/// Fields that say nothing are left out, as Kubernetes does.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| {
                !(v.is_null()
                    || v.as_array().is_some_and(Vec::is_empty)
                    || v.as_object().is_some_and(serde_json::Map::is_empty)
                    || v == "")
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// All objects in force, as they were written; of one kind when it is named.
pub(super) fn configuration(state: &State, kind: Option<&str>) -> Value {
    let loaded = state.loaded.borrow();
    let mut all = Vec::new();
    for (resource, origin) in loaded.resources.iter() {
        let mut value = match resource {
            Resource::VirtualService(o) => plain(o),
            Resource::DestinationRule(o) => plain(o),
            Resource::PeerAuthentication(o) => plain(o),
            Resource::AuthorizationPolicy(o) => plain(o),
            Resource::RequestAuthentication(o) => plain(o),
            Resource::Telemetry(o) => plain(o),
            Resource::ServiceEntry(o) => plain(o),
            Resource::WorkloadEntry(o) => plain(o),
            Resource::Service(o) => plain(o),
            Resource::Namespace(o) => plain(o),
            other => {
                let (kind, namespace, name) = other.key();
                json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}})
            }
        };
        value["origin"] = origin.to_string().into();
        if kind.is_none_or(|k| value["kind"] == k) {
            all.push(value);
        }
    }
    all.into()
}

/// How many objects of each kind there are.
pub(super) fn counts(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (resource, _) in loaded.resources.iter() {
        *counts.entry(resource.key().0).or_default() += 1;
    }
    json!(counts)
}

/// Authorization policies by namespace.
pub(super) fn authorization(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let mut by_namespace: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for policy in loaded.snapshot.authorization_policies() {
        by_namespace.entry(policy.metadata.namespace.clone()).or_default().push(plain(policy));
    }
    json!({"namespace_to_policies": by_namespace, "root_namespace": loaded.snapshot.root_namespace()})
}

/// The mesh configuration in force.
pub(super) fn mesh(state: &State) -> Value {
    serde_json::to_value(state.loaded.borrow().snapshot.mesh_config()).unwrap_or_default()
}

/// What of the configuration could not be made true.
pub(super) fn push_status(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let unbuilt = pilot::unsupported(&loaded.snapshot).len();
    json!({"refused": loaded.problems.len(), "unsupported": unbuilt, "xds_rejects": state.ads.rejects()})
}
