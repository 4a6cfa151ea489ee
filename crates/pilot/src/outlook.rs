//! What of a proxy decides what it is sent of the services that it calls: two of the same outlook are sent the same, and
//! are translated for once.
//!
//! An [`Outlook`] is a [`Proxy`] of which only these facts are left, and the translation is given nothing else. A fact that is
//! missing here counts for nobody, so that tests see it; none can make two proxies share what is not the same.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;

use mesh::Snapshot;
use serde_json::{Value, json};

use crate::{Part, Proxy, scope};

/// The extensions that clusters and routes ask for.
const ASKED: [&str; 1] = ["istio.metadata_exchange"];

/// What proxies that are sent the same have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outlook(Proxy);

impl Deref for Outlook {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.0
    }
}

impl Outlook {
    /// The outlook that a part is translated for; none where it is for the proxy itself.
    pub fn of(snapshot: &Snapshot, proxy: &Proxy, part: Part) -> Option<Self> {
        match part {
            _ if part.is_own() => None,
            Part::CalledRoutes | Part::CalledNames => Some(Self::of_names(snapshot, proxy)),
            _ => Some(Self::of_places(snapshot, proxy)),
        }
    }

    /// The outlook on routes and names of DNS, which know hosts by the short names of the proxy's namespace.
    pub(crate) fn of_names(snapshot: &Snapshot, proxy: &Proxy) -> Self {
        let captures = proxy.dns_capture().then(|| json!({"DNS_CAPTURE": "true"}));
        Self(Proxy { namespace: proxy.namespace.clone(), ..common(snapshot, proxy, captures.unwrap_or(Value::Null)) })
    }

    /// The outlook on clusters and endpoints, which depends on where the proxy is; its namespace counts where something
    /// is for that namespace alone.
    pub(crate) fn of_places(snapshot: &Snapshot, proxy: &Proxy) -> Self {
        let own = scope::own_workload(snapshot, proxy);
        let mut metadata = json!({"CLUSTER_ID": proxy.cluster_id()});
        if proxy.preserves_case() {
            metadata["PROXY_CONFIG"] = json!({"proxyHeaders": {"preserveHttp1HeaderCase": true}});
        }
        let node = || own.as_ref().and_then(|own| own.node.clone()).or_else(|| proxy.node.clone());
        Self(Proxy {
            namespace: if snapshot.tells_apart(&proxy.namespace) { proxy.namespace.clone() } else { String::new() },
            locality: scope::locality(snapshot, proxy, own.as_deref()),
            node: snapshot.tells_nodes_apart().then(node).flatten(),
            extensions: proxy
                .extensions
                .as_ref()
                .map(|_| ASKED.into_iter().filter(|name| proxy.has(name)).map(str::to_owned).collect()),
            stock_envoy: proxy.stock_envoy,
            ..common(snapshot, proxy, metadata)
        })
    }
}

/// What all outlooks have, and nobody else's facts.
fn common(snapshot: &Snapshot, proxy: &Proxy, metadata: Value) -> Proxy {
    Proxy {
        id: String::new(),
        kind: proxy.kind,
        ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        name: String::new(),
        namespace: String::new(),
        domain_suffix: proxy.domain_suffix.clone(),
        labels: snapshot.telling_labels(&proxy.labels),
        service_account: String::new(),
        locality: String::new(),
        node: None,
        metadata,
        extensions: None,
        stock_envoy: false,
    }
}

#[cfg(test)]
mod tests {
    use envoy_api::envoy::config::core::v3::Node;
    use istio_api::Resource;
    use istio_api::yaml::Document;

    use super::*;

    fn object(value: Value) -> Resource {
        istio_api::read(&Document::bare(value), "shop").unwrap().unwrap()
    }

    fn networking(kind: &str, spec: &Value) -> Resource {
        object(json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
            "metadata": {"name": "own", "namespace": "shop"}, "spec": spec}))
    }

    fn mesh(more: &[Resource]) -> Snapshot {
        let of = |name: &str| {
            object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}}))
        };
        let mut all = vec![of("pay"), of("cart")];
        all.extend(more.iter().cloned());
        Snapshot::build(&all)
    }

    /// The sidecar of a pod of an application and a version.
    fn sidecar(app: &str, version: &str, namespace: &str) -> Proxy {
        let node: Node = envoy_api::message_from_json(json!({
            "id": format!("sidecar~10.0.0.1~{app}-1.{namespace}~{namespace}.svc.cluster.local"),
            "metadata": {"NAME": format!("{app}-1"), "NAMESPACE": namespace, "SERVICE_ACCOUNT": app,
                "LABELS": {"app": app, "version": version}},
            "locality": {"region": "r", "zone": "z"},
        }))
        .unwrap();
        Proxy::from_node(&node).unwrap()
    }

    /// Whether two proxies have the same outlook on places, and on names.
    fn alike(snapshot: &Snapshot, one: &Proxy, two: &Proxy) -> (bool, bool) {
        let routes = ["80".to_owned()];
        let places = Outlook::of_places(snapshot, one) == Outlook::of_places(snapshot, two);
        let names = Outlook::of_names(snapshot, one) == Outlook::of_names(snapshot, two);
        assert!(!crate::called_clusters(snapshot, &Outlook::of_places(snapshot, one)).is_empty());
        let routed = |proxy| crate::routes(snapshot, proxy, &routes);
        assert!(!routed(one).is_empty() && (!names || routed(one) == routed(two)));
        (places, names)
    }

    #[test]
    fn unlike_workloads_are_alike_where_nothing_tells_them_apart() {
        let (pay, cart, far) =
            (sidecar("pay", "v1", "shop"), sidecar("cart", "v2", "shop"), sidecar("pay", "v1", "far"));
        let plain = mesh(&[]);
        assert_eq!(alike(&plain, &pay, &cart), (true, true));
        assert_eq!(alike(&plain, &pay, &far), (true, false), "short names are those of a namespace");

        let route = json!({"destination": {"host": "pay"}});
        let only = json!({"hosts": ["pay"], "http": [
            {"match": [{"sourceLabels": {"version": "v2"}}], "timeout": "1s", "route": [route]}, {"route": [route]}]});
        assert_eq!(alike(&mesh(&[networking("VirtualService", &only)]), &pay, &cart), (false, false));

        let rule = json!({"host": "pay", "workloadSelector": {"matchLabels": {"version": "v2"}},
            "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 7}}}});
        let ruled = mesh(&[networking("DestinationRule", &rule)]);
        assert!(!alike(&ruled, &pay, &cart).0);
        assert_ne!(crate::clusters(&ruled, &pay), crate::clusters(&ruled, &cart));

        let rule = json!({"host": "pay", "exportTo": ["."], "subsets": [{"name": "v1", "labels": {"version": "v1"}}]});
        let ruled = mesh(&[networking("DestinationRule", &rule)]);
        assert!(!alike(&ruled, &pay, &far).0);
        assert_ne!(crate::clusters(&ruled, &pay), crate::clusters(&ruled, &far));
        assert!(alike(&ruled, &far, &sidecar("cart", "v2", "elsewhere")).0, "two that see nothing of it");

        let rule = json!({"host": "pay", "trafficPolicy": {"outlierDetection": {"interval": "1s"},
            "loadBalancer": {"localityLbSetting": {"failoverPriority": ["version"]}}}});
        assert!(!alike(&mesh(&[networking("DestinationRule", &rule)]), &pay, &cart).0);
    }

    #[test]
    fn a_sidecar_tells_those_that_it_selects_apart_and_all_namespaces() {
        let (pay, cart, far) =
            (sidecar("pay", "v1", "shop"), sidecar("cart", "v2", "shop"), sidecar("pay", "v1", "far"));
        let own = json!({"workloadSelector": {"labels": {"app": "pay"}}, "egress": [{"hosts": ["./pay.shop.svc.cluster.local"]}]});
        let snapshot = mesh(&[networking("Sidecar", &own)]);
        assert_eq!(alike(&snapshot, &pay, &cart), (false, false));
        assert!(!alike(&snapshot, &pay, &far).0);
        assert_ne!(crate::clusters(&snapshot, &pay), crate::clusters(&snapshot, &cart));
    }

    #[test]
    fn what_is_private_or_declared_twice_tells_namespaces_apart() {
        let entry = |namespace: &str, address: &str, to: &[&str]| {
            object(json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": "far", "namespace": namespace},
                "spec": {"hosts": ["far.example"], "exportTo": to, "resolution": "STATIC", "endpoints": [{"address": address}],
                    "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}}))
        };
        let (one, two, three) =
            (sidecar("pay", "v1", "shop"), sidecar("pay", "v1", "other"), sidecar("pay", "v1", "third"));
        for more in [
            vec![entry("shop", "192.0.2.1", &["."])],
            vec![entry("third", "192.0.2.1", &["third", "shop"])],
            vec![entry("shop", "192.0.2.1", &[]), entry("third", "192.0.2.2", &[])],
        ] {
            let snapshot = mesh(&more);
            let wanted = ["outbound|80||far.example".to_owned()];
            let sent = |proxy: &Proxy| (crate::clusters(&snapshot, proxy), crate::endpoints(&snapshot, proxy, &wanted));
            let whole = |proxy: &Proxy| {
                let outlook = Outlook(proxy.clone());
                (crate::called_clusters(&snapshot, &outlook), crate::called_endpoints(&snapshot, &outlook, &wanted))
            };
            assert!(!alike(&snapshot, &one, &two).0);
            for proxy in [&one, &two, &three] {
                let (clusters, endpoints) = sent(proxy);
                assert_eq!((clusters, endpoints), whole(proxy), "a namespace that counts for nothing changes nothing");
            }
        }
    }

    #[test]
    fn the_place_counts_and_the_node_where_somebody_asks_for_it() {
        let here = sidecar("pay", "v1", "shop");
        let there = Proxy { locality: "r/other".to_owned(), ..here.clone() };
        let upstairs = Proxy { node: Some("upstairs".to_owned()), ..here.clone() };
        assert_eq!(alike(&mesh(&[]), &here, &there), (false, true));
        assert_eq!(alike(&mesh(&[]), &here, &upstairs), (true, true));
        let near = object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near", "namespace": "shop"},
            "spec": {"selector": {"app": "near"}, "trafficDistribution": "PreferSameNode", "ports": [{"name": "http", "port": 80}]}}),
        );
        assert_eq!(alike(&mesh(&[near]), &here, &upstairs), (false, true));
        let keeps = Proxy {
            metadata: json!({"PROXY_CONFIG": {"proxyHeaders": {"preserveHttp1HeaderCase": true}}}),
            ..here.clone()
        };
        assert!(!alike(&mesh(&[]), &here, &keeps).0);
    }
}
