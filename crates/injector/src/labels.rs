//! Labels and annotations of injected pods.

use serde_json::{Map, Value, json};

use crate::annotations::Wishes;
use crate::{Options, Owner, containers, volumes};

/// Kubernetes' limit for the value of a label.
const LABEL_LIMIT: usize = 63;

/// The pod's metadata with what the sidecar adds; what the user wrote stays.
pub(crate) fn metadata(old: &Value, pod: &Value, owner: &Owner, wishes: &Wishes, options: &Options) -> Value {
    let mut metadata = old.as_object().cloned().unwrap_or_default();
    let mut labels = section(&metadata, "labels");
    let first = |keys: &[&str], other: &str| {
        let given = keys.iter().find_map(|key| old["labels"][key].as_str());
        short(given.unwrap_or(other)).to_owned()
    };
    add(&mut labels, "security.istio.io/tlsMode", "istio");
    let name = first(&["app.kubernetes.io/name", "app"], &owner.name);
    add(&mut labels, "service.istio.io/canonical-name", &name);
    let revision = first(&["app.kubernetes.io/version", "version"], "latest");
    add(&mut labels, "service.istio.io/canonical-revision", &revision);

    let mut annotations = section(&metadata, "annotations");
    add(&mut annotations, "istio.io/rev", &options.revision);
    if let Some(app) = pod["containers"][0]["name"].as_str() {
        add(&mut annotations, "kubectl.kubernetes.io/default-container", app);
        add(&mut annotations, "kubectl.kubernetes.io/default-logs-container", app);
    }
    // An application that is scraped already keeps its own address: nobody would merge its metrics into ours.
    if !annotations.contains_key("prometheus.io/scrape") {
        add(&mut annotations, "prometheus.io/path", "/stats/prometheus");
        add(&mut annotations, "prometheus.io/port", "15020");
        add(&mut annotations, "prometheus.io/scrape", "true");
    }
    annotations.insert("sidecar.istio.io/status".to_owned(), status(wishes, options).into());
    metadata.insert("labels".to_owned(), labels.into());
    metadata.insert("annotations".to_owned(), annotations.into());
    metadata.into()
}

/// What was added, so that it is not added twice.
fn status(wishes: &Wishes, options: &Options) -> String {
    let (before, beside) = containers::names(wishes);
    let names = |list: Vec<&str>| if list.is_empty() { Value::Null } else { list.into() };
    let volumes: Vec<Value> = volumes::volumes().into_iter().map(|volume| volume["name"].clone()).collect();
    json!({
        "initContainers": names(before),
        "containers": names(beside),
        "volumes": volumes,
        "imagePullSecrets": null,
        "revision": options.revision,
    })
    .to_string()
}

fn section(metadata: &Map<String, Value>, name: &str) -> Map<String, Value> {
    metadata.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn add(map: &mut Map<String, Value>, key: &str, value: &str) {
    map.entry(key).or_insert_with(|| value.into());
}

/// As much as a label may hold; a label ends with a letter or a digit.
fn short(text: &str) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LABEL_LIMIT).last();
    text[..end.unwrap_or(0)].trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}
