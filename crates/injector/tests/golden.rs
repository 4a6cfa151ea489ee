//! Istio's own inputs: pods equal in what the sidecar needs to those that Istio's injector makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use injector::{Options, Refused, inject, kube_inject};
use istio_api::yaml;
use serde_json::Value;

/// What `status_params` and a few others were made with: another status port, and another readiness.
const STATUS: &str = "{global: {proxy: {statusPort: 123, readinessInitialDelaySeconds: 100, readinessPeriodSeconds: \
                      200, readinessFailureThreshold: 300}}}";
/// Amounts that an administrator took away.
const NO_CPU: &str = "{global: {proxy: {resources: {limits: {cpu: null, memory: 500Mi}, requests: {cpu: null, memory: \
                      150Mi}}}}}";
const NO_MEMORY: &str = "{global: {proxy: {resources: {limits: {cpu: 100m, memory: null}, requests: {cpu: 50m, memory: \
                         null}}}}}";
const TRAFFIC: &str = "{global: {proxy: {statusPort: 0, includeIPRanges: \"127.0.0.1/24,10.96.0.1/24\", \
                       excludeIPRanges: \"10.96.0.2/24,10.96.0.3/24\", excludeInboundPorts: \"4,5,6\"}}}";

/// The settings of the mesh with which a golden file was made; its input does not show them.
fn values(name: &str) -> &'static str {
    match name {
        "status_params" | "kubevirtInterfaces" | "reroute-virtual-interfaces" => STATUS,
        "proxy-resources-null" | "proxy-resources-null-no-init" => NO_CPU,
        "proxy-resources-memory-null" => NO_MEMORY,
        "traffic-params" => TRAFFIC,
        "hello-openshift-tproxy" => "{pilot: {cni: {enabled: true}}}",
        _ => "{}",
    }
}

/// Differences that are meant; docs/injection.md gives the reasons.
const MEANT: [(&str, &str); 5] = [
    ("hello-otel-semconv", "istio-proxy env OTEL_RESOURCE_ATTRIBUTES"),
    ("hello-probes-localhost", "istio-proxy env REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION"),
    ("sidecar-spire", "containers"),
    ("sidecar-spire", "sidecar.istio.io/status"),
    ("sidecar-spire", "initContainers istio-proxy volumeMounts"),
];

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
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            all.insert(format!("{section} {key}"), parsed.unwrap_or_else(|| value.clone()));
        }
    }
    for section in ["containers", "initContainers", "volumes"] {
        let list = spec[section].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<Value> = list.iter().map(|item| item["name"].clone()).collect();
        all.insert(format!("order of {section}"), names.into());
        for item in list {
            let name = item["name"].as_str().unwrap_or_default();
            for (key, value) in item.as_object().into_iter().flatten() {
                let empty = key == "resources" && value.as_object().is_some_and(serde_json::Map::is_empty);
                if key != "env" && !empty {
                    all.insert(format!("{section} {name} {key}"), amounts(value.clone()));
                }
            }
            for variable in item["env"].as_array().into_iter().flatten() {
                let key = variable["name"].as_str().unwrap_or_default();
                let text = variable["value"].as_str().unwrap_or_default();
                let plain = variable.get("valueFrom").is_none();
                let parsed = serde_json::from_str(text).unwrap_or_else(|_| text.into());
                all.insert(format!("{section} {name} env {key}"), if plain { parsed } else { variable.clone() });
            }
        }
    }
    for (key, value) in spec.as_object().into_iter().flatten() {
        if !["containers", "initContainers", "volumes"].contains(&key.as_str()) {
            all.insert(format!("spec {key}"), value.clone());
        }
    }
    all
}

/// `1000m` of a CPU is `1`.
fn amounts(value: Value) -> Value {
    let text = value.to_string().replace("\"1000m\"", "\"1\"").replace("\"4000m\"", "\"4\"");
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
    let mut inputs: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    inputs.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    inputs.sort();
    let (mut passed, mut meant, mut failed) = (0, Vec::new(), Vec::new());
    for path in &inputs {
        let name = path.file_stem().and_then(|n| n.to_str()).expect("a name");
        let options = Options { image: "registry.istio.io/testing/proxyv2:latest".to_owned(), ..Options::default() };
        let options = options.with_values(values(name)).expect("the values are YAML");
        let text = std::fs::read_to_string(path).expect("readable");
        let injected = kube_inject(&text, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let golden = std::fs::read_to_string(path.with_extension("yaml.injected")).expect("a golden file");
        let (ours, theirs) = (objects(&injected), objects(&golden));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let mut all: Vec<String> = ours.iter().zip(&theirs).flat_map(|(o, t)| differences(o, t)).collect();
        let before = all.len();
        all.retain(|d| !MEANT.iter().any(|(case, what)| *case == name && d.contains(what)));
        if !all.is_empty() {
            failed.push(format!("{name}:\n  {}", all.join("\n  ")));
        } else if before > 0 {
            meant.push(name);
        } else {
            passed += 1;
        }
    }
    eprintln!("inject: {passed} of {} equal, meant differences: {meant:?}", inputs.len());
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
        "sidecar.istio.io/userVolume: \"1\"",
        "proxy.istio.io/config: \"gatewayTopology: {}\"",
        "proxy.istio.io/config: \"a: [\"",
        "inject.istio.io/templates: nosuch",
        "inject.istio.io/templates: gateway",
        "status.sidecar.istio.io/port: \"15999\"",
        "sidecar.istio.io/rewriteAppHTTPProbers: \"perhaps\"",
        "sidecar.istio.io/proxyImageType: debug",
        "traffic.sidecar.istio.io/excludeInboundPorts: \"80,http\"",
        "traffic.sidecar.istio.io/includeOutboundIPRanges: \"10.0.0.0/33\"",
        "sidecar.istio.io/interceptionMode: TPROXY",
    ] {
        let said = annotated(wish).expect_err(wish).to_string();
        let name = wish.split(": ").next().unwrap_or_default();
        assert!(said.starts_with("Deployment web: annotation ") && said.contains(name), "{said}");
    }
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

/// The pod of an injected Deployment.
fn spec(text: &str) -> Value {
    pod(&objects(text).remove(0)).1.clone()
}

fn stock() -> Options {
    Options { image: "registry.istio.io/release/proxyv2:1.31.0".to_owned(), ..Options::default() }
}

#[test]
fn a_users_container_of_the_sidecars_name_stands_above_the_injectors() {
    let text = DEPLOYMENT.replace("{ANNOTATION}", "{}")
        + "      - {name: istio-proxy, image: auto, args: [own], env: [{name: CA_ADDR, value: mine}], resources: {limits: {cpu: \"1\"}}}\n";
    let injected = kube_inject(&text, &Options::default()).expect("injects");
    let spec = spec(&injected);
    assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1));
    let proxy = &spec["initContainers"][1];
    assert_eq!((&proxy["image"], &proxy["args"]), (&Value::from("meltemi:latest"), &serde_json::json!(["own"])));
    assert_eq!(proxy["resources"]["limits"], serde_json::json!({"cpu": "1", "memory": "1Gi"}));
    let address = proxy["env"].as_array().and_then(|e| e.iter().find(|v| v["name"] == "CA_ADDR"));
    assert_eq!(address.map(|v| &v["value"]), Some(&Value::from("mine")));
    let kept = objects(&injected).remove(0);
    let kept = pod(&kept).0["annotations"]["proxy.istio.io/overrides"].as_str().expect("a record");
    assert!(kept.contains("\"initContainers\":[{\"name\":\"istio-proxy\"") && !kept.contains("auto"), "{kept}");
}

#[test]
fn the_application_waits_for_the_sidecar_where_that_is_wished() {
    let text = annotated(
        "sidecar.istio.io/nativeSidecar: \"false\", proxy.istio.io/config: \"{holdApplicationUntilProxyStarts: true}\"",
    )
    .expect("injects");
    let spec_of_wish = spec(&text);
    let first = &spec_of_wish["containers"][0];
    assert_eq!(first["name"], "istio-proxy");
    assert_eq!(first["lifecycle"]["postStart"]["exec"]["command"], serde_json::json!(["pilot-agent", "wait"]));

    // The mesh wishes it; a pod may say no, and a native sidecar comes first whatever is said.
    let mut options = Options::default();
    options.proxy_config.insert("holdApplicationUntilProxyStarts".to_owned(), true.into());
    let with = |wish: &str| {
        let injected = kube_inject(&DEPLOYMENT.replace("{ANNOTATION}", &format!("{{{wish}}}")), &options);
        spec(&injected.expect("injects"))
    };
    let not_native = "sidecar.istio.io/nativeSidecar: \"false\"";
    assert_eq!(with(not_native)["containers"][0], *first);
    let no = with(&format!("{not_native}, proxy.istio.io/config: \"{{holdApplicationUntilProxyStarts: false}}\""));
    let names: Vec<_> = no["containers"].as_array().expect("containers").iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["app", "istio-proxy"]);
    assert!(no["containers"][1].get("lifecycle").is_none(), "the application starts at once");
    let native = with("");
    let proxy = &native["initContainers"][1];
    assert_eq!((&proxy["name"], &proxy["restartPolicy"]), (&"istio-proxy".into(), &"Always".into()));
    assert!(proxy["lifecycle"].get("postStart").is_none(), "nothing waits for what has started before");
}

#[test]
fn volumes_of_the_user_are_mounted_into_the_sidecar() {
    let wishes = "sidecar.istio.io/userVolume: '{\"ca\": {\"secret\": {\"secretName\": \"ca\"}}}', \
                  sidecar.istio.io/userVolumeMount: '[{\"name\": \"ca\", \"mountPath\": \"/ca\"}]'";
    let spec = spec(&annotated(wishes).expect("injects"));
    let volumes = spec["volumes"].as_array().expect("volumes");
    assert!(volumes.iter().any(|v| v["name"] == "ca" && v["secret"]["secretName"] == "ca"), "{volumes:?}");
    let mounts = spec["initContainers"][1]["volumeMounts"].as_array().expect("mounts").clone();
    assert!(mounts.iter().any(|m| m["mountPath"] == "/ca"), "{mounts:?}");
}

#[test]
fn a_template_of_the_user_is_plain_yaml() {
    let mut options = Options::default();
    options
        .templates
        .insert("own".to_owned(), "spec: {containers: [{name: istio-proxy, tty: true}], priority: 5}".to_owned());
    options.templates.insert("go".to_owned(), "spec: {priority: {{ .Values.x }}}".to_owned());
    let with = |name: &str| {
        let wish =
            format!("{{inject.istio.io/templates: \"sidecar,{name}\", sidecar.istio.io/nativeSidecar: \"false\"}}");
        kube_inject(&DEPLOYMENT.replace("{ANNOTATION}", &wish), &options)
    };
    let spec = spec(&with("own").expect("injects"));
    assert_eq!((&spec["priority"], &spec["containers"][1]["tty"]), (&Value::from(5), &Value::from(true)));
    assert!(with("go").is_err_and(|e| e.to_string().contains("Go template")));
}

#[test]
fn probes_and_metrics_go_through_a_sidecar_that_can_do_it() {
    let text = DEPLOYMENT.replace("{ANNOTATION}", "{prometheus.io/scrape: \"true\", prometheus.io/port: \"9000\"}").replace(
        "image: app}",
        "image: app, ports: [{name: web, containerPort: 80}], readinessProbe: {grpc: {port: 81}, timeoutSeconds: 7}, \
         livenessProbe: {exec: {command: [a]}}}",
    );
    let injected = kube_inject(&text, &stock()).expect("injects");
    let pod = spec(&injected);
    assert_eq!(pod["containers"][0]["readinessProbe"]["httpGet"]["path"], "/app-health/app/readyz");
    assert!(pod["containers"][0]["livenessProbe"]["exec"].is_object());
    let env = pod["initContainers"][1]["env"].as_array().expect("an environment");
    let told =
        |name: &str| env.iter().find(|v| v["name"] == name).map(|v| v["value"].as_str().unwrap_or_default().to_owned());
    let asked = "{\"/app-health/app/readyz\":{\"grpc\":{\"port\":81},\"timeoutSeconds\":7}}";
    assert_eq!(told("ISTIO_KUBE_APP_PROBERS").as_deref(), Some(asked));
    assert!(told("ISTIO_PROMETHEUS_ANNOTATIONS").is_some_and(|t| t.contains("\"port\":\"9000\"")));
    assert_eq!(
        spec(&kube_inject(&text, &Options::default()).expect("injects"))["containers"],
        pod["containers"],
        "ours"
    );
}

#[test]
fn what_the_mesh_asks_and_the_image_cannot_is_refused() {
    let text = DEPLOYMENT.replace("{ANNOTATION}", "{}");
    let cni = Options { cni: true, ..Options::default() };
    let refused = kube_inject(&text, &cni).expect_err("no CNI").to_string();
    assert!(refused.starts_with("Deployment web: pilot.cni.enabled: "), "{refused}");
    let stock = spec(&kube_inject(&text, &Options { cni: true, ..stock() }).expect("injects"));
    assert_eq!(stock["initContainers"][0]["name"], "istio-validation");
}

const PROXY_CONFIGS: &str = r#"
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: all, namespace: istio-system}
spec: {concurrency: 4, environmentVariables: {A: root, B: root, C: root}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: web, namespace: default}
spec: {selector: {matchLabels: {app: web}}, image: {imageType: distroless}, environmentVariables: {B: own, C: own}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: other, namespace: default}
spec: {selector: {matchLabels: {app: other}}, concurrency: 9}
"#;

#[test]
fn proxy_configs_are_laid_over_the_mesh_and_under_the_pods_annotation() {
    let documents = yaml::parse(PROXY_CONFIGS).expect("YAML");
    let all = documents.iter().map(|d| match istio_api::read(d, "default") {
        Ok(Some(istio_api::Resource::ProxyConfig(config))) => config,
        other => panic!("{other:?}"),
    });
    let all: Vec<_> = all.collect();
    let text = DEPLOYMENT.replace("{ANNOTATION}", "{proxy.istio.io/config: \"{proxyMetadata: {C: pod}}\"}");
    for (options, image) in
        [(Options::default(), "meltemi:latest"), (stock(), "registry.istio.io/release/proxyv2:1.31.0-distroless")]
    {
        let spec = spec(&kube_inject(&text, &Options { proxy_configs: all.clone(), ..options }).expect("injects"));
        let proxy = &spec["initContainers"][1];
        assert_eq!(proxy["image"], image);
        let told = |name: &str| {
            let found = proxy["env"].as_array().and_then(|e| e.iter().find(|v| v["name"] == name));
            found.and_then(|v| v["value"].as_str()).unwrap_or_default().to_owned()
        };
        assert_eq!((told("A"), told("B"), told("C")), ("root".to_owned(), "own".to_owned(), "pod".to_owned()));
        let config: Value = serde_json::from_str(&told("PROXY_CONFIG")).expect("JSON");
        assert_eq!((&config["concurrency"], &config["proxyMetadata"]["B"]), (&Value::from(4), &Value::from("own")));
    }
    let debug = annotated("sidecar.istio.io/proxyImageType: debug").expect_err("refused").to_string();
    assert!(debug.contains("no variant debug"), "{debug}");
}

/// The debug page of istiod shows them: the sidecar's containers, the user's own text, and what the image cannot do.
#[test]
fn templates_show_what_they_add() {
    let mut options = Options { image: "registry.istio.io/testing/proxyv2:latest".to_owned(), ..Options::default() };
    options.templates.insert("mine".to_owned(), "metadata: {labels: {a: b}}\n".to_owned());
    let all = injector::templates(&options);
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, ["gateway", "grpc-agent", "grpc-simple", "mine", "sidecar", "spire"]);
    let sidecar = objects(&all["sidecar"]).remove(0);
    assert_eq!(sidecar["spec"]["initContainers"][1]["name"], "istio-proxy", "{sidecar:#}");
    assert_eq!(sidecar["metadata"]["labels"]["security.istio.io/tlsMode"], "istio");
    assert_eq!(all["mine"], "metadata: {labels: {a: b}}\n");
    let ours = injector::templates(&Options::default());
    assert!(ours["gateway"].starts_with("# refused: "), "{}", ours["gateway"]);
}
