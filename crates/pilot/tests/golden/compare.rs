//! Comparison of resources as Envoy prints them, with a list of differences.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What is left out of a comparison.
pub enum Ignored {
    /// HTTP and network filters of this name.
    Filter(&'static str),
}

/// A recorded answer, in the same form as ours: read as protobuf and printed again.
pub fn recorded(path: &str) -> Option<Vec<Value>> {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let file = shared.join("contract/xds").join(path);
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("skipped: {} is not here", file.display());
        return None;
    };
    let all: Vec<Value> = serde_json::from_str(&text).expect("a recording is JSON");
    let normal =
        |json: Value| envoy_api::any_to_json(&envoy_api::any_from_json(json).expect("a recording fits the schema"));
    Some(all.into_iter().map(normal).collect())
}

/// Fails with every difference between the two lists, matched by `key`.
pub fn report(what: &str, key: &str, expected: Vec<Value>, got: Vec<Value>, ignored: &[Ignored]) {
    let mut out = Vec::new();
    assert!(!got.iter().any(|json| json.to_string().contains("\"unreadable\"")), "{what}: a part cannot be read back");
    let by_key = |all: Vec<Value>| -> BTreeMap<String, Value> {
        all.into_iter()
            .map(|mut json| {
                strip(&mut json, ignored);
                (json[key].as_str().unwrap_or_default().to_owned(), json)
            })
            .collect()
    };
    let (expected, got) = (by_key(expected), by_key(got));
    for name in got.keys().filter(|name| !expected.contains_key(*name)) {
        out.push(format!("{name}: not sent by Istio"));
    }
    for (name, wanted) in &expected {
        match got.get(name) {
            None => out.push(format!("{name}: missing")),
            Some(ours) => walk(name, wanted, ours, &mut out),
        }
    }
    assert!(out.is_empty(), "{what}: {} differences\n{}", out.len(), out.join("\n"));
}

fn strip(json: &mut Value, ignored: &[Ignored]) {
    match json {
        Value::Array(items) => {
            items.retain(|item| !ignored.iter().any(|Ignored::Filter(name)| item["name"] == **name));
            items.iter_mut().for_each(|item| strip(item, ignored));
        }
        Value::Object(map) => map.values_mut().for_each(|value| strip(value, ignored)),
        _ => {}
    }
}

fn walk(at: &str, expected: &Value, got: &Value, out: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                walk(
                    &format!("{at}/{key}"),
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{at}/{index}"), a, b, out);
            }
        }
        _ if expected == got => {}
        _ => out.push(format!("{at}: expected {expected}, got {got}")),
    }
}
