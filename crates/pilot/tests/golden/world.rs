//! The mesh that was recorded: its configuration from mesh.yaml, its services and pods as the answers show them.
//!
//! The only file of these tests that builds `mesh` values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_api::envoy::config::core::v3::{Extension, Node};
use mesh::{
    Endpoint, Inner, MergedDestinationRule, MtlsMode, Protocol, Resolution, Service, ServicePort, Snapshot, Workload,
};
use pilot::Proxy;
use serde_json::json;

/// The mesh-wide mTLS mode.
#[derive(Clone, Copy)]
pub enum Mode {
    Strict,
    Permissive,
}

/// The sidecar of a recorded pod, with all of Istio's extensions.
pub fn proxy(pod: &str) -> Proxy {
    Proxy::from_node(&node(pod, pod_ip(pod))).expect("the node is valid")
}

/// The sidecar of a pod that the mesh does not know.
pub fn stranger() -> Proxy {
    Proxy::from_node(&node("stranger", "10.244.9.9")).expect("the node is valid")
}

/// The same pod with an Envoy that has none of Istio's extensions.
pub fn stock_envoy(pod: &str) -> Proxy {
    let mut node = node(pod, pod_ip(pod));
    node.extensions = vec![Extension { name: "envoy.filters.http.router".to_owned(), ..Extension::default() }];
    Proxy::from_node(&node).expect("the node is valid")
}

fn node(pod: &str, ip: &str) -> Node {
    Node { id: format!("sidecar~{ip}~{pod}.production~production.svc.cluster.local"), ..Node::default() }
}

fn pod_ip(pod: &str) -> &'static str {
    PODS.iter().find(|(name, ..)| *name == pod).map_or("0.0.0.0", |(_, ip, ..)| ip)
}

/// Name, address, service account, service.
const PODS: [(&str, &str, &str, &str); 6] = [
    ("payment-api-v1-0", "10.244.0.10", "payment-service-sa", "payment-api"),
    ("payment-api-v2-0", "10.244.0.11", "payment-service-sa", "payment-api"),
    ("order-service-v1-0", "10.244.0.12", "order-service-sa", "order-service"),
    ("database-service-v1-0", "10.244.0.13", "database-sa", "database-service"),
    ("undeclared-v1-0", "10.244.0.14", "default", "undeclared"),
    ("headless-v1-0", "10.244.0.15", "default", "headless"),
];

/// Name, address, port, protocol.
const SERVICES: [(&str, Option<&str>, u16, Protocol); 5] = [
    ("payment-api", Some("10.96.1.1"), 8080, Protocol::Http),
    ("order-service", Some("10.96.1.2"), 8080, Protocol::Http),
    ("database-service", Some("10.96.1.3"), 5432, Protocol::Tcp),
    ("undeclared", Some("10.96.1.4"), 9000, Protocol::Auto),
    ("headless", None, 7000, Protocol::Grpc),
];

/// The recorded mesh.
pub fn snapshot(mode: Mode) -> Snapshot {
    Snapshot(Arc::new(inner(mode)))
}

/// The recorded mesh, open to changes.
pub fn inner(mode: Mode) -> Inner {
    let mut world = Inner::default();
    world.mesh.access_log_file = Some("/dev/stdout".to_owned());
    world.mesh.access_log_encoding = Some("JSON".to_owned());
    world.default_mode = Some(match mode {
        Mode::Strict => MtlsMode::Strict,
        Mode::Permissive => MtlsMode::Permissive,
    });
    world.workloads = PODS.iter().map(|(name, ip, account, app)| Arc::new(workload(name, ip, account, app))).collect();
    for (name, vip, port, protocol) in SERVICES {
        let host = format!("{name}.production.svc.cluster.local");
        world.services.push(Arc::new(service(&host, name, "production", vip, port, protocol)));
        for pod in world.workloads.iter().filter(|pod| pod.labels.get("recorded").is_some_and(|app| app == name)) {
            world.endpoints.push((host.clone(), port, endpoint(&pod.ip.to_string(), port, Some(Arc::clone(pod)))));
        }
    }
    kubernetes(&mut world);
    bank(&mut world);
    payment_rules(&mut world);
    world
}

fn workload(name: &str, ip: &str, account: &str, app: &str) -> Workload {
    Workload {
        name: name.to_owned(),
        namespace: "production".to_owned(),
        ip: ip.parse().expect("a recorded address"),
        labels: BTreeMap::from([("recorded".to_owned(), app.to_owned())]),
        service_account: account.to_owned(),
        workload_name: name.to_owned(),
        in_mesh: false,
        ready: true,
        canonical_service: name.to_owned(),
        canonical_revision: String::new(),
        trust_domain: "cluster.local".to_owned(),
    }
}

fn service(host: &str, name: &str, namespace: &str, vip: Option<&str>, port: u16, protocol: Protocol) -> Service {
    let vips: Vec<IpAddr> = vip.iter().map(|ip| ip.parse().expect("a recorded address")).collect();
    Service {
        host: host.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        headless: vips.is_empty(),
        vips,
        ports: vec![ServicePort { name: String::new(), port, target_port: port, protocol }],
        selector: BTreeMap::from([("recorded".to_owned(), name.to_owned())]),
        external_name: None,
        resolution: Resolution::Endpoints,
        mesh_external: false,
    }
}

fn endpoint(address: &str, port: u16, workload: Option<Arc<Workload>>) -> Endpoint {
    let labels = workload.as_ref().map(|workload| workload.labels.clone()).unwrap_or_default();
    Endpoint { address: address.to_owned(), port, ready: true, labels, weight: 1, locality: String::new(), workload }
}

fn kubernetes(world: &mut Inner) {
    let host = "kubernetes.default.svc.cluster.local";
    let service = service(host, "kubernetes", "default", Some("10.96.0.1"), 443, Protocol::Https);
    world.services.push(Arc::new(service));
    world.endpoints.push((host.to_owned(), 443, endpoint("192.0.2.2", 26443, None)));
}

fn bank(world: &mut Inner) {
    let host = "api.bank.example";
    let mut entry = service(host, host, "production", Some("240.240.0.1"), 443, Protocol::Tls);
    entry.resolution = Resolution::Dns;
    entry.mesh_external = true;
    world.services.push(Arc::new(entry));
    let who = workload("bank", "0.0.0.0", "", "");
    world.endpoints.push((host.to_owned(), 443, endpoint(host, 443, Some(Arc::new(who)))));
}

fn payment_rules(world: &mut Inner) {
    let routes = json!({
        "metadata": {"name": "payment-api", "namespace": "production"},
        "spec": {"hosts": ["payment-api"], "http": [
            {"match": [{"headers": {"x-canary-user": {"exact": "true"}}}],
             "route": [{"destination": {"host": "payment-api", "subset": "v2"}}]},
            {"route": [
                {"destination": {"host": "payment-api", "subset": "v1"}, "weight": 90},
                {"destination": {"host": "payment-api", "subset": "v2"}, "weight": 10}
             ],
             "retries": {"attempts": 3, "perTryTimeout": "5s", "retryOn": "5xx,reset,connect-failure"},
             "timeout": "30s"}
        ]}
    });
    world.virtual_services.push(Arc::new(serde_json::from_value(routes).expect("this is a VirtualService")));
    let policy = json!({
        "connectionPool": {"http": {"http2MaxRequests": 1000, "http1MaxPendingRequests": 100}},
        "outlierDetection": {"consecutive5xxErrors": 5, "interval": "30s", "baseEjectionTime": "30s", "maxEjectionPercent": 50}
    });
    let subsets = json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]);
    world.rules.push(Arc::new(MergedDestinationRule {
        name: "payment-api".to_owned(),
        namespace: "production".to_owned(),
        host: "payment-api".to_owned(),
        traffic_policy: Some(serde_json::from_value(policy).expect("this is a traffic policy")),
        subsets: serde_json::from_value(subsets).expect("these are subsets"),
    }));
}
