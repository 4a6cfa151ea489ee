//! Rules of VirtualServices that no request can reach, and matches that decide nothing.

use serde_json::Value;

use crate::input::{Object, list, text};
use crate::message::{Message, codes};
use crate::world::World;

/// Rules after one without a match, rules whose every match an earlier rule has, and single such matches.
pub(super) fn rules(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for object in world.networking("VirtualService") {
        for protocol in ["http", "tls", "tcp"] {
            check(object, protocol, &mut found);
        }
    }
    found
}

fn check(object: &Object, protocol: &str, found: &mut Vec<Message>) {
    let mut seen: Vec<(&Value, String)> = Vec::new();
    let mut open: Option<String> = None;
    for (i, rule) in object.list(&format!("/spec/{protocol}")).iter().enumerate() {
        let at = format!("/spec/{protocol}/{i}");
        let name = match text(rule, "/name") {
            "" => format!("rule {}", i + 1),
            name => format!("rule \"{name}\""),
        };
        if let Some(earlier) = &open {
            let text = format!("no request reaches this {name}: {earlier} before it has no match and takes all");
            found.push(object.message(codes::VIRTUAL_SERVICE_UNREACHABLE_RULE, &at, text));
            continue;
        }
        let matches = list(rule, "/match");
        if matches.is_empty() {
            open = Some(name);
            continue;
        }
        let taken: Vec<(usize, String)> = matches
            .iter()
            .enumerate()
            .filter_map(|(j, wanted)| {
                let by = seen.iter().find(|(earlier, _)| covers(earlier, wanted))?;
                Some((j, by.1.clone()))
            })
            .collect();
        if taken.len() == matches.len() {
            let by = taken.first().map(|(_, by)| by.as_str()).unwrap_or_default();
            let text = format!("no request reaches this {name}: {by} before it matches the same requests");
            found.push(object.message(codes::VIRTUAL_SERVICE_UNREACHABLE_RULE, &at, text));
        } else {
            for (j, by) in taken {
                let text = format!("this match decides nothing: {by} before it matches the same requests");
                found.push(object.message(codes::VIRTUAL_SERVICE_INEFFECTIVE_MATCH, &format!("{at}/match/{j}"), text));
            }
        }
        seen.extend(matches.iter().map(|m| (m, name.clone())));
    }
}

/// Whether all requests of the second match are the first's too: equal ones, and path prefixes that stand alone.
fn covers(earlier: &Value, later: &Value) -> bool {
    let without_name = |v: &Value| {
        let mut map = v.as_object().cloned().unwrap_or_default();
        map.remove("name");
        map
    };
    let (earlier, later) = (without_name(earlier), without_name(later));
    if earlier == later {
        return true;
    }
    let only_prefix = (earlier.len() == 1).then(|| earlier.get("uri")?.get("prefix")?.as_str()).flatten();
    let path = |kind: &str| later.get("uri").and_then(|u| u.get(kind)).and_then(Value::as_str);
    only_prefix.is_some_and(|prefix| path("exact").or(path("prefix")).is_some_and(|p| p.starts_with(prefix)))
}
