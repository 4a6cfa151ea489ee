//! Changes of one field at a time, and what becomes of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_api::envoy::config::listener::v3::Listener;
use envoy_api::envoy::config::route::v3::RouteConfiguration;
use envoy_api::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_api::{Field, Holds, Many, any_from_json, fields, unpack};
use proxy_config::{Context, apply_secret, compile_cluster, compile_endpoints, compile_listener, compile_routes};
use serde_json::{Map, Value, json};
use telemetry::{Telemetry, Workload};

use crate::known;

/// Messages within messages that no sample holds are followed this deep.
const DEEP: usize = 4;

/// What becomes of a resource.
#[derive(PartialEq)]
enum Outcome {
    /// Its compiled form, in words.
    Compiled(String),
    Refused(String),
    /// It is no message at all: the change is nonsense.
    Unreadable,
}

/// What was found out of all samples.
#[derive(Default)]
pub struct Found {
    /// Fields that did nothing.
    pub silent: BTreeSet<String>,
    /// Messages that samples hold, so that each of their fields was tried in one that compiles.
    pub walked: BTreeSet<String>,
    /// The same with the messages around them: what was tried there is not tried again in another sample.
    places: BTreeSet<Vec<String>>,
    /// Messages that are refused when empty, so that setting one field of them tells nothing.
    pub blind: BTreeSet<String>,
    /// How many changes were tried.
    pub tried: usize,
}

/// Tries all changes of a sample.
pub fn try_all(sample: &Value, found: &mut Found) {
    let plain = match compile(sample) {
        Outcome::Compiled(plain) => plain,
        Outcome::Refused(why) => panic!("the sample does not compile: {why}\n{sample:#}"),
        Outcome::Unreadable => panic!("the sample cannot be read\n{sample:#}"),
    };
    assert!(compile(sample) == Outcome::Compiled(plain.clone()), "compiling twice gives two things:\n{plain}");
    let mut walk = Walk { sample, plain, found, above: Vec::new() };
    walk.message(&message_name(sample), &mut Vec::new());
}

struct Walk<'a> {
    sample: &'a Value,
    plain: String,
    found: &'a mut Found,
    /// The messages around the one that is walked.
    above: Vec<String>,
}

impl Walk<'_> {
    /// All fields of the message that the sample holds at `path`.
    fn message(&mut self, name: &str, path: &mut Vec<String>) {
        self.found.walked.insert(name.to_owned());
        self.above.push(name.to_owned());
        let first = self.found.places.insert(self.above.clone());
        let here = at(self.sample, path).cloned().unwrap_or_default();
        for field in fields(name).unwrap_or_default() {
            if known::whole(&field) {
                continue;
            }
            match here.get(&field.name) {
                Some(held) => self.held(name, &field, held, path),
                None if first => {
                    let sample = self.sample.clone();
                    self.fresh(&sample, name, &field, path, &mut vec![name.to_owned()]);
                }
                None => {}
            }
        }
        self.above.pop();
    }

    /// A field that the sample sets: it is walked into, or has another value put in.
    fn held(&mut self, name: &str, field: &Field, held: &Value, path: &mut Vec<String>) {
        let mut steps: Vec<(Vec<String>, &Value)> = Vec::new();
        match (field.many, held) {
            (Many::List, Value::Array(all)) => {
                steps.extend(all.iter().enumerate().map(|(i, v)| (vec![field.name.clone(), i.to_string()], v)));
            }
            (Many::Map, Value::Object(all)) => {
                steps.extend(all.iter().map(|(key, v)| (vec![field.name.clone(), key.clone()], v)));
            }
            _ => steps.push((vec![field.name.clone()], held)),
        }
        for (step, value) in steps {
            let length = path.len();
            path.extend(step);
            match &field.holds {
                Holds::Message(inner) if !is_plain(inner) => {
                    let inner = if inner == "google.protobuf.Any" { message_name(value) } else { inner.clone() };
                    self.message(&inner, path);
                }
                _ => {
                    let others = values(field).into_iter().filter(|other| other != value).collect();
                    self.any_of(name, field, path, others);
                }
            }
            path.truncate(length);
        }
    }

    /// A value that was read is read whatever it is: one of the others must make a difference.
    fn any_of(&mut self, name: &str, field: &Field, path: &[String], others: Vec<Value>) {
        let nothing_else = others.is_empty();
        let some = nothing_else
            || others.into_iter().any(|other| {
                let mut changed = self.sample.clone();
                put(&mut changed, path, other);
                self.found.tried += 1;
                self.matters(&compile(&changed))
            });
        if !some {
            self.found.silent.insert(format!("{name}.{}", field.name));
        }
    }

    /// A field that `base` does not set. Whether any of its changes made a difference.
    fn fresh(&mut self, base: &Value, name: &str, field: &Field, path: &[String], above: &mut Vec<String>) -> bool {
        let mut base = base.clone();
        if let Some(Value::Object(here)) = at_mut(&mut base, path) {
            field.excludes.iter().for_each(|other| drop(here.remove(other)));
        }
        let mut place = path.to_vec();
        place.push(field.name.clone());
        let place_of_one: Vec<String> = match field.many {
            Many::One => place.clone(),
            Many::List => [&place[..], &["0".to_owned()]].concat(),
            Many::Map => [&place[..], &["key".to_owned()]].concat(),
        };
        if let Holds::Message(inner) = &field.holds
            && !is_plain(inner)
            && inner != "google.protobuf.Any"
        {
            let mut changed = base.clone();
            put(&mut changed, &place, wrap(field, json!({})));
            self.found.tried += 1;
            let outcome = compile(&changed);
            if let Outcome::Refused(why) = &outcome {
                if !why.contains("not supported") {
                    self.found.blind.insert(inner.clone());
                }
                return true;
            }
            let mut some = self.matters(&outcome);
            if above.contains(inner) || above.len() > DEEP {
                return some;
            }
            let inside: Vec<Field> =
                fields(inner).unwrap_or_default().into_iter().filter(|f| !known::whole(f)).collect();
            above.push(inner.clone());
            let before = self.found.silent.clone();
            for field in inside {
                some |= self.fresh(&changed, inner, &field, &place_of_one, above);
            }
            above.pop();
            if !some {
                // Nothing of it is looked at: one line says so.
                self.found.silent = before;
                self.found.silent.insert(format!("{name}.{}", field.name));
            }
            return some;
        }
        let mut quiet = Vec::new();
        for value in values(field) {
            let mut changed = base.clone();
            put(&mut changed, &place, wrap(field, value.clone()));
            self.found.tried += 1;
            if !self.matters(&compile(&changed)) {
                quiet.push(value);
            }
        }
        // Each name of an enumeration means another thing; of other kinds one value is as good as another, and the
        // first may be the default.
        let all = values(field);
        let choice = matches!(field.holds, Holds::Choice(_));
        for value in quiet.iter().filter(|_| choice) {
            if Some(value) != all.first() {
                self.found.silent.insert(format!("{name}.{}={}", field.name, value.as_str().unwrap_or_default()));
            }
        }
        if !choice && quiet.len() == all.len() {
            self.found.silent.insert(format!("{name}.{}", field.name));
        }
        quiet.len() < all.len()
    }

    fn matters(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Compiled(form) => *form != self.plain,
            Outcome::Refused(_) => true,
            Outcome::Unreadable => false,
        }
    }
}

/// Written as one value in JSON.
fn is_plain(message: &str) -> bool {
    plain_values(message).is_some()
}

fn plain_values(message: &str) -> Option<Vec<Value>> {
    Some(match message.strip_prefix("google.protobuf.")? {
        "Duration" => vec![json!("7s")],
        "BoolValue" => vec![json!(true), json!(false)],
        "UInt32Value" | "Int32Value" => vec![json!(7)],
        "UInt64Value" | "Int64Value" => vec![json!("7")],
        "DoubleValue" | "FloatValue" => vec![json!(7.5)],
        "StringValue" => vec![json!("seven")],
        "Struct" => vec![json!({"seven": "7"})],
        "Value" => vec![json!("seven")],
        "ListValue" => vec![json!(["seven"])],
        "Timestamp" => vec![json!("2030-01-01T00:00:00Z")],
        "Empty" => vec![json!({})],
        _ => return None,
    })
}

fn values(field: &Field) -> Vec<Value> {
    match &field.holds {
        Holds::Bool => vec![json!(true), json!(false)],
        Holds::Whole { .. } => vec![json!(7)],
        Holds::Fraction => vec![json!(7.5)],
        // Logs are opened when they are compiled.
        Holds::Text if field.name == "path" => vec![json!("/no/such/place/log")],
        Holds::Text => vec![json!("seven")],
        Holds::Bytes => vec![json!("c2V2ZW4=")],
        Holds::Choice(names) => names.iter().map(|name| json!(name)).collect(),
        Holds::Message(name) => plain_values(name)
            .unwrap_or_else(|| vec![json!({"@type": "type.googleapis.com/envoy.config.core.v3.Metadata"})]),
    }
}

fn wrap(field: &Field, value: Value) -> Value {
    match field.many {
        Many::One => value,
        Many::List => json!([value]),
        Many::Map => Value::Object(Map::from_iter([("key".to_owned(), value)])),
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Array(all) => all.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })
}

fn at_mut<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Array(all) => all.get_mut(step.parse::<usize>().ok()?),
        other => other.get_mut(step),
    })
}

fn put(root: &mut Value, path: &[String], new: Value) {
    let (last, before) = path.split_last().expect("a place below the root");
    match at_mut(root, before) {
        Some(Value::Object(map)) => drop(map.insert(last.clone(), new)),
        Some(Value::Array(all)) => all[last.parse::<usize>().expect("a number")] = new,
        _ => panic!("{path:?} is not in {root:#}"),
    }
}

fn message_name(any: &Value) -> String {
    let url = any["@type"].as_str().unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

fn compile(resource: &Value) -> Outcome {
    let Ok(any) = any_from_json(resource.clone()) else { return Outcome::Unreadable };
    let context = Context::new(Arc::default(), Arc::default(), Telemetry::new(Workload::unknown()));
    let result =
        match any.type_url.rsplit('.').next().expect("a type") {
            "Cluster" => {
                compile_cluster(&unpack::<Cluster>(&any).unwrap(), &context).map(|compiled| format!("{compiled:?}"))
            }
            "ClusterLoadAssignment" => compile_endpoints(&unpack::<ClusterLoadAssignment>(&any).unwrap())
                .map(|compiled| format!("{compiled:?}")),
            "Listener" => {
                compile_listener(&unpack::<Listener>(&any).unwrap(), &context).map(|compiled| format!("{compiled:?}"))
            }
            "RouteConfiguration" => compile_routes(&unpack::<RouteConfiguration>(&any).unwrap(), &context, None)
                .map(|compiled| format!("{:?} {compiled:?}", compiled.hosts(&context).count())),
            "Secret" => apply_secret(&unpack::<Secret>(&any).unwrap(), &context.secrets)
                .map(|()| format!("{:?}", context.secrets)),
            other => panic!("{other}"),
        };
    match result {
        Ok(form) => Outcome::Compiled(form),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}
