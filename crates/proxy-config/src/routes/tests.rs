use std::sync::Arc;

use http::HeaderMap;
use serde_json::json;
use telemetry::{Telemetry, Workload};

use super::*;
use crate::compile_routes;

fn context() -> Context {
    Context::new(Arc::default(), Arc::default(), Telemetry::new(Workload::unknown()))
}

/// So many services, one virtual host each; the first goes to `cluster`.
fn mesh(services: usize, cluster: &str) -> proto::RouteConfiguration {
    let host = |i: usize| {
        let to = if i == 0 { cluster.to_owned() } else { format!("outbound|80||s{i}.shop") };
        json!({
            "name": format!("s{i}.shop:80"), "domains": [format!("s{i}.shop"), format!("s{i}")],
            "routes": [{"name": format!("r{i}"), "match": {"prefix": "/"}, "route": {"cluster": to}}],
        })
    };
    let mut hosts: Vec<_> = (0..services).map(host).collect();
    hosts.push(json!({"name": "any", "domains": ["*"], "routes": [{"name": "any", "match": {"prefix": "/"}, "directResponse": {"status": 502}}]}));
    envoy_api::message_from_json(json!({"name": "80", "virtualHosts": hosts})).unwrap()
}

fn route(routes: &Routes, context: &Context, authority: &str) -> Option<String> {
    let headers = HeaderMap::new();
    let view = RequestView { authority, path: "/", method: "GET", scheme: "http", headers: &headers };
    routes.select(&view, context).map(|(_, route)| route.name.to_string())
}

fn awake(routes: &Routes) -> usize {
    routes.table.hosts().iter().filter(|host| host.awake.get().is_some()).count()
}

#[test]
fn a_virtual_host_rests_until_a_request_takes_it() {
    let context = context();
    let routes = compile_routes(&mesh(100, "a"), &context, None).unwrap();
    assert_eq!(awake(&routes), 0);
    assert_eq!(route(&routes, &context, "s7.shop").as_deref(), Some("r7"));
    assert_eq!(route(&routes, &context, "S7").as_deref(), Some("r7"));
    assert_eq!(awake(&routes), 1);
    assert_eq!(route(&routes, &context, "elsewhere").as_deref(), Some("any"));
    assert_eq!(routes.hosts(&context).count(), 101);
}

#[test]
fn what_did_not_change_stays_awake() {
    let context = context();
    let before = compile_routes(&mesh(100, "a"), &context, None).unwrap();
    assert_eq!(route(&before, &context, "s0").as_deref(), Some("r0"));
    assert_eq!(route(&before, &context, "s7").as_deref(), Some("r7"));
    let after = compile_routes(&mesh(120, "b"), &context, Some(&before)).unwrap();
    assert_eq!(awake(&after), 1, "the first is another one now");
    assert_eq!(route(&after, &context, "s119").as_deref(), Some("r119"));
    let to =
        |routes: &Routes| format!("{:?}", routes.table.host("s0").unwrap().get(&context).unwrap().routes[0].action);
    assert!(to(&before).contains("name: \"a\"") && to(&after).contains("name: \"b\""), "{}", to(&after));
}

#[test]
fn what_is_wrong_is_refused_when_it_comes() {
    let context = context();
    let mut routes = mesh(3, "a");
    routes.virtual_hosts[1].routes[0].r#match = None;
    let error = compile_routes(&routes, &context, None).unwrap_err();
    assert_eq!(error.to_string(), "80: virtual_hosts[s1.shop:80].routes[0].match: is missing");
}
