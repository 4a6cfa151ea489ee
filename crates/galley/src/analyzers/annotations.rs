//! Annotations: unknown, misplaced, malformed, on their way out, not settled.

use std::net::IpAddr;

use istio_api::yaml;
use serde_json::Value;

use super::annotation_table::{ALL, Known, OF_THE_CNI, OF_THE_SYSTEM, On, Shape};
use crate::input::{Object, list};
use crate::message::{Message, codes};
use crate::world::World;

/// One annotation as a user wrote it.
struct Given<'a> {
    object: &'a Object,
    name: &'a str,
    value: Option<&'a str>,
    /// Where it stands.
    pointer: String,
    /// What kind of object the annotation is on: a template's are on a Pod.
    on: On,
}

fn all<'a>(world: &'a World<'_>) -> Vec<Given<'a>> {
    let mut found = Vec::new();
    let mut take = |object: &'a Object, meta: &str, on: On| {
        let map = object.value().pointer(&format!("{meta}/annotations")).and_then(Value::as_object);
        found.extend(map.into_iter().flatten().map(|(name, value)| Given {
            object,
            name,
            value: value.as_str(),
            pointer: format!("{meta}/annotations/{}", name.replace('~', "~0").replace('/', "~1")),
            on,
        }));
    };
    for object in world.core("Namespace") {
        take(object, "/metadata", On::Namespace);
    }
    for object in world.core("Service") {
        take(object, "/metadata", On::Service);
    }
    for object in world.core("Pod") {
        take(object, "/metadata", On::Pod);
    }
    for object in world.kind("apps", "Deployment") {
        take(object, "/metadata", On::Other);
        take(object, "/spec/template/metadata", On::Pod);
    }
    found
}

fn known(name: &str) -> Option<&'static Known> {
    ALL.iter().find(|k| k.name == name)
}

/// Whether the name is in one of Istio's domains.
fn ours(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    known(name).is_some() || domain == "istio.io" || domain.ends_with(".istio.io")
}

/// Unknown, misplaced, deprecated and malformed annotations.
pub(super) fn check(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for given in all(world).iter().filter(|g| ours(g.name) && !OF_THE_SYSTEM.contains(&g.name)) {
        let mut say = |code, text: String| found.push(given.object.message(code, &given.pointer, text));
        let Some(known) = known(given.name) else {
            say(codes::UNKNOWN_ANNOTATION, format!("Istio has no annotation {}; it does nothing", given.name));
            continue;
        };
        if known.deprecated {
            say(codes::DEPRECATED_ANNOTATION, format!("the annotation {} is deprecated; remove it", given.name));
        }
        if known.on != On::Any && known.on != given.on {
            let text = format!("{} does nothing here; it belongs on {}", given.name, place(known.on));
            say(codes::MISPLACED_ANNOTATION, text);
        } else if let Err(reason) = valid(given.value, known.shape) {
            say(codes::INVALID_ANNOTATION, format!("{}: {reason}", given.name));
        }
    }
    found
}

fn place(on: On) -> &'static str {
    match on {
        On::Any => "any object",
        On::Pod => "a pod, in a Deployment under spec.template.metadata",
        On::Service => "a Service",
        On::Namespace => "a Namespace",
        On::Ingress => "an Ingress",
        On::Other => "another kind of object",
    }
}

/// Annotations that may still change or go.
pub(super) fn alpha(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for given in all(world) {
        let by_cni = OF_THE_CNI.contains(&given.name) && redirected_by_cni(given.object);
        if known(given.name).is_some_and(|k| k.alpha) && !by_cni {
            let text = format!("{} is an alpha feature and may change with the next version", given.name);
            found.push(given.object.message(codes::ALPHA_ANNOTATION, &given.pointer, text));
        }
    }
    found
}

fn redirected_by_cni(object: &Object) -> bool {
    list(object.value(), "/spec/initContainers").iter().any(|c| c["name"] == "istio-validation")
}

fn valid(value: Option<&str>, shape: Shape) -> Result<(), &'static str> {
    let Some(value) = value else { return Err("its value must be text; quote it") };
    let port = |text: &str| text.trim().parse::<u16>().is_ok();
    let right = match shape {
        Shape::Text => true,
        Shape::Bool => ["true", "false"].contains(&value),
        Shape::Number => value.parse::<u32>().is_ok(),
        Shape::Port => port(value),
        Shape::Ports => ["", "*"].contains(&value) || value.split(',').all(port),
        Shape::Ranges => ["", "*"].contains(&value) || value.split(',').all(|r| range(r.trim())),
        Shape::Mode => ["REDIRECT", "TPROXY", "NONE"].contains(&value),
        Shape::Yaml => yaml::parse(value).is_ok(),
    };
    if right {
        return Ok(());
    }
    Err(match shape {
        Shape::Text => "its value must be text",
        Shape::Bool => "write \"true\" or \"false\"",
        Shape::Number => "write a whole number",
        Shape::Port => "write a port, 0 to 65535",
        Shape::Ports => "write ports with commas between them, or *",
        Shape::Ranges => "write ranges such as 10.0.0.0/8 with commas between them, or *",
        Shape::Mode => "write REDIRECT, TPROXY or NONE",
        Shape::Yaml => "its value must be YAML",
    })
}

fn range(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}
