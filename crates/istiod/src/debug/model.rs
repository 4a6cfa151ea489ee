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

/// What of the mesh is not as it was meant, in the form of Istio's: a metric, what it is about, and of which proxy.
pub(super) fn push_status(state: &State) -> Value {
    let (snapshot, problems) = {
        let loaded = state.loaded.borrow();
        (loaded.snapshot.clone(), loaded.problems.clone())
    };
    let message = |text: &str| json!({"message": text});
    let mut all: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
    for cluster in without_endpoints(&snapshot) {
        all.entry("pilot_eds_no_instances").or_default().insert(cluster, json!({}));
    }
    for problem in problems.iter() {
        let key = format!("{}:{}:{}", problem.file.display(), problem.line, problem.column);
        all.entry("galley_validation_failed").or_default().insert(key, message(&problem.reason));
    }
    for found in pilot::unsupported(&snapshot) {
        let field = found.pointer.trim_start_matches('/').replace('/', ".");
        let key = format!("{} {}/{} {field}", found.kind, found.namespace, found.name);
        all.entry("pilot_unsupported").or_default().insert(key, message(&found.reason));
    }
    for connection in state.ads.connections() {
        for (kind, status) in &connection.types {
            let Some(error) = &status.error else { continue };
            let key = format!("{} {kind}", super::proxy_name(&connection));
            let value = json!({"proxy": super::proxy_name(&connection), "message": error});
            all.entry("pilot_total_xds_rejects").or_default().insert(key, value);
        }
    }
    json!(all)
}

/// Clusters of services whose endpoints are known, and are none.
fn without_endpoints(snapshot: &mesh::Snapshot) -> Vec<String> {
    let known = |s: &&Arc<mesh::Service>| s.resolution == mesh::Resolution::Endpoints && s.external_name.is_none();
    let empty = |s: &Arc<mesh::Service>| -> Vec<String> {
        let ports = s.ports.iter().filter(|p| snapshot.endpoints(&s.host, p.port).is_empty());
        ports.map(|p| format!("outbound|{}||{}", p.port, s.host)).collect()
    };
    snapshot.services().filter(known).flat_map(empty).collect()
}

/// Gateways between networks. The model knows one network, in which every endpoint is reached at its own address: there
/// is no gateway between networks in any mesh of ours.
pub(super) fn networks(_: &State) -> Value {
    json!([])
}

/// The cluster that is read: istiod answers only after it was read completely.
pub(super) fn clusters(state: &State) -> Value {
    json!([{"id": state.cluster, "secretName": "", "syncStatus": "synced"}])
}

/// What the injector's templates add now; a mesh without webhook has none.
pub(super) fn templates(state: &State) -> super::Answer {
    let admission = state
        .admission
        .as_ref()
        .ok_or_else(|| (http::StatusCode::NOT_FOUND, "this istiod injects nothing: it is no cluster's".to_owned()))?;
    admission.templates().map(|all| json!(all)).map_err(|e| (http::StatusCode::INTERNAL_SERVER_ERROR, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_without_endpoints_are_told_by_their_clusters() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: pay, namespace: shop}\n\
            spec: {selector: {app: pay}, ports: [{name: http, port: 80}]}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: shop}\n\
            spec: {type: ExternalName, externalName: far.example, ports: [{name: http, port: 80}]}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: up, namespace: shop}\n\
            spec: {selector: {app: up}, ports: [{name: http, port: 80}]}\n---\n\
            apiVersion: v1\nkind: Pod\nmetadata: {name: up-1, namespace: shop, labels: {app: up}}\n\
            spec: {containers: [{name: app}]}\n\
            status: {podIP: 10.0.0.7, conditions: [{type: Ready, status: \"True\"}]}\n";
        let documents = istio_api::yaml::parse(text).unwrap();
        let read = |d| istio_api::read(d, "default").unwrap_or_else(|e| panic!("{e:?}"));
        let resources: Vec<Resource> = documents.iter().filter_map(read).collect();
        let empty = without_endpoints(&mesh::Snapshot::build(&resources));
        assert_eq!(empty, ["outbound|80||pay.shop.svc.cluster.local"]);
    }
}
