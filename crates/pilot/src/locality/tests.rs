use envoy_api::envoy::config::core::v3::Node;
use mesh::Snapshot;
use serde_json::{Value, json};

use crate::sidecar::tests::mesh;
use crate::{Outlook, Part, Proxy, Touched, touched};

/// A pod on a node in `r1/z1` calls `web`, whose pods are in several places.
fn world(rules: &str) -> Snapshot {
    let mut text = String::from(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
         spec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{name: http, port: 80}]}\n---\n",
    );
    for (node, place) in [("n1", "r1/z1"), ("n2", "r1/z1"), ("n3", "r1/z2"), ("n4", "r2/z1"), ("n5", "r3/z1")] {
        let (region, zone) = place.split_once('/').unwrap();
        text += &format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}\n---\n"
        );
        text += &pod(&format!("web-{node}"), "web", node, "10.1.1.", "");
    }
    text += &pod("call-n1", "call", "n1", "10.1.2.", "pod-template-hash: a");
    mesh(&format!("{text}{rules}"))
}

/// A pod; its node's number is the last of its address.
fn pod(name: &str, app: &str, node: &str, network: &str, labels: &str) -> String {
    let owner = name.split('-').next().unwrap();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}, {labels}}}, \
         ownerReferences: [{{kind: ReplicaSet, name: {owner}-a}}]}}\n\
         spec: {{nodeName: {node}, containers: [{{name: app}}]}}\n\
         status: {{podIP: {network}{}, conditions: [{{type: Ready, status: \"True\"}}]}}\n---\n",
        &node[1..]
    )
}

fn proxy(name: &str, ip: &str, metadata: Value) -> Proxy {
    let node = Node {
        id: format!("sidecar~{ip}~{name}.shop~shop.svc.cluster.local"),
        metadata: envoy_api::message_from_json(metadata).ok(),
        ..Node::default()
    };
    Proxy::from_node(&node).unwrap()
}

fn asking() -> Value {
    json!({"LABELS": {"app": "call"}, "ENABLE_SELF_DISCOVERY": "true"})
}

fn caller() -> Proxy {
    proxy("call-n1", "10.1.2.1", asking())
}

fn assignment(snapshot: &Snapshot, proxy: &Proxy, name: &str) -> Value {
    let all = crate::endpoints(snapshot, proxy, &[name.to_owned()]);
    envoy_api::any_to_json(&all.first().unwrap_or_else(|| panic!("{name} is answered")).body)
}

/// The last numbers of addresses, by priority.
fn priorities(of: &Value) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for group in of["endpoints"].as_array().into_iter().flatten() {
        let priority = usize::try_from(group["priority"].as_u64().unwrap_or(0)).unwrap();
        found.resize(found.len().max(priority + 1), Vec::new());
        for one in group["lb_endpoints"].as_array().into_iter().flatten() {
            let address = one.pointer("/endpoint/address/socket_address/address").and_then(Value::as_str).unwrap();
            found[priority].push(address.rsplit('.').next().unwrap().parse().unwrap());
        }
    }
    found.iter_mut().for_each(|one| one.sort_unstable());
    found
}

const WEB: &str = "outbound|80||web.shop.svc.cluster.local";

/// Priorities of `web`, and how its cluster counts places.
fn seen(rules: &str) -> (Vec<Vec<u8>>, Value) {
    let snapshot = world(rules);
    let clusters = crate::clusters(&snapshot, &caller());
    let cluster = clusters.iter().find(|c| c.name == WEB).expect("a cluster");
    let mut common = envoy_api::any_to_json(&cluster.body)["common_lb_config"].take();
    common.as_object_mut().unwrap().shift_remove("healthy_panic_threshold");
    (priorities(&assignment(&snapshot, &caller(), WEB)), common)
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{host: web, trafficPolicy: {{{policy}}}}}\n---\n"
    )
}

fn of_mesh(text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{{{text}}}\"}}\n---\n"
    )
}

fn distributed(word: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{networking.istio.io/traffic-distribution: {word}}}}}\n---\n"
    )
}

const DETECTS: &str = "outlierDetection: {}";

fn alike() -> Vec<Vec<u8>> {
    vec![vec![1, 2, 3, 4, 5]]
}

#[test]
fn rules_services_and_the_mesh_say_what_is_preferred() {
    let weighted = json!({"locality_weighted_lb_config": {}});
    let nearest = vec![vec![1, 2], vec![3], vec![4, 5]];
    // Without outlier detection nothing would tell when to go farther.
    assert_eq!(seen(""), (alike(), json!({})));
    assert_eq!(seen(&rule(DETECTS)), (nearest.clone(), json!({})));
    let off = "loadBalancer: {localityLbSetting: {enabled: false}}";
    assert_eq!(seen(&rule(&format!("{off}, {DETECTS}"))), (alike(), json!({})));
    let r3 = "localityLbSetting: {failover: [{from: r1, to: r3}]}";
    let ordered = vec![vec![1, 2], vec![3], vec![5], vec![4]];
    assert_eq!(seen(&rule(&format!("loadBalancer: {{{r3}}}, {DETECTS}"))), (ordered.clone(), weighted.clone()));
    assert_eq!(seen(&rule(&format!("loadBalancer: {{{r3}}}"))), (alike(), json!({})));

    let mesh = of_mesh(r3);
    assert_eq!(seen(&format!("{}{mesh}", rule(DETECTS))), (ordered, weighted.clone()));
    assert_eq!(seen(&format!("{}{mesh}", rule(&format!("{off}, {DETECTS}")))), (alike(), json!({})));
    let mesh = of_mesh("localityLbSetting: {enabled: false}");
    assert_eq!(seen(&format!("{}{mesh}", rule(DETECTS))), (alike(), json!({})));

    // A Service asks for it without outlier detection; a rule's word counts more, the mesh's less.
    for word in ["PreferClose", "PreferSameZone"] {
        assert_eq!(seen(&distributed(word)), (nearest.clone(), weighted.clone()), "{word}");
    }
    assert_eq!(seen(&distributed("PreferSameNode")).0, [vec![1], vec![2], vec![3], vec![4, 5]]);
    assert_eq!(seen(&format!("{}{}", distributed("PreferClose"), rule(off))).0, alike());
    let both = format!("{}{}", distributed("PreferClose"), of_mesh("zoneAwareLbSetting: {}"));
    assert_eq!(seen(&both), (nearest, weighted));
}

#[test]
fn regions_are_ranked_where_zones_count() {
    let zones = |inside: &str| rule(&format!("loadBalancer: {{zoneAwareLbSetting: {{{inside}}}}}"));
    let aware = |inside: Value| json!({"zone_aware_lb_config": inside});
    assert_eq!(seen(&zones("")), (vec![vec![1, 2, 3], vec![4, 5]], aware(json!({}))));
    assert_eq!(seen(&zones("enabled: true, minClusterSize: 3")).1, aware(json!({"min_cluster_size": "3"})));
    let failover = seen(&zones("failover: [{from: r9, to: r2}, {from: r1, to: r3}]")).0;
    assert_eq!(failover, [vec![1, 2, 3], vec![5], vec![4]]);
    let off = seen(&zones("enabled: false, failover: [{from: r1, to: r3}], minClusterSize: 4"));
    let zero = aware(json!({"routing_enabled": {}, "min_cluster_size": "4"}));
    assert_eq!(off, (alike(), zero));
    // Labels first, then regions; the node is one of them.
    let labels = seen(&zones("failoverPriority: [kubernetes.io/hostname]")).0;
    assert_eq!(labels, [vec![1], vec![2, 3], vec![4, 5]]);
    let values = seen(&zones("failoverPriority: [app=other], failover: [{from: r1, to: r2}]")).0;
    assert_eq!(values, [vec![1, 2, 3], vec![4], vec![5]], "what none has ranks none");

    let of_the_mesh = of_mesh("localityLbSetting: {distribute: []}, zoneAwareLbSetting: {minClusterSize: 2}");
    assert_eq!(seen(&of_the_mesh), (vec![vec![1, 2, 3], vec![4, 5]], aware(json!({"min_cluster_size": "2"}))));
    let distribute = "loadBalancer: {localityLbSetting: {distribute: [{from: r1/*, to: {\"r2/*\": 100}}]}}";
    let over = seen(&format!("{of_the_mesh}{}", rule(distribute)));
    assert_eq!(over, (vec![vec![4]], json!({"locality_weighted_lb_config": {}})));
}

#[test]
fn another_network_comes_behind_the_own_one() {
    let labels = [super::NETWORK, super::REGION].map(str::to_owned);
    let here = |network: &str| [(super::NETWORK.to_owned(), network.to_owned())].into();
    let rank = |network: &str, locality: &str| {
        let (own, other) = (here("west"), here(network));
        let client = super::Spot { locality: "r1/z1", labels: &own, node: None };
        super::mismatch(&labels, client, super::Spot { locality, labels: &other, node: None })
    };
    assert_eq!(
        [rank("west", "r1/z2"), rank("west", "r2/z1"), rank("east", "r1/z1"), rank("east", "r2/z1")],
        [0, 1, 2, 3]
    );
}

const CALL: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: call, namespace: shop}\n\
    spec: {clusterIP: 10.96.0.6, selector: {app: call}, ports: [{name: http, port: 81}, {name: admin, port: 82, targetPort: none}]}\n---\n";

#[test]
fn replicas_are_those_of_one_rollout_in_one_region() {
    let same = "pod-template-hash: a";
    let rules = |more: &str| {
        [
            CALL,
            &pod("call-n3", "call", "n3", "10.1.2.", same),
            &pod("call-n4", "call", "n4", "10.1.2.", same),
            &pod("call-n2", "call", "n2", "10.1.2.", "pod-template-hash: b"),
            &pod("other-n5", "call", "n1", "10.1.3.", same),
            more,
        ]
        .concat()
    };
    let replicas = |snapshot: &Snapshot, proxy: &Proxy| assignment(snapshot, proxy, "local_cluster");
    let snapshot = world(&rules(""));
    let own = replicas(&snapshot, &caller());
    assert_eq!(own["cluster_name"], "local_cluster");
    assert_eq!(priorities(&own), [vec![1, 3]], "{own:#}");
    let places: Vec<&Value> = own["endpoints"].as_array().unwrap().iter().map(|g| &g["locality"]).collect();
    assert_eq!(places, [&json!({"region": "r1", "zone": "z1"}), &json!({"region": "r1", "zone": "z2"})]);
    let machine = |label: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: far, namespace: shop, labels: {{service.istio.io/workload-name: {label}}}}}\n\
             spec: {{address: 10.1.4.7, locality: r1/z3, labels: {{app: call, pod-template-hash: a}}}}\n---\n"
        )
    };
    assert_eq!(priorities(&replicas(&world(&rules(&machine("call"))), &caller())), [vec![1, 3, 7]]);
    assert_eq!(priorities(&replicas(&world(&rules(&machine("other"))), &caller())), [vec![1, 3]]);
    // No rule is about them.
    let ruled = rules(&rule("loadBalancer: {zoneAwareLbSetting: {failoverPriority: [kubernetes.io/hostname]}}"));
    assert_eq!(priorities(&replicas(&world(&ruled.replace("host: web", "host: call")), &caller())), [vec![1, 3]]);
    // Who has no service, or is not known, has no replicas; that is an answer too.
    let nobody = proxy("web-n9", "10.9.9.9", Value::Null);
    assert_eq!(priorities(&replicas(&snapshot, &nobody)), Vec::<Vec<u8>>::new());
    assert_eq!(priorities(&replicas(&world(""), &caller())), Vec::<Vec<u8>>::new());
    let silent = proxy("call-n1", "10.1.2.1", json!({"LABELS": {"app": "call"}}));
    assert_eq!(priorities(&replicas(&snapshot, &silent)), Vec::<Vec<u8>>::new());
    // Those of another region see others.
    let other = proxy("call-n4", "10.1.2.4", asking());
    assert_eq!(priorities(&replicas(&snapshot, &other)), [vec![4]]);
}

#[test]
fn replicas_are_looked_for_when_endpoints_change() {
    let before = world(CALL);
    let after = world(&format!("{CALL}{}", pod("call-n3", "call", "n3", "10.1.2.", "pod-template-hash: a")));
    let changes = after.changes_since(&before);
    let of = |part| touched(part, &changes, &after, &caller());
    assert_eq!(of(Part::Replicas), Touched::Everything);
    assert!(matches!(of(Part::CalledEndpoints), Touched::Hosts(_)) && !of(Part::CalledEndpoints).has(WEB));
    assert_eq!(of(Part::OwnClusters), Touched::Nothing);
}

#[test]
fn a_proxy_may_say_where_it_is() {
    let node: Node = envoy_api::message_from_json(json!({
        "id": "sidecar~10.9.9.9~vm.shop~shop.svc.cluster.local", "locality": {"region": "r2", "zone": "z1"}
    }))
    .unwrap();
    let snapshot = world(&rule(DETECTS));
    let found = priorities(&assignment(&snapshot, &Proxy::from_node(&node).unwrap(), WEB));
    assert_eq!(found, [vec![4], vec![1, 2, 3, 5]]);
}

#[test]
fn nodes_matter_where_somebody_asks_for_them() {
    let other = proxy("call-n2", "10.1.2.2", asking());
    let same = |rules: &str| {
        let snapshot = world(&format!("{}{rules}", pod("call-n2", "call", "n2", "10.1.2.", "pod-template-hash: a")));
        Outlook::of_places(&snapshot, &caller()) == Outlook::of_places(&snapshot, &other)
    };
    assert!(same("") && same(&distributed("PreferClose")));
    assert!(!same(&distributed("PreferSameNode")));
    let port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {localityLbSetting: {failoverPriority: [kubernetes.io/hostname]}}}]";
    assert!(!same(&rule(port)));
}
