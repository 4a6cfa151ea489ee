//! VirtualServices: destinations, subsets, gateways, conflicts.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::input::{Object, list, text, texts};
use crate::message::{Message, codes};
use crate::world::{World, exported_to, full_host, labels, overlap, within};

/// All destinations of a VirtualService with the JSON pointer of each.
fn all_destinations(object: &Object) -> Vec<(String, &Value)> {
    let mut out = Vec::new();
    for protocol in ["http", "tls", "tcp"] {
        for (i, rule) in object.list(&format!("/spec/{protocol}")).iter().enumerate() {
            let at = format!("/spec/{protocol}/{i}");
            for field in ["route", "mirrors"] {
                for (j, route) in list(rule, &format!("/{field}")).iter().enumerate() {
                    let destination = route.get("destination").unwrap_or(&Value::Null);
                    out.push((format!("{at}/{field}/{j}/destination"), destination));
                }
            }
            if let Some(mirror) = rule.get("mirror") {
                out.push((format!("{at}/mirror"), mirror));
            }
        }
    }
    out
}

/// Hosts and ports that do not exist.
pub(super) fn destinations(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for object in world.networking("VirtualService") {
        let seen_from = exported_to(object);
        let seen_from = if seen_from == ["*"] { vec![object.namespace.as_str()] } else { seen_from };
        for (pointer, destination) in all_destinations(object) {
            let host = text(destination, "/host");
            let Some(service) = world.host(host, &object.namespace, &seen_from) else {
                let text =
                    format!("there is no service \"{host}\" that this VirtualService can see; {}", near(world, host));
                found.push(object.message(codes::REFERENCED_RESOURCE_NOT_FOUND, &format!("{pointer}/host"), text));
                continue;
            };
            match destination.pointer("/port/number").and_then(Value::as_u64) {
                None if service.ports.len() > 1 => {
                    let text = format!(
                        "the service \"{host}\" has several ports ({}); say which with port.number",
                        joined(&service.ports)
                    );
                    let code = codes::VIRTUAL_SERVICE_DESTINATION_PORT_SELECTOR_REQUIRED;
                    found.push(object.message(code, &pointer, text));
                }
                Some(port) if !service.ports.contains(&port) => {
                    let text = format!("the service \"{host}\" has no port {port}, but {}", joined(&service.ports));
                    let code = codes::REFERENCED_RESOURCE_NOT_FOUND;
                    found.push(object.message(code, &format!("{pointer}/port/number"), text));
                }
                _ => {}
            }
        }
    }
    found
}

fn joined(ports: &[u64]) -> String {
    ports.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn near(world: &World<'_>, host: &str) -> String {
    let short = host.split('.').next().unwrap_or_default();
    match world.hosts.iter().find(|h| h.name.split('.').next() == Some(short) && !short.is_empty()) {
        Some(other) => format!("did you mean \"{}\"?", other.name),
        None => "create the Service or correct the name".to_owned(),
    }
}

/// Subsets that no DestinationRule defines.
pub(super) fn subsets(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let rules = world.networking("DestinationRule");
    for object in world.networking("VirtualService") {
        for (pointer, destination) in all_destinations(object) {
            let (host, subset) = (text(destination, "/host"), text(destination, "/subset"));
            if subset.is_empty() {
                continue;
            }
            let wanted = full_host(host, &object.namespace);
            let of_host: Vec<&&Object> = rules
                .iter()
                .filter(|r| overlap(&full_host(r.text("/spec/host"), &r.namespace), &wanted))
                .filter(|r| exported_to(r).iter().any(|n| *n == "*" || *n == object.namespace))
                .collect();
            let defined: Vec<&str> =
                of_host.iter().flat_map(|r| r.list("/spec/subsets")).map(|s| text(s, "/name")).collect();
            if defined.contains(&subset) {
                continue;
            }
            let known = if defined.is_empty() {
                "no DestinationRule of this host defines subsets".to_owned()
            } else {
                format!("its DestinationRule defines {}", defined.join(", "))
            };
            let text = format!("the subset \"{subset}\" of \"{host}\" does not exist: {known}. Requests to it fail");
            found.push(object.message(codes::REFERENCED_RESOURCE_NOT_FOUND, &format!("{pointer}/subset"), text));
        }
    }
    found
}

fn in_mesh(object: &Object) -> bool {
    let gateways = object.list("/spec/gateways");
    gateways.is_empty() || gateways.iter().any(|g| g == "mesh")
}

/// Hosts that several VirtualServices of sidecars claim: only one of them counts.
pub(super) fn conflicts(world: &World<'_>) -> Vec<Message> {
    let mut claims: Vec<(&Object, String, Vec<&str>)> = Vec::new();
    for object in world.networking("VirtualService").iter().filter(|o| in_mesh(o)) {
        for host in texts(object.value(), "/spec/hosts") {
            claims.push((object, full_host(host, &object.namespace), exported_to(object)));
        }
    }
    let mut found = Vec::new();
    for (i, (object, host, scope)) in claims.iter().enumerate() {
        let others: Vec<String> = claims
            .iter()
            .enumerate()
            .filter(|(j, (other, other_host, other_scope))| {
                *j != i && !std::ptr::eq(*other, *object) && clash(host, scope, other_host, other_scope)
            })
            .map(|(_, (other, ..))| format!("{}/{}", other.namespace, other.name))
            .collect();
        if !others.is_empty() {
            let text = format!(
                "the host \"{host}\" is claimed by {} too; only the oldest counts. Merge them into one, or narrow exportTo",
                others.join(", ")
            );
            let code = codes::CONFLICTING_MESH_GATEWAY_VIRTUAL_SERVICE_HOSTS;
            found.push(object.message(code, "/spec/hosts", text));
        }
    }
    found
}

/// Equal hosts in one scope; with unlike scopes also a wildcard that covers the other, because then it depends on the
/// client which of them counts.
fn clash(host: &str, scope: &[&str], other: &str, other_scope: &[&str]) -> bool {
    let everywhere = |s: &[&str]| s.contains(&"*");
    let together = everywhere(scope) || everywhere(other_scope) || scope.iter().any(|n| other_scope.contains(n));
    together && (host == other || (everywhere(scope) != everywhere(other_scope) && overlap(host, other)))
}

fn gateway_key<'g>(name: &'g str, namespace: &'g str) -> (&'g str, &'g str) {
    name.split_once('/').unwrap_or((namespace, name))
}

/// Gateways that do not exist, or serve none of the hosts.
pub(super) fn gateways(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    let known: BTreeMap<(&str, &str), &Object> =
        world.networking("Gateway").iter().map(|g| ((g.namespace.as_str(), g.name.as_str()), *g)).collect();
    for object in world.networking("VirtualService") {
        for (i, name) in texts(object.value(), "/spec/gateways").enumerate().filter(|(_, n)| *n != "mesh") {
            let pointer = format!("/spec/gateways/{i}");
            let gateway = known.get(&gateway_key(name, &object.namespace));
            if gateway.is_none() {
                let text = format!("there is no Gateway \"{name}\"; write NAMESPACE/NAME if it is elsewhere");
                found.push(object.message(codes::REFERENCED_RESOURCE_NOT_FOUND, &pointer, text));
            }
            let served = texts(object.value(), "/spec/hosts").any(|h| gateway.is_some_and(|g| serves(g, h, object)));
            if !served {
                let text = format!("the Gateway \"{name}\" serves none of the hosts of this VirtualService");
                found.push(object.message(codes::VIRTUAL_SERVICE_HOST_NOT_FOUND_IN_GATEWAY, &pointer, text));
            }
        }
    }
    found
}

fn serves(gateway: &Object, host: &str, by: &Object) -> bool {
    gateway.list("/spec/servers").iter().flat_map(|s| texts(s, "/hosts")).any(|pattern| {
        let (namespace, pattern) = pattern.split_once('/').unwrap_or(("*", pattern));
        let here = match namespace {
            "*" => true,
            "." => gateway.namespace == by.namespace,
            other => other == by.namespace,
        };
        here && overlap(pattern, host)
    })
}

/// Routing by claims at gateways where no RequestAuthentication verifies tokens.
pub(super) fn claims(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for object in world.networking("VirtualService") {
        let Some(pointer) = claim_match(object) else { continue };
        for name in texts(object.value(), "/spec/gateways").filter(|n| *n != "mesh") {
            let (namespace, gateway) = gateway_key(name, &object.namespace);
            let all = world.networking("Gateway");
            let Some(gateway) = all.iter().find(|g| g.namespace == namespace && g.name == gateway) else { continue };
            let pods = labels(gateway.value(), "/spec/selector");
            let verified = world.kind("security.istio.io", "RequestAuthentication").iter().any(|r| {
                let selector = labels(r.value(), "/spec/selector/matchLabels");
                within(&selector, &pods)
                    || world.workloads.iter().any(|w| within(&pods, &w.labels) && within(&selector, &w.labels))
            });
            if !verified {
                let text = format!(
                    "this routes by a claim of a token, but no RequestAuthentication verifies tokens at the Gateway \"{name}\""
                );
                found.push(object.message(codes::JWT_CLAIM_BASED_ROUTING_WITHOUT_REQUEST_AUTH_N, &pointer, text));
            }
        }
    }
    found
}

fn claim_match(object: &Object) -> Option<String> {
    for (i, http) in object.list("/spec/http").iter().enumerate() {
        for (j, wanted) in list(http, "/match").iter().enumerate() {
            for field in ["headers", "withoutHeaders"] {
                let names = wanted.get(field).and_then(Value::as_object).into_iter().flatten();
                if names.map(|(name, _)| name).any(|n| n.starts_with("@request.auth.claims")) {
                    return Some(format!("/spec/http/{i}/match/{j}/{field}"));
                }
            }
        }
    }
    None
}
