//! Rules between the fields of a spec that the API server itself checks (CEL), also while no istiod answers. They are the
//! few that need no other object; the webhook knows all.

use serde_json::{Value, json};

/// The rules of a kind, as far as the schema has their fields.
pub(super) fn of(kind: &str, schema: &Value) -> Vec<Value> {
    let mut rules = Vec::new();
    let rule = |rule: &str, message: &str| json!({"rule": rule, "message": message});
    match kind {
        "VirtualService" => rules.push(rule(
            "has(self.http) || has(self.tls) || has(self.tcp)",
            "a VirtualService needs routes: http, tls or tcp",
        )),
        "DestinationRule" => rules.push(rule("has(self.host) && size(self.host) > 0", "a DestinationRule needs a host")),
        "ServiceEntry" => {
            rules.push(rule("has(self.hosts) && size(self.hosts) > 0", "a ServiceEntry needs at least one host"));
            rules.extend(at_most_one(schema, &["workloadSelector", "endpoints"]));
        }
        "WorkloadEntry" => rules.push(rule(
            "has(self.address) || has(self.network)",
            "a WorkloadEntry needs an address, or a network through whose gateway it is reached",
        )),
        "PeerAuthentication" => rules.push(rule(
            "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)",
            "portLevelMtls counts for workloads: select them",
        )),
        "AuthorizationPolicy" | "RequestAuthentication" | "Telemetry" | "WasmPlugin" | "TrafficExtension" => {
            rules.extend(at_most_one(schema, &["selector", "targetRef", "targetRefs"]));
        }
        _ => {}
    }
    rules
}

/// Of several fields one at most; `None` when fewer than two of them are there at all. A field without a type is none to
/// a rule.
fn at_most_one(schema: &Value, fields: &[&str]) -> Option<Value> {
    let known: Vec<&str> = fields.iter().copied().filter(|f| typed(&schema["properties"][*f])).collect();
    let counted: Vec<String> = known.iter().map(|f| format!("(has(self.{f}) ? 1 : 0)")).collect();
    (known.len() > 1).then(|| {
        json!({"rule": format!("{} <= 1", counted.join(" + ")), "message": format!("only one of {} may be set", known.join(", "))})
    })
}

fn typed(schema: &Value) -> bool {
    schema["type"].is_string() && (schema["type"] != "array" || typed(&schema["items"]))
}
