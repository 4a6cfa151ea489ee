//! `/config_dump`: what is in force, in Envoy's sections and order.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Admin, Page, json_page, text};
use crate::Proxy;

/// The word that stands where a private key would: Envoy's, in base64.
const REDACTED: &str = "W3JlZGFjdGVkXQ==";

/// The dump; `?resource=` shows one list of one section.
pub(super) fn page(admin: &Admin, query: &str) -> Page {
    let parameter = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
    let wanted = parameter("resource");
    let endpoints = query.split('&').any(|p| p == "include_eds" || p.starts_with("include_eds="))
        || wanted.is_some_and(|w| w.ends_with("endpoint_configs"));
    let sections = sections(admin, parameter("name_regex"), endpoints);
    envoy_api::release_descriptors();
    let Some(wanted) = wanted else { return json_page(&json!({"configs": sections})) };
    match sections.iter().find_map(|s| s.get(wanted)) {
        Some(Value::Array(items)) => json_page(&json!({"configs": items})),
        Some(one) => json_page(&json!({"configs": [one]})),
        None => text(StatusCode::NOT_FOUND, format!("{wanted} not found in config dump\n")),
    }
}

fn section(kind: &str, mut body: Value) -> Value {
    let mut section =
        Map::from_iter([("@type".to_owned(), json!(format!("type.googleapis.com/envoy.admin.v3.{kind}")))]);
    section.append(body.as_object_mut().unwrap_or(&mut Map::new()));
    section.into()
}

fn sections(admin: &Admin, name: Option<&str>, endpoints: bool) -> Vec<Value> {
    let resources = &admin.proxy.resources;
    let of = |kind: &str| -> Vec<Value> {
        let wanted = resources.names(kind).into_iter().filter(|n| name.is_none_or(|part| n.contains(part)));
        wanted.filter_map(|name| resources.find(kind, &name)).map(|any| envoy_api::any_to_json(&any)).collect()
    };
    let wrap = |key: &str, items: Vec<Value>| items.into_iter().map(|i| json!({key: i})).collect::<Vec<_>>();
    let listeners = of("envoy.config.listener.v3.Listener");
    let listeners = listeners.into_iter().map(|l| json!({"name": l["name"], "active_state": {"listener": l}}));
    let clusters = wrap("cluster", of("envoy.config.cluster.v3.Cluster"));
    let routes = wrap("route_config", of("envoy.config.route.v3.RouteConfiguration"));
    let mut of_clusters = json!({"dynamic_active_clusters": clusters});
    let fixed = fixed_clusters(admin, name);
    if !fixed.is_empty() {
        of_clusters["static_clusters"] = wrap("cluster", fixed).into();
    }
    let mut all = vec![
        section("BootstrapConfigDump", json!({"bootstrap": admin.bootstrap})),
        section("ClustersConfigDump", of_clusters),
    ];
    if endpoints {
        let list = wrap("endpoint_config", of("envoy.config.endpoint.v3.ClusterLoadAssignment"));
        all.push(section("EndpointsConfigDump", json!({"dynamic_endpoint_configs": list})));
    }
    all.push(section("ListenersConfigDump", json!({"dynamic_listeners": listeners.collect::<Vec<_>>()})));
    // Envoy shows this section where nothing uses scoped routes, too.
    all.push(section("ScopedRoutesConfigDump", json!({})));
    all.push(section("RoutesConfigDump", json!({"dynamic_route_configs": routes})));
    all.push(section("SecretsConfigDump", secrets(&admin.proxy, name)));
    all
}

/// The clusters that the sidecar was started with.
fn fixed_clusters(admin: &Admin, name: Option<&str>) -> Vec<Value> {
    let all = admin.bootstrap.pointer("/static_resources/clusters").and_then(Value::as_array);
    let wanted = all
        .into_iter()
        .flatten()
        .filter(|c| name.is_none_or(|part| c["name"].as_str().is_some_and(|called| called.contains(part))));
    let typed = |cluster: &Value| {
        let mut out = json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"});
        out.as_object_mut().into_iter().for_each(|o| o.extend(cluster.as_object().cloned().unwrap_or_default()));
        out
    };
    wanted.map(typed).collect()
}

/// Certificates and roots by name; those that have not come yet are warming. Keys never leave.
fn secrets(proxy: &Proxy, name: Option<&str>) -> Value {
    let store = proxy.secrets();
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    let mut put = |name: &str, content: Option<Value>| {
        let mut secret =
            json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": name});
        match content {
            Some(Value::Object(content)) => {
                secret.as_object_mut().into_iter().for_each(|s| s.extend(content.clone()));
                active.push(json!({"name": name, "secret": secret}));
            }
            _ => warming.push(json!({"name": name, "secret": secret})),
        }
    };
    let wanted = |n: &String| name.is_none_or(|part| n.contains(part));
    let bytes = |pem: String| json!({"inline_bytes": STANDARD.encode(pem)});
    for name in store.certificate_names().into_iter().filter(wanted) {
        let content = store.certificate(&name).pem().map(|pem| {
            json!({"tls_certificate": {"certificate_chain": bytes(pem), "private_key": {"inline_bytes": REDACTED}}})
        });
        put(&name, content);
    }
    for name in store.root_names().into_iter().filter(wanted) {
        let content = store.roots(&name).pem().map(|pem| json!({"validation_context": {"trusted_ca": bytes(pem)}}));
        put(&name, content);
    }
    let mut section = Map::new();
    for (field, list) in [("dynamic_active_secrets", active), ("dynamic_warming_secrets", warming)] {
        if !list.is_empty() {
            section.insert(field.to_owned(), list.into());
        }
    }
    section.into()
}
