use std::collections::BTreeMap;

use envoy_api::envoy::config::core::v3::Node;
use istio_api::yaml::Document;
use serde_json::{Value, json};

use super::*;

/// The parts of each kind of resource, as the generator puts them together.
const KINDS: [&[Part]; 5] = [
    &[Part::CalledClusters, Part::OwnClusters],
    &[Part::CalledEndpoints, Part::Replicas],
    &[Part::Listeners],
    &[Part::CalledRoutes],
    &[Part::CalledNames],
];

/// Objects by a name of their own.
type World = BTreeMap<String, Value>;

fn snapshot(world: &World) -> Snapshot {
    let read = |value: &Value| istio_api::read(&Document::bare(value.clone()), "shop").unwrap().unwrap();
    Snapshot::of_cluster(&world.values().map(read).collect::<Vec<_>>())
}

fn meta(name: &str, labels: Value) -> Value {
    json!({"name": name, "namespace": "shop", "labels": labels})
}

fn pod(app: &str, index: u64, version: &str, account: &str) -> Value {
    let mut metadata = meta(
        &format!("{app}-{index}"),
        json!({"app": app, "version": version, "istio-locality": format!("r.{version}")}),
    );
    metadata["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": format!("{app}-a")}]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"serviceAccountName": account, "nodeName": "n", "containers": [{"name": "istio-proxy"}]},
        "status": {"podIP": format!("10.0.{}.{index}", app.len()), "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(app: &str, port_name: &str, more: &Value) -> Value {
    let mut spec = json!({"selector": {"app": app}, "ports": [{"name": port_name, "port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(app, json!({})), "spec": spec})
}

fn slice(app: &str, pods: &[u64]) -> Value {
    let endpoint = |index: &u64| {
        json!({"addresses": [format!("10.0.{}.{index}", app.len())],
            "targetRef": {"kind": "Pod", "name": format!("{app}-{index}")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": meta(app, json!({"kubernetes.io/service-name": app})),
        "ports": [{"name": "http", "port": 80}, {"name": "tcp", "port": 80}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>()})
}

fn networking(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta(name, json!({})), "spec": spec})
}

fn world() -> World {
    let mut all = World::new();
    for (app, port, more) in [
        ("pay", "http", json!({"clusterIP": "10.96.0.1"})),
        ("cart", "http", json!({"clusterIP": "10.96.0.2"})),
        ("queue", "tcp", json!({"clusterIP": "None"})),
    ] {
        all.insert(format!("service {app}"), service(app, port, &more));
        all.insert(format!("slice {app}"), slice(app, &[1, 2]));
        for index in 1..4 {
            all.insert(format!("pod {app} {index}"), pod(app, index, "v1", app));
        }
    }
    all.insert("routes".to_owned(), routes(1));
    all
}

fn routes(seconds: u64) -> Value {
    let to = json!({"destination": {"host": "pay"}});
    networking(
        "VirtualService",
        "pay",
        &json!({"hosts": ["pay"], "http": [{"timeout": format!("{seconds}s"), "route": [to]}]}),
    )
}

fn proxy(pod: &str, ip: &str, app: &str) -> Arc<Proxy> {
    let node: Node = envoy_api::message_from_json(json!({
        "id": format!("sidecar~{ip}~{pod}.shop~shop.svc.cluster.local"),
        "metadata": {"NAME": pod, "INSTANCE_IPS": ip, "NAMESPACE": "shop", "LABELS": {"app": app},
            "ENABLE_SELF_DISCOVERY": "true"},
    }))
    .unwrap();
    Arc::new(Proxy::from_node(&node).unwrap())
}

fn proxies() -> [Arc<Proxy>; 4] {
    [
        proxy("pay-1", "10.0.3.1", "pay"),
        proxy("pay-2", "10.0.3.2", "pay"),
        proxy("queue-1", "10.0.5.1", "queue"),
        proxy("unknown-1", "10.0.9.1", "unknown"),
    ]
}

/// What a sidecar asks for: endpoints of all its clusters, of its replicas, and of one that does not exist.
fn wanted(snapshot: &Snapshot, proxy: &Proxy, part: Part) -> Wanted {
    let mut names: Vec<String> = match part {
        Part::CalledEndpoints => {
            let all = pilot::clusters(snapshot, proxy).into_iter().map(|r| r.name);
            all.chain(["local_cluster".to_owned()]).collect()
        }
        Part::CalledRoutes => vec!["80".to_owned(), "cart.shop.svc.cluster.local:80".to_owned()],
        _ => return Wanted::All,
    };
    names.push("outbound|80||nobody.shop.svc.cluster.local".to_owned());
    names.sort();
    Wanted::Names(names.into())
}

/// What a proxy would be sent that nothing was made for before.
fn anew(snapshot: &Snapshot, proxy: &Proxy, part: Part, wanted: &Wanted) -> Vec<Resource> {
    let Wanted::Names(names) = wanted else {
        let made = match part {
            Part::CalledClusters => pilot::clusters(snapshot, proxy),
            Part::Listeners => pilot::listeners(snapshot, proxy),
            _ => pilot::name_table(snapshot, proxy),
        };
        return made.into_iter().map(resource).collect();
    };
    let made = match part {
        Part::CalledEndpoints => pilot::endpoints(snapshot, proxy, names),
        _ => pilot::routes(snapshot, proxy, names),
    };
    made.into_iter().map(resource).collect()
}

/// One edit of many kinds.
fn edit(world: &mut World, any: &mut impl FnMut(u64) -> u64) {
    let app = ["pay", "cart", "queue"][usize::try_from(any(3)).unwrap()];
    let toggle = |world: &mut World, key: &str, value: Value| {
        if world.remove(key).is_none() {
            world.insert(key.to_owned(), value);
        }
    };
    match any(19) {
        0..=3 => {
            let pods: Vec<u64> = (1..4).filter(|_| any(2) == 0).collect();
            world.insert(format!("slice {app}"), slice(app, &pods));
        }
        4..=6 => {
            let (index, version, account) = (1 + any(3), ["v1", "v2"][usize::try_from(any(2)).unwrap()], any(2));
            let account = if account == 0 { app } else { "other" };
            world.insert(format!("pod {app} {index}"), pod(app, index, version, account));
        }
        7 => drop(world.remove(&format!("pod {app} {}", 1 + any(3)))),
        8..=9 => drop(world.insert("routes".to_owned(), routes(1 + any(5)))),
        16 | 17 => {
            let streams = json!({"hosts": ["queue"], "tcp": [{"route": [{"destination": {"host": app}}]}]});
            toggle(world, "streams", networking("VirtualService", "streams", &streams));
        }
        // Of two of one host the first counts, whatever its routes are of.
        18 => {
            let to = json!({"destination": {"host": "queue"}});
            let before =
                networking("VirtualService", "before", &json!({"hosts": ["queue"], "http": [{"route": [to]}]}));
            toggle(world, "a route before", before);
        }
        10 => {
            let subsets =
                json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]);
            toggle(world, "rule", networking("DestinationRule", app, &json!({"host": app, "subsets": subsets})));
        }
        11 => {
            let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": meta("all", json!({})), "spec": {"mtls": {"mode": "STRICT"}}});
            toggle(world, "strict", strict);
        }
        12 => {
            let hosts = json!({"egress": [{"hosts": [format!("./{app}.shop.svc.cluster.local")]}]});
            toggle(world, "sidecar", networking("Sidecar", "own", &hosts));
        }
        13 => {
            let at = |ip: &str| json!({"address": ip});
            let spec = json!({"hosts": ["far.example"], "resolution": if any(2) == 0 { "STATIC" } else { "DNS" },
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": [at("192.0.2.1"), at("192.0.2.2")]});
            toggle(world, "entry", networking("ServiceEntry", "far", &spec));
        }
        14 => {
            let labels =
                json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("z{}", any(2))});
            toggle(
                world,
                "node",
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": labels}}),
            );
        }
        _ => {
            let near = ["", "PreferClose", "PreferSameNode"][usize::try_from(any(3)).unwrap()];
            let more = json!({"clusterIP": format!("10.96.1.{}", 1 + any(9)), "trafficDistribution": near});
            drop(world.insert(format!("service {app}"), service(app, "http", &more)));
        }
    }
}

#[test]
fn after_any_edits_everything_is_as_if_it_were_made_anew() {
    let mut seed = 42_u64;
    let mut any = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut world = world();
    let mut now = snapshot(&world);
    let translated = Translated::new(now.clone());
    let proxies = proxies();
    let (mut answered, mut kept, mut asked) = (HashMap::new(), HashMap::new(), 0);
    for step in 0..120 {
        for proxy in &proxies {
            // Not everybody asks after every change.
            for parts in KINDS.into_iter().filter(|_| step < 2 || any(3) > 0) {
                let wanted = wanted(&now, proxy, parts[0]);
                let anew = anew(&now, proxy, parts[0], &wanted);
                let answer = translated.answer(&now, proxy, parts, &wanted);
                let same = answer.len() == anew.len()
                    && answer.iter().zip(&anew).all(|(a, b)| (&a.name, &a.version) == (&b.name, &b.version));
                let names = |all: &mut dyn Iterator<Item = &Resource>| {
                    all.map(|r| format!("{} {}", r.name, r.version)).collect::<Vec<_>>()
                };
                assert!(
                    same,
                    "step {step}, {}, {parts:?}: {:#?} is not {:#?}",
                    proxy.id,
                    names(&mut answer.iter().map(|r| &**r)),
                    names(&mut anew.iter())
                );
                asked += 1;
                let last = answered.insert((proxy.id.clone(), parts), answer.clone());
                if last.is_some_and(|last| Arc::ptr_eq(&last, &answer)) {
                    *kept.entry(parts).or_insert(0) += 1;
                }
            }
        }
        edit(&mut world, &mut any);
        now = snapshot(&world);
        translated.follow(&now);
    }
    assert!(asked > 800 && KINDS.iter().all(|parts| kept.get(parts).is_some_and(|n| *n > 40)), "{asked}: {kept:?}");
}

#[test]
fn a_change_touches_what_it_is_about_and_nothing_else() {
    let mut world = world();
    let first = snapshot(&world);
    let translated = Translated::new(first.clone());
    let [one, two, other, _] = proxies();
    let all = |snapshot: &Snapshot, proxy: &Arc<Proxy>| {
        KINDS.map(|parts| translated.answer(snapshot, proxy, parts, &wanted(&first, proxy, parts[0])))
    };
    let unlike = |a: &Answer, b: &Answer| -> Vec<String> {
        let pairs = a.iter().zip(b.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b));
        pairs.map(|(a, _)| a.name.clone()).collect()
    };
    let before = all(&first, &one);
    let replica = all(&first, &two);
    assert!([0, 1, 3, 4].iter().all(|&kind| Arc::ptr_eq(&before[kind], &replica[kind])), "replicas share answers");
    let stranger = all(&first, &other);
    assert!([3, 4].iter().all(|&kind| Arc::ptr_eq(&before[kind], &stranger[kind])), "others share routes and names");
    let called = |answers: &[Answer; 5]| answers[0].iter().filter(|r| r.name.starts_with("outbound|")).count();
    assert_eq!(called(&stranger), 3);
    assert_eq!(unlike(&before[0], &stranger[0]), ["inbound|80||"], "and clusters but of their own ports");

    world.insert("slice cart".to_owned(), slice("cart", &[1, 3]));
    let second = snapshot(&world);
    translated.follow(&second);
    let [clusters, endpoints, listeners, routes, names] = all(&second, &one);
    assert!(Arc::ptr_eq(&routes, &before[3]) && Arc::ptr_eq(&listeners, &before[2]) && Arc::ptr_eq(&names, &before[4]));
    assert!(Arc::ptr_eq(&clusters, &before[0]), "the same servers' names");
    assert_eq!(unlike(&endpoints, &before[1]), ["outbound|80||cart.shop.svc.cluster.local"]);

    world.insert("routes".to_owned(), self::routes(9));
    let third = snapshot(&world);
    translated.follow(&third);
    let [same_clusters, same_endpoints, same_listeners, other_routes, _] = all(&third, &one);
    assert!(Arc::ptr_eq(&same_clusters, &clusters) && Arc::ptr_eq(&same_endpoints, &endpoints));
    assert!(Arc::ptr_eq(&same_listeners, &listeners), "they know nothing of routes of HTTP");
    assert_eq!(unlike(&other_routes, &routes), ["80"]);

    // Nobody asks any more: nothing is kept for them.
    for _ in 0..=REMEMBERED {
        translated.follow(&snapshot(&world));
    }
    let kept = translated.0.lock();
    assert_eq!((kept.made.len(), kept.count), (0, 0));
}
