//! Istio's own inputs: pods equal in what the sidecar needs to those that Istio's injector makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use injector::{Options, Refused, inject, kube_inject};
use istio_api::yaml;
use serde_json::Value;

/// Cases whose golden file was made with settings of its own, which the input does not show.
const OTHER_SETTINGS: [&str; 6] = [
    "hello-otel-semconv",
    "proxy-resources-memory-null",
    "proxy-resources-null",
    "proxy-resources-null-no-init",
    "status_params",
    "traffic-params",
];

/// Probes and metrics of the application stay as the user wrote them; see the crate's promise.
const NOT_MADE: [&str; 3] =
    ["ISTIO_KUBE_APP_PROBERS", "ISTIO_PROMETHEUS_ANNOTATIONS", "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION"];

fn folder() -> PathBuf {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    shared.join("conformance/inject")
}

/// All objects of a text, those of lists one by one.
fn objects(text: &str) -> Vec<Value> {
    let documents = yaml::parse(text).expect("a golden file is YAML");
    let flat = |value: Value| match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value],
    };
    documents.into_iter().flat_map(|d| flat(d.value)).collect()
}

fn pod(object: &Value) -> (&Value, &Value) {
    match object["kind"].as_str() {
        Some("Pod") => (&object["metadata"], &object["spec"]),
        Some("CronJob") => {
            let job = &object["spec"]["jobTemplate"];
            (&job["metadata"], &job["spec"]["template"]["spec"])
        }
        _ => (&object["spec"]["template"]["metadata"], &object["spec"]["template"]["spec"]),
    }
}

/// What the sidecar's contract is about, in a form in which equal means the same.
fn essentials(object: &Value) -> BTreeMap<String, Value> {
    let (metadata, spec) = pod(object);
    let mut all = BTreeMap::new();
    for section in ["labels", "annotations"] {
        for (key, value) in metadata[section].as_object().into_iter().flatten() {
            if !key.starts_with("prometheus.") {
                let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
                all.insert(format!("{section} {key}"), parsed.unwrap_or_else(|| value.clone()));
            }
        }
    }
    for section in ["containers", "initContainers", "volumes"] {
        let list = spec[section].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<Value> = list.iter().map(|item| item["name"].clone()).collect();
        all.insert(format!("order of {section}"), names.into());
        for item in list {
            let name = item["name"].as_str().unwrap_or_default();
            for (key, value) in item.as_object().into_iter().flatten() {
                if section == "volumes" || (name.starts_with("istio-") && key != "env") {
                    all.insert(format!("{section} {name} {key}"), amounts(value.clone()));
                }
            }
            for variable in item["env"].as_array().into_iter().flatten().filter(|_| name == "istio-proxy") {
                let key = variable["name"].as_str().unwrap_or_default();
                if !NOT_MADE.contains(&key) {
                    let parsed = variable["value"].as_str().and_then(|text| serde_json::from_str(text).ok());
                    all.insert(format!("env {key}"), parsed.unwrap_or_else(|| variable.clone()));
                }
            }
        }
    }
    all
}

/// `1000m` of a CPU is `1`.
fn amounts(value: Value) -> Value {
    let text = value.to_string().replace("\"1000m\"", "\"1\"");
    serde_json::from_str(&text).expect("it was JSON")
}

fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let (ours, theirs) = (essentials(ours), essentials(theirs));
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differing = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    differing.map(|key| format!("{key}: {:?} for {:?}", ours.get(key), theirs.get(key))).collect()
}

#[test]
fn pods_are_those_of_istios_injector() {
    let folder = folder();
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: {} is not here", folder.display());
        return;
    };
    let options = Options { image: "registry.istio.io/testing/proxyv2:latest".to_owned(), ..Options::default() };
    let mut inputs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    inputs.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    inputs.sort();
    let (mut passed, mut refused, mut skipped, mut failed) = (0, Vec::new(), 0, Vec::new());
    for path in &inputs {
        let name = path.file_stem().and_then(|n| n.to_str()).expect("a name");
        if OTHER_SETTINGS.contains(&name) {
            skipped += 1;
            continue;
        }
        let text = std::fs::read_to_string(path).expect("readable");
        let injected = match kube_inject(&text, &options) {
            Ok(injected) => injected,
            Err(Refused::Annotation { name: annotation, .. }) => {
                refused.push(format!("{name} ({annotation})"));
                continue;
            }
            Err(Refused::Container { name: container, .. }) => {
                refused.push(format!("{name} ({container})"));
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let golden = std::fs::read_to_string(path.with_extension("yaml.injected")).expect("a golden file");
        let (ours, theirs) = (objects(&injected), objects(&golden));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let all: Vec<String> = ours.iter().zip(&theirs).flat_map(|(o, t)| differences(o, t)).collect();
        if all.is_empty() {
            passed += 1;
        } else {
            failed.push(format!("{name}:\n  {}", all.join("\n  ")));
        }
    }
    eprintln!("inject: {passed} of {} equal, {skipped} of other settings, refused: {refused:?}", inputs.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    \
                          metadata: {labels: {app: web}, annotations: {ANNOTATION}}\n    spec:\n      containers:\n      \
                          - {name: app, image: app}\n";

fn annotated(annotation: &str) -> Result<String, Refused> {
    kube_inject(&DEPLOYMENT.replace("{ANNOTATION}", &format!("{{{annotation}}}")), &Options::default())
}

#[test]
fn nothing_is_injected_twice_or_against_a_word() {
    let once = annotated("").expect("injects");
    assert_eq!(kube_inject(&once, &Options::default()).expect("injects"), once);
    let no = annotated("sidecar.istio.io/inject: \"false\"").expect("passes");
    assert!(!no.contains("istio-proxy"), "{no}");
    let service = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}});
    assert_eq!(inject(&service, &Options::default()).expect("passes"), service);
}

#[test]
fn what_is_not_honoured_is_named() {
    for wish in [
        "sidecar.istio.io/userVolume: \"[]\"",
        "proxy.istio.io/config: \"{}\"",
        "traffic.sidecar.istio.io/excludeInboundPorts: \"80,http\"",
        "traffic.sidecar.istio.io/includeOutboundIPRanges: \"10.0.0.0/33\"",
        "sidecar.istio.io/interceptionMode: TPROXY",
    ] {
        let said = annotated(wish).expect_err(wish).to_string();
        let name = wish.split(": ").next().unwrap_or_default();
        assert!(said.starts_with("Deployment web: annotation ") && said.contains(name), "{said}");
    }
    let own = DEPLOYMENT.replace("{ANNOTATION}", "{}").replace("name: app,", "name: istio-proxy,");
    assert!(kube_inject(&own, &Options::default()).is_err_and(|e| e.to_string().contains("istio-proxy is the")));
    let none = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
    assert!(kube_inject(none, &Options::default()).is_err_and(|e| e.to_string().contains("/spec must be")));
}

#[test]
fn the_sidecar_may_be_an_ordinary_container() {
    let text = annotated("sidecar.istio.io/nativeSidecar: \"false\"").expect("injects");
    let object = objects(&text).remove(0);
    let names = |field: &str| pod(&object).1[field].as_array().map(|l| l.iter().map(|c| c["name"].clone()).collect());
    assert_eq!(names("containers"), Some(vec!["app".into(), "istio-proxy".into()]));
    assert_eq!(names("initContainers"), Some(vec![Value::from("istio-init")]));
}
