//! Webhooks of injection and validation: who answers, and for which pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::input::{Object, list, text};
use crate::message::{Message, codes};
use crate::world::{Labels, World, labels, within};

const ADMISSION: &str = "admissionregistration.k8s.io";

/// An injector's webhook within its configuration.
struct Hook<'a> {
    object: &'a Object,
    index: usize,
    value: &'a Value,
}

fn injectors<'a>(world: &World<'a>) -> Vec<Hook<'a>> {
    let configurations = world.kind(ADMISSION, "MutatingWebhookConfiguration");
    let mut all = Vec::new();
    for object in configurations {
        for (index, value) in object.list("/webhooks").iter().enumerate() {
            if text(value, "/name").ends_with(".istio.io") {
                all.push(Hook { object, index, value });
            }
        }
    }
    all
}

/// Two injectors for one pod, and injectors whose Service does not exist.
pub(super) fn injection(world: &World<'_>) -> Vec<Message> {
    let hooks = injectors(world);
    let (namespaces, pods) = (samples(&hooks, "/namespaceSelector"), samples(&hooks, "/objectSelector"));
    let mut found = Vec::new();
    for (i, hook) in hooks.iter().enumerate() {
        let both = |other: &Hook<'_>| {
            namespaces.iter().any(|n| {
                let hit = |h: &Hook<'_>| selects(h.value, "/namespaceSelector", n);
                hit(hook)
                    && hit(other)
                    && pods.iter().any(|p| {
                        selects(hook.value, "/objectSelector", p) && selects(other.value, "/objectSelector", p)
                    })
            })
        };
        let mut others: BTreeSet<&str> = BTreeSet::new();
        for (j, other) in hooks.iter().enumerate() {
            if i != j && both(other) {
                others.insert(&other.object.name);
            }
        }
        let pointer = format!("/webhooks/{}", hook.index);
        if !others.is_empty() {
            let others = others.into_iter().collect::<Vec<_>>().join(", ");
            let text = format!("the same pods are injected by {others} too; remove one, or part them by revision");
            found.push(hook.object.message(codes::INVALID_WEBHOOK, &pointer, text));
        }
        let Some(service) = hook.value.pointer("/clientConfig/service") else { continue };
        let (name, namespace) = (text(service, "/name"), text(service, "/namespace"));
        if !world.core("Service").iter().any(|s| s.name == name && s.namespace == namespace) {
            let text = format!(
                "the injector is said to be the Service {namespace}/{name}, which does not exist; no pod of \
                         these namespaces can be made"
            );
            found.push(hook.object.message(codes::INVALID_WEBHOOK, &pointer, text));
        }
    }
    found
}

/// Label sets that tell the selectors at a pointer apart: each label that one of them names with each value it names,
/// with another value, or absent.
fn samples(hooks: &[Hook<'_>], pointer: &str) -> Vec<Vec<(String, String)>> {
    let mut pairs: BTreeSet<(String, String)> = BTreeSet::new();
    for selector in hooks.iter().filter_map(|hook| hook.value.pointer(pointer)) {
        let plain = labels(selector, "/matchLabels");
        pairs.extend(plain.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        for expression in list(selector, "/matchExpressions") {
            let key = text(expression, "/key").to_owned();
            let values = list(expression, "/values").iter().filter_map(Value::as_str);
            pairs.extend(values.map(|v| (key.clone(), v.to_owned())));
            pairs.insert((key, "other".to_owned()));
        }
    }
    combine(&pairs)
}

/// How many label sets are looked at; more than Istio's own webhooks can tell apart.
const MOST: usize = 4096;

fn combine(pairs: &BTreeSet<(String, String)>) -> Vec<Vec<(String, String)>> {
    let keys: BTreeSet<&String> = pairs.iter().map(|(k, _)| k).collect();
    let mut sets: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for key in keys {
        let with: Vec<_> = pairs.iter().filter(|(k, _)| k == key).collect();
        let longer: Vec<_> = sets
            .iter()
            .flat_map(|set| with.iter().map(move |pair| set.iter().cloned().chain([(*pair).clone()]).collect()))
            .collect();
        sets.extend::<Vec<Vec<(String, String)>>>(longer);
        sets.truncate(MOST);
    }
    sets
}

fn selects(hook: &Value, pointer: &str, given: &[(String, String)]) -> bool {
    let Some(selector) = hook.pointer(pointer) else { return true };
    let given: Labels<'_> = given.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    within(&labels(selector, "/matchLabels"), &given)
        && list(selector, "/matchExpressions").iter().all(|expression| {
            let value = given.get(text(expression, "/key"));
            let listed = |v: &&str| list(expression, "/values").iter().any(|x| x == *v);
            match text(expression, "/operator") {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Webhooks of a control plane elsewhere: they need an address.
pub(super) fn external(world: &World<'_>) -> Vec<Message> {
    let validating = world.kind(ADMISSION, "ValidatingWebhookConfiguration").iter();
    let validating =
        validating.filter(|o| o.name.starts_with("istio-validator") || o.name == "istiod-default-validator");
    let mutating = world.kind(ADMISSION, "MutatingWebhookConfiguration").iter();
    let mutating = mutating.filter(|o| o.name.starts_with("istio-sidecar-injector"));
    let mut found = Vec::new();
    for object in validating.chain(mutating) {
        for (i, hook) in object.list("/webhooks").iter().enumerate() {
            if hook.pointer("/clientConfig/service").is_some() {
                continue;
            }
            let pointer = format!("/webhooks/{i}/clientConfig");
            let (name, url) = (text(hook, "/name"), text(hook, "/clientConfig/url"));
            match host(url) {
                None => {
                    let text = format!(
                        "the webhook {name} has no address that can be called (\"{url}\"); set clientConfig.url to https://HOST:PORT/PATH, or clientConfig.service"
                    );
                    found.push(object.message(codes::INVALID_EXTERNAL_CONTROL_PLANE_CONFIG, &pointer, text));
                }
                Some(host) if host.parse::<IpAddr>().is_ok() => {
                    let text = format!(
                        "the webhook {name} calls the IP address {host}; with a name its certificate can be verified and it can move"
                    );
                    found.push(object.message(codes::EXTERNAL_CONTROL_PLANE_ADDRESS_IS_NOT_A_HOSTNAME, &pointer, text));
                }
                Some(_) => {}
            }
        }
    }
    found
}

/// The host of an https address.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}
