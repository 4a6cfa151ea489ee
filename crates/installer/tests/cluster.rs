//! The manifest on a real API server. Skips, saying so, where there is none.

#[path = "../../kubernetes/tests/cluster/server.rs"]
#[allow(dead_code, reason = "this test kills no server")]
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use installer::{Values, manifest};
use kubernetes::{CRDS, Cluster, Place};
use serde_json::{Value, json};
use server::ApiServer;

fn place(object: &Value) -> Place {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let namespace = object["metadata"]["namespace"].as_str();
    let list = Place::list(object["apiVersion"].as_str().unwrap(), &format!("{kind}s"), namespace);
    list.object(object["metadata"]["name"].as_str().unwrap())
}

async fn established(cluster: &Cluster) {
    let begun = Instant::now();
    let crds = Place::list("apiextensions.k8s.io/v1", "customresourcedefinitions", None);
    loop {
        let all = cluster.all(&crds, None).await.unwrap();
        let of = |crd: &Value, kind: &str| {
            crd["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned()
        };
        let bad: Vec<Value> = all.iter().filter_map(|c| of(c, "NonStructuralSchema")).collect();
        assert!(bad.is_empty(), "schemas are structural: {bad:#?}");
        if all.len() == CRDS.len() && all.iter().all(|c| of(c, "Established").is_some_and(|c| c["status"] == "True")) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "never served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Istio's own samples of networking resources, where they are at hand.
fn samples() -> Vec<Value> {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(shared.join("conformance/samples/bookinfo/networking")) else {
        eprintln!("skipped: no samples beside the project");
        return Vec::new();
    };
    let texts = entries.flatten().filter_map(|e| std::fs::read_to_string(e.path()).ok());
    let documents = texts.filter_map(|text| istio_api::yaml::parse(&text).ok()).flatten();
    documents.map(|d| d.value).filter(|v| v["kind"].is_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_the_manifest_and_keeps_resources_whole() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    let apply = async |object: &Value| {
        cluster.apply(&place(object), object).await.unwrap_or_else(|e| panic!("{}: {e}", object["metadata"]["name"]))
    };
    // Webhooks come last: the istiod that they would ask does not run here.
    let hook = |o: &Value| o["kind"].as_str().is_some_and(|k| k.contains("Webhook"));
    let (hooks, objects): (Vec<Value>, Vec<Value>) = manifest(&Values::default()).unwrap().into_iter().partition(hook);
    for object in &objects {
        apply(object).await;
    }
    established(&cluster).await;

    let samples = samples();
    for sample in &samples {
        let mut sample = sample.clone();
        let version = sample["apiVersion"].as_str().unwrap().to_owned();
        let Some(kind) = CRDS.iter().find(|k| k.kind == sample["kind"] && version.starts_with(k.group)) else {
            continue;
        };
        sample["metadata"]["namespace"] = "default".into();
        let name = sample["metadata"]["name"].as_str().unwrap();
        let place = Place::list(&version, kind.plural, Some("default")).object(name);
        let stored = cluster.apply(&place, &sample).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(stored["spec"], sample["spec"], "nothing of {name} is pruned");
    }

    let routes = |spec: Value| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "pay", "namespace": "default"}, "spec": spec})
    };
    let list = Place::list("networking.istio.io/v1", "virtualservices", Some("default"));
    let two = json!({"hosts": ["pay"], "http": [{"match": [{"uri": {"exact": "/a", "prefix": "/b"}}]}]});
    let error = cluster.create(&list, &routes(two)).await.unwrap_err().to_string();
    assert!(error.contains("spec.http[0].match[0].uri"), "{error}");
    let wrong = json!({"hosts": "pay"});
    let error = cluster.create(&list, &routes(wrong)).await.unwrap_err().to_string();
    assert!(error.contains("spec.hosts"), "{error}");
    // Rules between fields are the API server's own, too.
    let entries = Place::list("networking.istio.io/v1", "serviceentries", Some("default"));
    let both = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "both", "namespace": "default"},
        "spec": {"hosts": ["out.example"], "workloadSelector": {"labels": {"app": "a"}}, "endpoints": [{"address": "10.0.0.1"}]}});
    let error = cluster.create(&entries, &both).await.unwrap_err().to_string();
    assert!(error.contains("only one of workloadSelector, endpoints may be set"), "{error}");
    for object in &hooks {
        apply(object).await;
    }
}
