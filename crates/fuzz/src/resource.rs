//! New resources from old ones, with the descriptors of the messages at hand: what comes out is nearly always a message,
//! so that the compilers see it and not the decoder.

use std::collections::HashMap;

use envoy_api::{Field, Holds, Many, fields};
use fastrand::Rng;
use serde_json::{Map, Value, json};

const KINDS: [&str; 4] = [
    "envoy.config.listener.v3.Listener",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.route.v3.RouteConfiguration",
];

/// Texts that the compilers parse, and some that no parser likes.
const TEXTS: &[&str] = &[
    "",
    "*",
    "*.a",
    "a.*",
    "/",
    "//",
    "/%2e%2e/",
    "%",
    "%%",
    "%A(",
    "%REQ(X)%",
    "%PROTOCOL%",
    "(",
    "(?i)a",
    "a{1000}{1000}",
    "\\1",
    "\\",
    "$1",
    "\u{0}",
    "\r\n",
    "é",
    ":method",
    "host",
    "x",
    "X_y",
    "0.0.0.0",
    "::",
    "10.1.2.3",
    "256.1.1.1",
    "10.0.0.0/8",
    "websocket",
    "CONNECT",
    "connect-udp",
    "5xx,reset",
    "retriable-status-codes,nonsense",
    "istio",
    "istio-peer-exchange",
    "h2",
    "envoy.retry_host_predicates.previous_hosts",
    "spiffe://a/b",
    "tlsMode",
    "NR",
    "-----BEGIN CERTIFICATE-----",
    "{\"keys\":[]}",
];

/// Changes resources of the form that target `xds` takes: a byte for the kind, then JSON.
pub struct Resources {
    known: HashMap<String, Vec<Field>>,
}

impl Resources {
    pub(crate) fn new() -> Self {
        Self { known: HashMap::new() }
    }

    /// A changed copy of `input`, with parts of `other` grafted in; `None` when `input` is no such resource.
    pub(crate) fn change(&mut self, input: &[u8], other: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
        let (kind, rest) = input.split_first()?;
        let message = KINDS[usize::from(kind % 4)];
        let mut resource: Value = serde_json::from_slice(rest).ok()?;
        let donor: Value = other.get(1..).and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
        for _ in 0..rng.usize(1..5) {
            self.alter(&mut resource, message, &donor, rng);
        }
        tame(&mut resource);
        let mut out = vec![*kind];
        serde_json::to_writer(&mut out, &resource).ok()?;
        Some(out)
    }

    fn fields(&mut self, message: &str) -> Vec<Field> {
        let all = || fields(message).unwrap_or_default();
        self.known.entry(message.to_owned()).or_insert_with(all).clone()
    }

    /// Goes down a random way and changes what stands there.
    fn alter(&mut self, value: &mut Value, message: &str, donor: &Value, rng: &mut Rng) {
        let message = match value.get("@type").and_then(Value::as_str) {
            Some(url) => url.rsplit('/').next().unwrap_or_default().to_owned(),
            None => message.to_owned(),
        };
        let fields = self.fields(&message);
        let Value::Object(map) = value else { return };
        let inner: Vec<&Field> = fields
            .iter()
            .filter(|f| matches!(&f.holds, Holds::Message(_)) && map.get(&f.name).is_some_and(|v| !v.is_string()))
            .collect();
        if !inner.is_empty() && rng.u32(..4) != 0 {
            let field = inner[rng.usize(..inner.len())];
            let Holds::Message(of) = &field.holds else { return };
            let Some(held) = map.get_mut(&field.name) else { return };
            let child = match (field.many, held) {
                (Many::List, Value::Array(all)) if !all.is_empty() => {
                    if rng.u32(..8) == 0 {
                        let copy = all[rng.usize(..all.len())].clone();
                        all.insert(rng.usize(..=all.len()), copy);
                    }
                    let at = rng.usize(..all.len());
                    &mut all[at]
                }
                (Many::Map, Value::Object(all)) if !all.is_empty() => {
                    let at = rng.usize(..all.len());
                    match all.values_mut().nth(at) {
                        Some(child) => child,
                        None => return,
                    }
                }
                (Many::One, held) => held,
                _ => return,
            };
            return self.alter(child, of, donor, rng);
        }
        if fields.is_empty() {
            return;
        }
        let field = &fields[rng.usize(..fields.len())];
        match rng.u32(..6) {
            0 if !map.is_empty() => {
                let keys: Vec<String> = map.keys().filter(|k| *k != "@type").cloned().collect();
                if !keys.is_empty() {
                    map.remove(&keys[rng.usize(..keys.len())]);
                }
            }
            1 => {
                if let Some(part) = find(donor, &field.name, rng) {
                    map.insert(field.name.clone(), part);
                }
            }
            _ => {
                // Mostly within the rules of the language, so that the message is one.
                if rng.u32(..16) != 0 {
                    field.excludes.iter().for_each(|name| drop(map.remove(name)));
                }
                let made = self.sample(field, 0, rng);
                map.insert(field.name.clone(), made);
            }
        }
    }

    fn sample(&mut self, field: &Field, depth: u32, rng: &mut Rng) -> Value {
        let count = rng.usize(..3);
        match field.many {
            Many::One => self.one(&field.holds, depth, rng),
            Many::List => Value::Array((0..count).map(|_| self.one(&field.holds, depth, rng)).collect()),
            Many::Map => Value::Object(Map::from_iter(
                (0..count).map(|_| (text(rng).to_owned(), self.one(&field.holds, depth, rng))),
            )),
        }
    }

    fn one(&mut self, holds: &Holds, depth: u32, rng: &mut Rng) -> Value {
        match holds {
            Holds::Bool => json!(rng.bool()),
            Holds::Whole { signed } => {
                let low = if *signed { i64::from(i32::MIN) } else { 0 };
                json!([low, 0, 1, 2, 80, 100, 65_535, 65_536, i64::from(i32::MAX)][rng.usize(..9)])
            }
            Holds::Fraction => json!([-1.0, 0.0, 0.5, 100.0, 1e300][rng.usize(..5)]),
            Holds::Text => json!(text(rng)),
            Holds::Bytes => json!(["", "c2V2ZW4=", "/////w=="][rng.usize(..3)]),
            Holds::Choice(names) => json!(names[rng.usize(..names.len())]),
            Holds::Message(name) => self.message(name, depth, rng),
        }
    }

    fn message(&mut self, name: &str, depth: u32, rng: &mut Rng) -> Value {
        match name.strip_prefix("google.protobuf.").unwrap_or_default() {
            "Duration" => json!(["0s", "-1s", "0.000000001s", "1s", "315576000000s", "-315576000000s"][rng.usize(..6)]),
            "BoolValue" => json!(rng.bool()),
            "UInt32Value" => json!([0_u32, 1, 5, 100, 65_536, u32::MAX][rng.usize(..6)]),
            "UInt64Value" => json!(["0", "1", "1024", "18446744073709551615"][rng.usize(..4)]),
            "DoubleValue" | "FloatValue" => json!([-1.0, 0.0, 0.5, 1e300][rng.usize(..4)]),
            "StringValue" | "Value" => json!(text(rng)),
            "Struct" => json!({text(rng): text(rng), "istio": {"workload": text(rng)}}),
            "Any" => json!({"@type": format!("type.googleapis.com/{}", KINDS[rng.usize(..4)])}),
            "Empty" | "Timestamp" | "ListValue" => json!({}),
            _ if depth > 5 => json!({}),
            _ => {
                let fields = self.fields(name);
                let mut map = Map::new();
                for _ in 0..rng.usize(..4).min(fields.len()) {
                    let field = &fields[rng.usize(..fields.len())];
                    field.excludes.iter().for_each(|other| drop(map.remove(other)));
                    let made = self.sample(field, depth + 1, rng);
                    map.insert(field.name.clone(), made);
                }
                Value::Object(map)
            }
        }
    }
}

/// Logs go nowhere: whoever tries inputs wants no files of all names.
fn tame(value: &mut Value) {
    let logs = |url: &str| url.ends_with("FileAccessLog");
    match value {
        Value::Object(map) => {
            if map.get("@type").and_then(Value::as_str).is_some_and(logs) {
                map.insert("path".to_owned(), json!("/dev/null"));
            }
            map.values_mut().for_each(tame);
        }
        Value::Array(all) => all.iter_mut().for_each(tame),
        _ => {}
    }
}

fn text(rng: &mut Rng) -> &'static str {
    TEXTS[rng.usize(..TEXTS.len())]
}

/// A value that some message of `donor` has under this name.
fn find(donor: &Value, name: &str, rng: &mut Rng) -> Option<Value> {
    let mut found = Vec::new();
    let mut open = vec![donor];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                found.extend(map.get(name));
                open.extend(map.values());
            }
            Value::Array(all) => open.extend(all),
            _ => {}
        }
    }
    (!found.is_empty()).then(|| found[rng.usize(..found.len())].clone())
}
