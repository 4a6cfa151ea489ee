//! EnvoyFilters: patches that break with the next version, or never work.

use serde_json::Value;

use crate::input::text;
use crate::message::{Code, Message, codes};
use crate::world::World;

/// At most one finding of each kind for a filter.
pub(super) fn patches(world: &World<'_>) -> Vec<Message> {
    let mut found: Vec<Message> = Vec::new();
    for filter in world.networking("EnvoyFilter") {
        let before = found.len();
        let prioritised = filter.value().pointer("/spec/priority").and_then(Value::as_i64).unwrap_or(0) != 0;
        for (i, patch) in filter.list("/spec/configPatches").iter().enumerate() {
            let Some((code, text)) = judge(patch, prioritised) else { continue };
            if !found[before..].iter().any(|m| m.code == code) {
                found.push(filter.message(code, &format!("/spec/configPatches/{i}/patch"), text));
            }
        }
    }
    found
}

fn judge(patch: &Value, prioritised: bool) -> Option<(Code, &'static str)> {
    let (operation, target) = (text(patch, "/patch/operation"), text(patch, "/applyTo"));
    let whole_route = ["ROUTE_CONFIGURATION", "HTTP_ROUTE"].contains(&target);
    match operation {
        "ADD" if whole_route => Some((
            codes::ENVOY_FILTER_USES_ADD_OPERATION_INCORRECTLY,
            "ADD does nothing with ROUTE_CONFIGURATION and HTTP_ROUTE; use MERGE or INSERT_*",
        )),
        "REMOVE" if whole_route => Some((
            codes::ENVOY_FILTER_USES_REMOVE_OPERATION_INCORRECTLY,
            "REMOVE does nothing with ROUTE_CONFIGURATION and HTTP_ROUTE",
        )),
        "REPLACE" if ["CLUSTER", "LISTENER", "FILTER_CHAIN", "ROUTE_CONFIGURATION"].contains(&target) => Some((
            codes::ENVOY_FILTER_USES_REPLACE_OPERATION_INCORRECTLY,
            "REPLACE works for filters, virtual hosts and routes only; use MERGE",
        )),
        "REPLACE" | "REMOVE" | "INSERT_BEFORE" | "INSERT_AFTER" if !prioritised => {
            if text(patch, "/match/proxy/proxyVersion").is_empty() {
                Some((
                    codes::ENVOY_FILTER_USES_RELATIVE_OPERATION,
                    "the result depends on which filters are applied before; set a priority",
                ))
            } else {
                Some((
                    codes::ENVOY_FILTER_USES_RELATIVE_OPERATION_WITH_PROXY_VERSION,
                    "the result depends on which filters are applied before, and holds for one proxy version only; set a \
                     priority",
                ))
            }
        }
        _ => None,
    }
}
