//! Labels and annotations of injected pods, and what they bring into the sidecar's environment.

use serde_json::{Map, Value, json};

use crate::annotations::{REWRITE, Wishes};
use crate::containers::PROXY;
use crate::owner::Owner;
use crate::probes;
use crate::templates::Addition;

/// Kubernetes' limit for the value of a label.
const LABEL_LIMIT: usize = 63;

/// The pod's metadata with what injection adds; what the user wrote stays. Probes and metrics of the application go
/// through the sidecar.
pub(crate) fn metadata(
    old: &Value,
    pod: &mut Value,
    all: &Addition,
    overrides: &Map<String, Value>,
    owner: &Owner,
    wishes: &Wishes,
) -> Value {
    let mut metadata = old.as_object().cloned().unwrap_or_default();
    let mut labels = section(&metadata, "labels");
    let first = |keys: &[&str], other: &str| {
        let given = keys.iter().find_map(|key| old["labels"][key].as_str());
        short(given.unwrap_or(other)).to_owned()
    };
    let name = first(&["app.kubernetes.io/name", "app"], &owner.name);
    let revision = first(&["app.kubernetes.io/version", "version"], "latest");
    add_all(&mut labels, &all.labels);
    add(&mut labels, "service.istio.io/canonical-name", &name);
    add(&mut labels, "service.istio.io/canonical-revision", &revision);

    let mut annotations = section(&metadata, "annotations");
    add(&mut annotations, "istio.io/rev", &wishes.options.revision);
    for (key, value) in &wishes.options.annotations {
        add(&mut annotations, key, value);
    }
    // Without a rewrite there is nothing an own template could forbid.
    let rewrite = wishes.options.rewrite_probes && !all.annotations.contains_key(REWRITE);
    add_all(&mut annotations, &all.annotations);
    if rewrite && wishes.abilities.probes && wishes.options.status_port != 0 && proxy(pod).is_some() {
        let asked = probes::rewrite(pod, wishes.options.status_port);
        if !asked.is_empty() {
            tell(pod, "ISTIO_KUBE_APP_PROBERS", &Value::Object(asked));
        }
    }
    metrics(pod, &mut annotations, wishes);
    if !overrides.is_empty() {
        let text = Value::Object(overrides.clone()).to_string();
        annotations.insert("proxy.istio.io/overrides".to_owned(), text.into());
    }
    annotations.insert("sidecar.istio.io/status".to_owned(), status(all, wishes).into());
    metadata.insert("labels".to_owned(), labels.into());
    metadata.insert("annotations".to_owned(), annotations.into());
    metadata.into()
}

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";
const TARGETS: &str = "prometheus.istio.io/scrape-targets";

/// One address that has the application's and the sidecar's metrics; where the application says it is scraped, the
/// sidecar learns of it.
fn metrics(pod: &mut Value, annotations: &mut Map<String, Value>, wishes: &Wishes) {
    let text =
        |annotations: &Map<String, Value>, key: &str| annotations.get(key).and_then(Value::as_str).map(str::to_owned);
    let scrape = text(annotations, SCRAPE);
    // An application that is scraped already keeps its own address where nobody would merge.
    let own = scrape.is_some() && !wishes.abilities.metrics;
    if scrape.as_deref() == Some("false") || !wishes.options.merge_metrics || own {
        return;
    }
    let given = wishes.options.proxy_config.get("statusPort").and_then(Value::as_u64).unwrap_or(15020).to_string();
    let (mut port, mut path) = (text(annotations, PORT), text(annotations, PATH));
    if port.as_deref() == Some(given.as_str()) {
        (port, path) = (None, None);
    }
    let targets: Vec<(String, String)> = text(annotations, TARGETS).as_deref().map(targets).unwrap_or_default();
    if let Some((first, at)) = targets.first() {
        port.get_or_insert_with(|| first.clone());
        path.get_or_insert_with(|| at.clone());
    }
    if scrape.is_some() || port.is_some() || path.is_some() {
        let mut told = Map::new();
        let fields = [
            ("scrape", scrape.unwrap_or_default()),
            ("path", path.unwrap_or_default()),
            ("port", port.unwrap_or_default()),
        ];
        for (key, value) in fields {
            told.insert(key.to_owned(), value.into());
        }
        if !targets.is_empty() {
            let list: Vec<Value> = targets.iter().map(|(port, path)| json!({"port": port, "path": path})).collect();
            told.insert("targets".to_owned(), list.into());
        }
        tell(pod, "ISTIO_PROMETHEUS_ANNOTATIONS", &Value::Object(told));
    }
    annotations.shift_remove(TARGETS);
    for (key, value) in [(PATH, "/stats/prometheus"), (PORT, given.as_str()), (SCRAPE, "true")] {
        annotations.insert(key.to_owned(), value.into());
    }
}

/// `8080:/metrics,9100` as ports and paths.
fn targets(text: &str) -> Vec<(String, String)> {
    let one = |target: &str| {
        let (port, path) = target.split_once(':').unwrap_or((target, "/metrics"));
        (port.trim().to_owned(), path.trim().to_owned())
    };
    text.split(',').filter(|t| !t.trim().is_empty()).map(one).collect()
}

/// The proxy among the pod's containers.
fn proxy(pod: &mut Value) -> Option<&mut Value> {
    let field = ["containers", "initContainers"]
        .into_iter()
        .find(|field| pod[*field].as_array().into_iter().flatten().any(|c| c["name"] == PROXY))?;
    pod.get_mut(field)?.as_array_mut()?.iter_mut().find(|c| c["name"] == PROXY)
}

/// Puts a variable into the proxy's environment.
fn tell(pod: &mut Value, name: &str, value: &Value) {
    let Some(proxy) = proxy(pod) else { return };
    let variable = json!({"name": name, "value": value.to_string()});
    match proxy.get_mut("env").and_then(Value::as_array_mut) {
        Some(env) => env.push(variable),
        None => proxy["env"] = json!([variable]),
    }
}

/// What was added, so that it is not added twice.
fn status(all: &Addition, wishes: &Wishes) -> String {
    let names = |list: &[Value]| match list.is_empty() {
        true => Value::Null,
        false => list.iter().map(|item| item["name"].clone()).collect(),
    };
    let secrets = &wishes.options.pull_secrets;
    json!({
        "initContainers": names(&all.before),
        "containers": names(&all.beside),
        "volumes": names(&all.volumes),
        "imagePullSecrets": if secrets.is_empty() { Value::Null } else { json!(secrets) },
        "revision": wishes.options.revision,
    })
    .to_string()
}

fn section(metadata: &Map<String, Value>, name: &str) -> Map<String, Value> {
    metadata.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn add(map: &mut Map<String, Value>, key: &str, value: &str) {
    map.entry(key).or_insert_with(|| value.into());
}

fn add_all(map: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (key, value) in more {
        map.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

/// As much as a label may hold; a label ends with a letter or a digit.
fn short(text: &str) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LABEL_LIMIT).last();
    text[..end.unwrap_or(0)].trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}
