//! What of a proxy decides which clusters, endpoints and routes it is sent: two of the same outlook are sent the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh::Snapshot;
use serde_json::Value;

use crate::{Kind, Proxy, scope, sidecar};

/// Node metadata that names one pod of many and decides nothing here. What is not named here keeps two apart.
const OF_ONE_POD: [&str; 3] = ["NAME", "INSTANCE_IPS", "NODE_NAME"];

/// What the replicas of one workload have in common. Listeners also look at a proxy's own address, so they are not
/// decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outlook {
    kind: Kind,
    namespace: String,
    domain_suffix: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    metadata: String,
    extensions: Vec<String>,
    stock_envoy: bool,
    locality: String,
    workload: Option<Own>,
    /// Where a Sidecar's ingress listener may lead to it.
    ip: Option<IpAddr>,
}

/// Of the workload beside the proxy: where it is, and which services lead to which of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Own {
    namespace: String,
    labels: BTreeMap<String, String>,
    named_ports: BTreeMap<String, u16>,
    locality: String,
    /// What made it, where the proxy knows its replicas, which are those of the same.
    workload_name: Option<String>,
    /// Where it matters.
    node: Option<String>,
}

impl Outlook {
    /// The outlook of a proxy in a snapshot; comparable within that snapshot only.
    pub fn of(snapshot: &Snapshot, proxy: &Proxy) -> Self {
        let mut metadata = proxy.metadata.clone();
        if let Value::Object(map) = &mut metadata {
            OF_ONE_POD.iter().for_each(|key| drop(map.remove(*key)));
            map.sort_keys();
        }
        let mut extensions: Vec<String> = proxy.extensions.iter().cloned().collect();
        extensions.sort_unstable();
        let own = |workload: &mesh::Workload| Own {
            namespace: workload.namespace.clone(),
            labels: workload.labels.clone(),
            named_ports: workload.named_ports.clone(),
            locality: snapshot.locality(workload),
            workload_name: proxy.knows_replicas().then(|| workload.workload_name.clone()),
            node: workload.node.clone().filter(|_| snapshot.tells_nodes_apart()),
        };
        Self {
            kind: proxy.kind,
            namespace: proxy.namespace.clone(),
            domain_suffix: proxy.domain_suffix.clone(),
            service_account: proxy.service_account.clone(),
            labels: proxy.labels.clone(),
            metadata: metadata.to_string(),
            extensions,
            stock_envoy: proxy.stock_envoy,
            locality: proxy.locality.clone(),
            workload: scope::own_workload(snapshot, proxy).as_deref().map(own),
            ip: sidecar::of(snapshot, proxy).filter(|s| !s.ingress.is_empty()).map(|_| proxy.ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_api::envoy::config::core::v3::Node;
    use istio_api::Resource;
    use istio_api::yaml::Document;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Resource {
        istio_api::read(&Document::bare(value), "shop").unwrap().unwrap()
    }

    fn pod(name: &str, ip: &str, app: &str) -> Resource {
        object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
            "spec": {"containers": [{"name": "istio-proxy"}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    fn service(app: &str) -> Resource {
        object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "shop"},
            "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80}]}}))
    }

    fn sidecar_of(name: &str, ip: &str, app: &str) -> Proxy {
        let node: Node = envoy_api::message_from_json(json!({
            "id": format!("sidecar~{ip}~{name}.shop~shop.svc.cluster.local"),
            "metadata": {"NAME": name, "INSTANCE_IPS": ip, "NAMESPACE": "shop", "LABELS": {"app": app}},
        }))
        .unwrap();
        Proxy::from_node(&node).unwrap()
    }

    #[test]
    fn replicas_are_sent_the_same_and_others_are_told_apart() {
        let mut all = vec![
            service("pay"),
            service("cart"),
            pod("pay-1", "10.0.0.1", "pay"),
            pod("pay-2", "10.0.0.2", "pay"),
            pod("cart-1", "10.0.0.3", "cart"),
        ];
        let (one, two, other) = (
            sidecar_of("pay-1", "10.0.0.1", "pay"),
            sidecar_of("pay-2", "10.0.0.2", "pay"),
            sidecar_of("cart-1", "10.0.0.3", "cart"),
        );
        let snapshot = Snapshot::build(&all);
        assert_eq!(Outlook::of(&snapshot, &one), Outlook::of(&snapshot, &two));
        assert_ne!(Outlook::of(&snapshot, &one), Outlook::of(&snapshot, &other));
        let names = ["outbound|80||pay.shop.svc.cluster.local".to_owned()];
        let routes = ["80".to_owned()];
        let made = |proxy: &Proxy| {
            (
                crate::clusters(&snapshot, proxy),
                crate::endpoints(&snapshot, proxy, &names),
                crate::routes(&snapshot, proxy, &routes),
            )
        };
        assert!(!made(&one).1.is_empty() && !made(&one).2.is_empty());
        assert_eq!(made(&one), made(&two));
        // A pod that the mesh does not know yet has no ports of its own.
        let unknown = sidecar_of("pay-3", "10.0.0.9", "pay");
        assert_ne!(Outlook::of(&snapshot, &one), Outlook::of(&snapshot, &unknown));
        // An ingress listener leads to the address of each.
        all.push(object(json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": "own", "namespace": "shop"},
            "spec": {"ingress": [{"port": {"number": 80, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "0.0.0.0:8080"}]}})));
        let snapshot = Snapshot::build(&all);
        assert_ne!(Outlook::of(&snapshot, &one), Outlook::of(&snapshot, &two));
        assert_ne!(crate::clusters(&snapshot, &one), crate::clusters(&snapshot, &two));
    }
}
