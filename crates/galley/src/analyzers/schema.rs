//! What a single object tells by itself.

use istio_api::validate::FieldError;
use serde_json::Value;

use crate::input::{list, text};
use crate::message::{Message, codes};
use crate::world::World;

/// Kinds that are in force: what istiod would say of them is said here.
const IN_FORCE: [&str; 10] = [
    "AuthorizationPolicy",
    "Deployment",
    "DestinationRule",
    "PeerAuthentication",
    "Pod",
    "RequestAuthentication",
    "Service",
    "ServiceEntry",
    "VirtualService",
    "WorkloadEntry",
];

/// Unknown fields, wrong types, values out of range.
pub(super) fn fields(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for object in world.objects {
        let mut errors: Vec<FieldError> = istio_api::check(&object.document).err().unwrap_or_default();
        if errors.is_empty() && IN_FORCE.contains(&object.kind.as_str()) {
            errors = istio_api::read(&object.document, "default").err().unwrap_or_default();
        }
        found.extend(errors.into_iter().map(|e| {
            let field = e.pointer.trim_start_matches('/').replace('/', ".");
            let text = if field.is_empty() { e.message.clone() } else { format!("{field}: {}", e.message) };
            object.message(codes::SCHEMA_VALIDATION_ERROR, &e.pointer, text)
        }));
    }
    found
}

/// What is allowed and rarely meant.
pub(super) fn warnings(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for policy in world.kind("security.istio.io", "AuthorizationPolicy") {
        if policy.text("/spec/action") == "DENY" && policy.list("/spec/rules").iter().any(only_http) {
            let text = "this DENY rule has HTTP conditions only; on TCP ports it denies everything. Name the ports it \
                        is for";
            found.push(policy.message(codes::SCHEMA_WARNING, "/spec/rules", text));
        }
    }
    for rule in world.networking("DestinationRule") {
        for pointer in failover_for_nothing(rule.value()) {
            let text =
                "without outlierDetection nothing tells when endpoints fail, and traffic does not go elsewhere; add it";
            found.push(rule.message(codes::SCHEMA_WARNING, &pointer, text));
        }
    }
    for request in world.kind("security.istio.io", "RequestAuthentication") {
        for (i, rule) in request.list("/spec/jwtRules").iter().enumerate() {
            let keys: Value = serde_json::from_str(text(rule, "/jwks")).unwrap_or_default();
            let private = |key: &Value| key["kty"] == "oct" || key.get("d").is_some();
            if list(&keys, "/keys").iter().any(private) {
                let pointer = format!("/spec/jwtRules/{i}/jwks");
                let text = "the key set holds secret or private keys; whoever reads this object can make tokens. Put \
                            public keys here only";
                found.push(request.message(codes::SCHEMA_WARNING, &pointer, text));
            }
        }
    }
    found
}

/// Places of `failover` and `failoverPriority` without outlier detection beside them or in what they are part of.
fn failover_for_nothing(rule: &Value) -> Vec<String> {
    let mut policies = vec![("/spec/trafficPolicy".to_owned(), false)];
    let detects = |at: &str| rule.pointer(&format!("{at}/outlierDetection")).is_some();
    let inherited = detects("/spec/trafficPolicy");
    policies.extend(
        (0..list(rule, "/spec/subsets").len()).map(|i| (format!("/spec/subsets/{i}/trafficPolicy"), inherited)),
    );
    let mut found = Vec::new();
    for (at, inherited) in policies {
        let ports = 0..list(rule, &format!("{at}/portLevelSettings")).len();
        // What is set for a port takes nothing from what is around it.
        let ports = ports.map(|i| (format!("{at}/portLevelSettings/{i}"), false));
        for (at, inherited) in std::iter::once((at.clone(), inherited)).chain(ports) {
            for setting in ["localityLbSetting", "zoneAwareLbSetting"] {
                for field in ["failover", "failoverPriority"] {
                    let pointer = format!("{at}/loadBalancer/{setting}/{field}");
                    if !inherited && !detects(&at) && !list(rule, &pointer).is_empty() {
                        found.push(pointer);
                    }
                }
            }
        }
    }
    found
}

/// A rule that says nothing about TCP: no port, and nothing else that a connection has.
fn only_http(rule: &Value) -> bool {
    let http = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
    let operations: Vec<&Value> = list(rule, "/to").iter().filter_map(|to| to.get("operation")).collect();
    let l7 = operations.iter().any(|o| http.iter().any(|field| o.get(field).is_some()))
        || list(rule, "/from").iter().any(|from| {
            from.pointer("/source/requestPrincipals").or(from.pointer("/source/notRequestPrincipals")).is_some()
        })
        || list(rule, "/when").iter().any(|when| text(when, "/key").starts_with("request."));
    let ports = operations.iter().any(|o| o.get("ports").or(o.get("notPorts")).is_some())
        || list(rule, "/when").iter().any(|when| text(when, "/key") == "destination.port");
    l7 && !ports
}

/// Kind, path (`*` is any element of a list) and what to write instead.
const DEPRECATED: [(&str, &[&str], &str); 9] = [
    ("VirtualService", &["http", "*", "fault", "delay", "percent"], "fault.delay.percentage"),
    ("VirtualService", &["http", "*", "corsPolicy", "allowOrigin"], "corsPolicy.allowOrigins"),
    ("VirtualService", &["http", "*", "mirrorPercent"], "mirrorPercentage"),
    ("Sidecar", &["outboundTrafficPolicy", "egressProxy"], "a DestinationRule and a VirtualService"),
    ("DestinationRule", &["trafficPolicy", "outlierDetection", "consecutiveErrors"], "consecutive5xxErrors"),
    ("DestinationRule", &["trafficPolicy", "loadBalancer", "warmupDurationSecs"], "warmup.duration"),
    (
        "DestinationRule",
        &["trafficPolicy", "loadBalancer", "consistentHash", "minimumRingSize"],
        "consistentHash.ringHash.minimumRingSize",
    ),
    (
        "DestinationRule",
        &["subsets", "*", "trafficPolicy", "outlierDetection", "consecutiveErrors"],
        "consecutive5xxErrors",
    ),
    ("DestinationRule", &["subsets", "*", "trafficPolicy", "loadBalancer", "warmupDurationSecs"], "warmup.duration"),
];

/// Deprecated fields, and providers that are gone.
pub(super) fn deprecated(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for (kind, path, instead) in DEPRECATED {
        for object in world.networking(kind) {
            let mut places = Vec::new();
            let Some(spec) = object.value().get("spec") else { continue };
            descend(spec, path, "/spec".to_owned(), &mut places);
            found.extend(places.iter().map(|pointer| {
                let name = path.last().copied().unwrap_or_default();
                object.message(codes::DEPRECATED, pointer, format!("{name} is deprecated; use {instead}"))
            }));
        }
    }
    found
}

fn descend(value: &Value, path: &[&str], at: String, places: &mut Vec<String>) {
    let Some((first, rest)) = path.split_first() else {
        places.push(at);
        return;
    };
    if *first == "*" {
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            descend(item, rest, format!("{at}/{i}"), places);
        }
    } else if let Some(inner) = value.get(first) {
        descend(inner, rest, format!("{at}/{first}"), places);
    }
}
