//! What one proxy is sent now, in the form of Envoy's own dump.

use std::collections::BTreeSet;

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::core::v3::Node;
use envoy_api::envoy::config::listener::v3::Listener;
use envoy_api::envoy::config::listener::v3::filter::ConfigType;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_api::{Any, unpack};
use http::StatusCode;
use mesh::Snapshot;
use pilot::Proxy;
use serde_json::{Value, json};

use super::{Answer, proxy_name};
use crate::server::State;

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Everything a proxy is sent, by kind.
pub(super) struct Sent {
    pub clusters: Vec<Any>,
    pub listeners: Vec<Any>,
    pub routes: Vec<Any>,
    pub endpoints: Vec<Any>,
}

type Refusal = (StatusCode, String);

/// The proxy of `POD.NAMESPACE`: as it connected, or as its pod would.
fn proxy(state: &State, id: &str) -> Result<(Snapshot, Proxy), Refusal> {
    let snapshot = state.loaded.borrow().snapshot.clone();
    let missing = |reason: String| (StatusCode::NOT_FOUND, reason);
    let connected = state.ads.connections().into_iter().find(|c| proxy_name(c) == id);
    let node = match connected {
        Some(connection) => connection.about,
        None => {
            let pod = id.rsplit_once('.');
            let workload = pod.and_then(|(pod, namespace)| snapshot.workload(namespace, pod));
            let workload = workload.ok_or_else(|| missing(format!("there is no proxy {id}, and no such pod")))?;
            let (ip, namespace) = (workload.ip, &workload.namespace);
            Node { id: format!("sidecar~{ip}~{id}~{namespace}.svc.cluster.local"), ..Node::default() }
        }
    };
    let proxy = Proxy::from_node(&node).map_err(|e| missing(e.to_string()))?;
    Ok((snapshot, proxy))
}

/// Translates for a proxy.
pub(super) fn sent(state: &State, id: &str) -> Result<Sent, Refusal> {
    let (snapshot, proxy) = proxy(state, id)?;
    let bodies = |made: Vec<pilot::Resource>| made.into_iter().map(|r| r.body).collect::<Vec<_>>();
    let clusters = bodies(pilot::clusters(&snapshot, &proxy));
    let listeners = bodies(pilot::listeners(&snapshot, &proxy));
    let routes = route_names(&listeners);
    let assigned = assigned(&clusters);
    Ok(Sent {
        routes: bodies(pilot::routes(&snapshot, &proxy, &routes)),
        endpoints: bodies(pilot::endpoints(&snapshot, &proxy, &assigned)),
        clusters,
        listeners,
    })
}

/// Names of the routes that listeners ask for.
fn route_names(listeners: &[Any]) -> Vec<String> {
    let mut names = BTreeSet::new();
    for listener in listeners.iter().filter_map(|any| unpack::<Listener>(any).ok()) {
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        for filter in chains.flat_map(|c| &c.filters) {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
            if any.type_url != HCM {
                continue;
            }
            let Ok(manager) = unpack::<HttpConnectionManager>(any) else { continue };
            if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
                names.insert(rds.route_config_name);
            }
        }
    }
    names.into_iter().collect()
}

/// Names of the clusters whose endpoints are sent by themselves.
fn assigned(clusters: &[Any]) -> Vec<String> {
    let all = clusters.iter().filter_map(|any| unpack::<Cluster>(any).ok());
    all.filter(|c| c.eds_cluster_config.is_some()).map(|c| c.name).collect()
}

/// The sections of a dump.
pub(super) fn sections(sent: &Sent) -> Vec<Value> {
    let wrap = |key: &str, all: &[Any]| -> Vec<Value> {
        all.iter().map(|any| json!({ key: envoy_api::any_to_json(any) })).collect()
    };
    let section = |kind: &str, field: &str, all: Vec<Value>| json!({"@type": format!("type.googleapis.com/envoy.admin.v3.{kind}"), field: all});
    let listeners = sent.listeners.iter().map(|any| {
        let listener = envoy_api::any_to_json(any);
        json!({"name": listener["name"], "active_state": {"listener": listener}})
    });
    vec![
        section("ClustersConfigDump", "dynamic_active_clusters", wrap("cluster", &sent.clusters)),
        section("EndpointsConfigDump", "dynamic_endpoint_configs", wrap("endpoint_config", &sent.endpoints)),
        section("ListenersConfigDump", "dynamic_listeners", listeners.collect()),
        section("RoutesConfigDump", "dynamic_route_configs", wrap("route_config", &sent.routes)),
    ]
}

/// What a proxy is sent, as Envoy would dump it.
pub(super) fn config_dump(state: &State, id: &str) -> Answer {
    Ok(json!({"configs": sections(&sent(state, id)?)}))
}

/// The endpoints a proxy is sent.
pub(super) fn endpoints(state: &State, id: &str) -> Answer {
    Ok(sent(state, id)?.endpoints.iter().map(envoy_api::any_to_json).collect())
}

/// The names a proxy's agent answers for.
pub(super) fn names(state: &State, id: &str) -> Answer {
    let (snapshot, proxy) = proxy(state, id)?;
    Ok(pilot::name_table(&snapshot, &proxy).iter().map(|r| envoy_api::any_to_json(&r.body)).collect())
}
