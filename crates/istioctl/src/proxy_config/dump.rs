//! Envoy's configuration dump as JSON, in either of its two spellings: `/config_dump` writes `field_name`, istiod and
//! Go write `fieldName`.

use serde_json::{Map, Value};

/// A field at a path such as `a.b_c.0`; null where there is none.
pub(crate) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').filter(|p| !p.is_empty()).fold(value, |value, part| match value {
        Value::Array(items) => part.parse().ok().and_then(|i: usize| items.get(i)).unwrap_or(&Value::Null),
        _ => value.get(part).or_else(|| value.get(camel_word(part))).unwrap_or(&Value::Null),
    })
}

/// Text at a path; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).as_str().unwrap_or_default()
}

/// A list at a path; empty where there is none.
pub(crate) fn list<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A whole number at a path, which proto-JSON may write as text.
pub(crate) fn number(value: &Value, path: &str) -> u64 {
    let value = at(value, path);
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// The section of a dump, such as `ClustersConfigDump`.
pub(crate) fn section<'v>(dump: &'v Value, name: &str) -> Option<&'v Value> {
    let wanted = |part: &&Value| text(part, "@type").rsplit('.').next() == Some(name);
    list(dump, "configs").iter().find(wanted)
}

fn camel_word(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut upper = false;
    for c in word.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

/// Fields whose content is the users' own, with names of their own.
const VERBATIM: [&str; 3] = ["filter_metadata", "filterMetadata", "metadata"];

/// The value with fields spelt `fieldName`, as Istio's commands print them.
pub(crate) fn camel(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(camel).collect(),
        Value::Object(map) if text(value, "@type").ends_with(".TypedStruct") => {
            let word = |(k, v): (&String, &Value)| (camel_key(k), v.clone());
            Value::Object(map.iter().map(word).collect::<Map<_, _>>())
        }
        Value::Object(map) => {
            let word = |(k, v): (&String, &Value)| {
                // A node's metadata is free; an endpoint's or a route's has the known fields filter_metadata and the like.
                let free = VERBATIM.contains(&k.as_str()) && at(v, "filter_metadata").is_null();
                (camel_key(k), if free { v.clone() } else { camel(v) })
            };
            Value::Object(map.iter().map(word).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Names of filters, variables and the like are data: they have dots, or capitals.
fn camel_key(key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { camel_word(key) } else { key.to_owned() }
}

/// `direction|port|subset|host` of a cluster's name; other names are hosts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterKey {
    pub direction: String,
    pub port: u64,
    pub subset: String,
    pub host: String,
}

impl ClusterKey {
    pub(crate) fn of(name: &str) -> Self {
        // SNI names are spelt with dots: outbound_.80_.v1_.host.
        let parts: Vec<&str> = match name.matches("_.").count() {
            3 if !name.contains('|') => name.split("_.").collect(),
            _ => name.split('|').collect(),
        };
        match parts.as_slice() {
            [direction, port, subset, host] => Self {
                direction: (*direction).to_owned(),
                port: port.parse().unwrap_or(0),
                subset: (*subset).to_owned(),
                host: (*host).to_owned(),
            },
            _ => Self { direction: String::new(), port: 0, subset: String::new(), host: name.to_owned() },
        }
    }

    /// The order of Istio's tables.
    pub(crate) fn order(&self) -> (String, String, u64, String) {
        (self.host.clone(), self.subset.clone(), self.port, self.direction.clone())
    }
}

/// The object of Istio that a part of the configuration was made from, `name.namespace`, by its metadata.
pub(crate) fn made_from(value: &Value) -> String {
    let config = at(value, "metadata.filter_metadata").get("istio").map(|i| text(i, "config")).unwrap_or_default();
    let parts: Vec<&str> = config.split('/').collect();
    match parts.as_slice() {
        ["", "apis", _, _, "namespaces", namespace, _, name] => format!("{name}.{namespace}"),
        _ => config.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_are_read_and_one_is_written() {
        let dump =
            json!({"load_assignment": {"cluster_name": "a"}, "metadata": {"filter_metadata": {"istio": {"a_b": 1}}}});
        assert_eq!(text(&dump, "load_assignment.cluster_name"), "a");
        let camel = camel(&dump);
        assert_eq!(text(&camel, "load_assignment.cluster_name"), "a");
        assert_eq!(camel["metadata"]["filterMetadata"]["istio"]["a_b"], 1);
    }

    #[test]
    fn cluster_names_have_four_parts_or_are_hosts() {
        let key = ClusterKey::of("outbound|80|v1|a.b.svc.cluster.local");
        assert_eq!((key.port, key.subset.as_str(), key.direction.as_str()), (80, "v1", "outbound"));
        assert_eq!(ClusterKey::of("BlackHoleCluster").host, "BlackHoleCluster");
        assert_eq!(ClusterKey::of("outbound_.80_.v1_.a.b").host, "a.b");
    }
}
