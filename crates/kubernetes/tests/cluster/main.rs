//! On a real API server: what is known survives whatever happens to it. Skips, saying so, where there is none.

mod server;

use std::time::Duration;

use kubernetes::{CRDS, Cluster, Election, Place, Scope, keep_roots, watch};
use serde_json::{Value, json};
use server::ApiServer;
use sources::Loaded;
use tokio::sync::watch::Receiver;

const HOST: &str = "pay.prod.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition of what is loaded.
async fn until(loaded: &mut Receiver<Loaded>, what: &str, holds: impl Fn(&Loaded) -> bool) {
    let found = tokio::time::timeout(PATIENCE, loaded.wait_for(|l| holds(l))).await;
    assert!(found.is_ok(), "never seen: {what}");
}

fn has_rule(snapshot: &mesh::Snapshot) -> bool {
    snapshot.destination_rules().next().is_some()
}

fn list(api: &str, plural: &str) -> Place {
    Place::list(api, plural, Some("prod"))
}

async fn namespace(cluster: &Cluster, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    cluster.create(&Place::list("v1", "namespaces", None), &object).await.unwrap();
}

/// A CustomResourceDefinition that takes everything, in all versions of the kind.
async fn install_kind(cluster: &Cluster, name: &str) {
    let kind = CRDS.iter().find(|k| k.kind == name).unwrap();
    let version = |(i, v): (usize, &&str)| {
        json!({"name": v, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    let versions: Vec<Value> = kind.versions.iter().enumerate().map(version).collect();
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", kind.plural, kind.group)},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": {"kind": kind.kind, "plural": kind.plural}, "versions": versions},
    });
    let crds = Place::list("apiextensions.k8s.io/v1", "customresourcedefinitions", None);
    cluster.create(&crds, &object).await.unwrap();
    let place = Place::list(&format!("{}/{}", kind.group, kind.versions[0]), kind.plural, None);
    while cluster.all(&place, None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn rule(host: &str, version: &str) -> Value {
    json!({
        "apiVersion": format!("networking.istio.io/{version}"), "kind": "DestinationRule",
        "metadata": {"name": "pay", "namespace": "prod"}, "spec": {"host": host},
    })
}

/// A service with two pods behind it.
async fn shop(cluster: &Cluster) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "prod"},
        "spec": {"selector": {"app": "pay"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    cluster.create(&list("v1", "services"), &service).await.unwrap();
    let mut endpoints = Vec::new();
    for (name, ip) in [("pay-1", "10.1.0.1"), ("pay-2", "10.1.0.2")] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "prod", "labels": {"app": "pay"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        cluster.create(&list("v1", "pods"), &pod).await.unwrap();
        let status = json!([{"op": "replace", "path": "/status", "value": {
            "podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}]);
        cluster.patch(&list("v1", "pods").object(&format!("{name}/status")), &status).await.unwrap();
        endpoints.push(json!({"addresses": [ip], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": name, "namespace": "prod"}}));
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "pay-a", "namespace": "prod", "labels": {"kubernetes.io/service-name": "pay"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    });
    cluster.create(&list("discovery.k8s.io/v1", "endpointslices"), &slice).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_survives_the_server() {
    let Some(mut server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    namespace(&cluster, "istio-system").await;
    namespace(&cluster, "prod").await;
    install_kind(&cluster, "DestinationRule").await;
    shop(&cluster).await;
    let rules = list("networking.istio.io/v1beta1", "destinationrules");
    cluster.create(&rules, &rule("pay", "v1beta1")).await.unwrap();

    let mut loaded = watch(&cluster, &Scope { mesh_config: "istio".to_owned() }).synced().await;
    let first = loaded.borrow().clone();
    assert_eq!(first.snapshot.endpoints(HOST, 80).len(), 2, "complete from the first moment");
    assert!(has_rule(&first.snapshot), "stored in one version, read in another");
    let place = first.resources.iter().find(|(r, _)| r.key().0 == "DestinationRule").unwrap().1.to_string();
    assert_eq!(place, "DestinationRule prod/pay");

    // A bad edit, past any validation: the last good one stays, and the mistake is known.
    let object = rules.object("pay");
    let edit = |host: Value| json!([{"op": "replace", "path": "/spec", "value": host}]);
    cluster.patch(&object, &edit(json!({"hosst": "pay"}))).await.unwrap();
    until(&mut loaded, "the mistake", |l| !l.problems.is_empty()).await;
    let problem = loaded.borrow().problems[0].to_string();
    assert!(problem.starts_with("DestinationRule prod/pay: spec") && problem.contains("hosst"), "{problem}");
    assert!(has_rule(&loaded.borrow().snapshot));
    cluster.patch(&object, &edit(json!({"host": "pay"}))).await.unwrap();
    until(&mut loaded, "the repair", |l| l.problems.is_empty()).await;

    // What no proxy would notice is no change.
    loaded.mark_unchanged();
    let annotate = json!([{"op": "add", "path": "/metadata/annotations", "value": {"note": "hello"}}]);
    cluster.patch(&list("v1", "pods").object("pay-1"), &annotate).await.unwrap();
    cluster.patch(&object, &annotate).await.unwrap();
    let message = json!([{"op": "add", "path": "/status/message", "value": "fine"}]);
    cluster.patch(&list("v1", "pods").object("pay-2/status"), &message).await.unwrap();
    let meshed = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": "trustDomain: shop.example"}});
    cluster.create(&Place::list("v1", "configmaps", Some("istio-system")), &meshed).await.unwrap();
    let mut changes = 0;
    loop {
        tokio::time::timeout(PATIENCE, loaded.changed()).await.unwrap().unwrap();
        changes += 1;
        if loaded.borrow_and_update().snapshot.trust_domain() == "shop.example" {
            break;
        }
    }
    assert_eq!(changes, 1, "annotations, a status and the versions that they bump made none");

    // The server dies, its history is forgotten, it comes back: nothing was lost at any time.
    let mut seen = loaded.clone();
    let whole = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().snapshot.clone();
            assert!(!now.endpoints(HOST, 80).is_empty(), "an endpoint list was emptied");
            assert!(has_rule(&now), "a rule was lost");
            if now.service("late.prod.svc.cluster.local").is_some() {
                return;
            }
        }
    });
    server.kill_api();
    assert_eq!(loaded.borrow().snapshot.endpoints(HOST, 80).len(), 2);
    server.compact();
    server.restart_api().await;
    let late = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late", "namespace": "prod"},
        "spec": {"ports": [{"port": 80}]}});
    // A server that has just started may not know its addresses yet.
    while cluster.create(&list("v1", "services"), &late).await.is_err_and(|e| !e.is_conflict()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until(&mut loaded, "a change after the restart", |l| l.snapshot.service("late.prod.svc.cluster.local").is_some())
        .await;
    tokio::time::timeout(PATIENCE, whole).await.unwrap().unwrap();

    // What is deleted is gone.
    cluster.delete(&object).await.unwrap();
    until(&mut loaded, "the deletion", |l| !has_rule(&l.snapshot)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_tokens_are_judged_and_roots_are_kept() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    namespace(&cluster, "istio-system").await;
    namespace(&cluster, "prod").await;

    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pay", "namespace": "prod"}});
    cluster.create(&list("v1", "serviceaccounts"), &account).await.unwrap();
    let ask = async |audience: &str| cluster.token_of("prod", "pay", audience).await.unwrap();
    assert!(cluster.token_of("prod", "nobody", "istio-ca").await.is_err());
    let token = ask("istio-ca").await;
    let proved = cluster.review_token(&token, "istio-ca").await.unwrap();
    assert_eq!(proved, Some(("prod".to_owned(), "pay".to_owned())));
    assert_eq!(cluster.review_token(&ask("other").await, "istio-ca").await.unwrap(), None, "for somebody else");
    assert_eq!(cluster.review_token("nonsense", "istio-ca").await.unwrap(), None);

    let made =
        kubernetes::ca_secret(&cluster, || Ok::<_, ()>(("cert".to_owned(), "key".to_owned()))).await.unwrap().unwrap();
    let again =
        kubernetes::ca_secret(&cluster, || Ok::<_, ()>(("new".to_owned(), "new".to_owned()))).await.unwrap().unwrap();
    assert_eq!((made.file("ca-cert.pem"), &made), ("cert", &again), "made once");

    let mut first = Election::stand(cluster.clone(), "leader", "first");
    tokio::time::timeout(PATIENCE, first.wait_for(|leads| *leads)).await.unwrap().unwrap();
    let mut second = Election::stand(cluster.clone(), "leader", "second");

    let (sender, roots) = tokio::sync::watch::channel("root one".to_owned());
    let keeping = tokio::spawn(keep_roots(cluster.clone(), roots, first.clone()));
    let map = Place::list("v1", "configmaps", Some("prod")).object("istio-ca-root-cert");
    let has = async |wanted: &str| {
        let read = async {
            while cluster.read(&map).await.unwrap().is_none_or(|m| m["data"]["root-cert.pem"] != wanted) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, read).await.is_ok(), "never \"{wanted}\"");
    };
    has("root one").await;
    cluster.delete(&map).await.unwrap();
    has("root one").await;
    cluster.patch(&map, &json!([{"op": "replace", "path": "/data/root-cert.pem", "value": "forged"}])).await.unwrap();
    has("root one").await;
    sender.send_replace("root two".to_owned());
    has("root two").await;
    let system = Place::list("v1", "configmaps", Some("kube-system")).object("istio-ca-root-cert");
    assert_eq!(cluster.read(&system).await.unwrap(), None, "no workloads of the mesh are there");

    assert!(!*second.borrow(), "one leads");
    keeping.abort();
    drop(keeping.await);
    drop(first);
    // Nobody renews any more: the lease runs out.
    tokio::time::timeout(PATIENCE, second.wait_for(|leads| *leads)).await.unwrap().unwrap();
}
