//! What a single resource must fulfil, as Istio's validation has it.

pub(crate) mod edge;
pub(crate) mod extensions;
mod security;
mod service_entry;

use crate::networking::{Destination, DestinationRule, HttpRoute, StringMatch, VirtualService};
use crate::object::Resource;
use crate::security::{AuthorizationPolicy, PeerAuthentication};

/// A mistake at a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, such as `/spec/http/0/route/1/weight`.
    pub pointer: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl FieldError {
    /// A mistake.
    pub fn new(pointer: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), message: message.into() }
    }
}

/// All mistakes of a resource.
pub fn resource(resource: &Resource) -> Vec<FieldError> {
    let mut found = Vec::new();
    match resource {
        Resource::VirtualService(o) => virtual_service(&o.spec, &mut found),
        Resource::DestinationRule(o) => destination_rule(&o.spec, &mut found),
        Resource::PeerAuthentication(o) => {
            security::selector(o.spec.selector.as_ref(), &mut found);
            peer_authentication(&o.spec, &mut found);
        }
        Resource::AuthorizationPolicy(o) => {
            security::authorization(&o.spec, &mut found);
            authorization_policy(&o.spec, &mut found);
        }
        Resource::RequestAuthentication(o) => security::request_authentication(&o.spec, &mut found),
        Resource::ServiceEntry(o) => service_entry::service_entry(&o.spec, &mut found),
        Resource::WorkloadEntry(o) => service_entry::entry(&o.spec, "/spec", &mut found),
        _ => {}
    }
    found
}

fn virtual_service(spec: &VirtualService, found: &mut Vec<FieldError>) {
    let mut no = |pointer: &str, message: &str| found.push(FieldError::new(pointer, message));
    if spec.hosts.is_empty() {
        no("/spec/hosts", "a VirtualService needs at least one host");
    }
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        no("/spec", "a VirtualService needs http, tcp or tls routes");
    }
    for (i, http) in spec.http.iter().enumerate() {
        http_route(http, &format!("/spec/http/{i}"), found);
    }
}

fn http_route(http: &HttpRoute, at: &str, found: &mut Vec<FieldError>) {
    let mut no = |pointer: String, message: String| found.push(FieldError { pointer, message });
    let kinds =
        [!http.route.is_empty(), http.redirect.is_some(), http.direct_response.is_some(), http.delegate.is_some()];
    match kinds.iter().filter(|k| **k).count() {
        0 => no(at.to_owned(), "a route needs one of route, redirect, directResponse, delegate".to_owned()),
        1 => {}
        _ => no(at.to_owned(), "a route has one of route, redirect, directResponse, delegate".to_owned()),
    }
    let sum: i64 = http.route.iter().map(|r| i64::from(r.weight)).sum();
    for (i, route) in http.route.iter().enumerate() {
        destination(&route.destination, &format!("{at}/route/{i}/destination"), &mut no);
        if route.weight < 0 {
            no(format!("{at}/route/{i}/weight"), format!("a weight cannot be negative ({})", route.weight));
        }
    }
    if http.route.len() > 1 && sum == 0 {
        no(
            format!("{at}/route"),
            "the weights of several destinations add up to 0; no request could go anywhere".to_owned(),
        );
    }
    if sum > 100 && http.route.len() > 1 && sum > i64::from(u32::MAX) {
        no(format!("{at}/route"), format!("the weights add up to {sum}, which is too much"));
    }
    if let Some(retries) = &http.retries {
        if retries.attempts < 0 {
            no(format!("{at}/retries/attempts"), "attempts cannot be negative".to_owned());
        }
        for word in retries.retry_on.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            if !RETRY_ON.contains(&word) && word.parse::<u16>().is_err() {
                no(
                    format!("{at}/retries/retryOn"),
                    format!("unknown condition \"{word}\"; use {}", RETRY_ON.join(", ")),
                );
            }
        }
    }
    if let Some(fault) = &http.fault {
        let percents = [
            ("delay", fault.delay.as_ref().and_then(|d| d.percentage.as_ref())),
            ("abort", fault.abort.as_ref().and_then(|a| a.percentage.as_ref())),
        ];
        for (name, percent) in percents {
            if percent.is_some_and(|p| !(0.0..=100.0).contains(&p.value)) {
                no(format!("{at}/fault/{name}/percentage/value"), "a percentage lies between 0 and 100".to_owned());
            }
        }
    }
    for (i, matches) in http.r#match.iter().enumerate() {
        let at = format!("{at}/match/{i}");
        let single = [
            ("uri", &matches.uri),
            ("scheme", &matches.scheme),
            ("method", &matches.method),
            ("authority", &matches.authority),
        ];
        for (name, value) in single {
            regex(value.as_ref(), &format!("{at}/{name}/regex"), &mut no);
        }
        for (field, map) in [
            ("headers", &matches.headers),
            ("withoutHeaders", &matches.without_headers),
            ("queryParams", &matches.query_params),
        ] {
            for (name, value) in map {
                regex(Some(value), &format!("{at}/{field}/{name}/regex"), &mut no);
            }
        }
    }
}

/// Conditions of `retryOn` (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
const RETRY_ON: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "http3-post-connect-failure",
];

fn regex(value: Option<&StringMatch>, at: &str, no: &mut impl FnMut(String, String)) {
    if let Some(StringMatch::Regex(expression)) = value
        && expression != "*"
        && let Err(error) = regex::Regex::new(expression)
    {
        no(
            at.to_owned(),
            format!("not a regular expression: {}", error.to_string().lines().last().unwrap_or_default()),
        );
    }
}

fn destination(destination: &Destination, at: &str, no: &mut impl FnMut(String, String)) {
    if destination.host.is_empty() {
        no(format!("{at}/host"), "a destination needs a host".to_owned());
    }
    if let Some(port) = &destination.port
        && !(1..=65535).contains(&port.number)
    {
        no(format!("{at}/port/number"), format!("{} is not a port", port.number));
    }
}

fn destination_rule(spec: &DestinationRule, found: &mut Vec<FieldError>) {
    if spec.host.is_empty() {
        found.push(FieldError::new("/spec/host", "a DestinationRule needs a host"));
    }
    for (i, subset) in spec.subsets.iter().enumerate() {
        if subset.name.is_empty() {
            found.push(FieldError::new(&format!("/spec/subsets/{i}/name"), "a subset needs a name"));
        }
        if spec.subsets.iter().take(i).any(|s| s.name == subset.name) {
            let message = format!("the subset \"{}\" is there twice", subset.name);
            found.push(FieldError::new(&format!("/spec/subsets/{i}/name"), message));
        }
    }
    let policy = spec.traffic_policy.as_ref();
    if let Some(outlier) = policy.and_then(|p| p.outlier_detection.as_ref()) {
        for (name, value) in
            [("maxEjectionPercent", outlier.max_ejection_percent), ("minHealthPercent", outlier.min_health_percent)]
        {
            if value.is_some_and(|v| !(0..=100).contains(&v)) {
                let pointer = format!("/spec/trafficPolicy/outlierDetection/{name}");
                found.push(FieldError::new(&pointer, "a percentage lies between 0 and 100"));
            }
        }
    }
    if let Some(simple) = policy.and_then(|p| p.load_balancer.as_ref()).and_then(|l| l.simple.as_ref())
        && !["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"]
            .contains(&simple.as_str())
    {
        found.push(FieldError::new(
            "/spec/trafficPolicy/loadBalancer/simple",
            format!("unknown balancing \"{simple}\""),
        ));
    }
    if let Some(mode) = policy.and_then(|p| p.tls.as_ref()).and_then(|t| t.mode.as_ref())
        && !["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"].contains(&mode.as_str())
    {
        found.push(FieldError::new("/spec/trafficPolicy/tls/mode", format!("unknown mode \"{mode}\"")));
    }
}

fn peer_authentication(spec: &PeerAuthentication, found: &mut Vec<FieldError>) {
    let mut check = |mode: Option<&String>, at: String| {
        if let Some(mode) = mode.filter(|m| !["UNSET", "DISABLE", "PERMISSIVE", "STRICT"].contains(&m.as_str())) {
            found.push(FieldError {
                pointer: at,
                message: format!("unknown mode \"{mode}\"; use STRICT, PERMISSIVE, DISABLE or UNSET"),
            });
        }
    };
    check(spec.mtls.as_ref().and_then(|m| m.mode.as_ref()), "/spec/mtls/mode".to_owned());
    for (port, mtls) in &spec.port_level_mtls {
        check(mtls.mode.as_ref(), format!("/spec/portLevelMtls/{port}/mode"));
    }
    for port in spec.port_level_mtls.keys().filter(|p| p.parse::<u16>().map_or(true, |p| p == 0)) {
        let at = format!("/spec/portLevelMtls/{port}");
        found.push(FieldError { pointer: at, message: format!("\"{port}\" is not a port") });
    }
    if !spec.port_level_mtls.is_empty() && spec.selector.as_ref().is_none_or(|s| s.match_labels.is_empty()) {
        found.push(FieldError::new("/spec/portLevelMtls", "portLevelMtls needs a selector"));
    }
}

fn authorization_policy(spec: &AuthorizationPolicy, found: &mut Vec<FieldError>) {
    if let Some(action) = spec.action.as_ref().filter(|a| !["ALLOW", "DENY", "AUDIT", "CUSTOM"].contains(&a.as_str())) {
        found.push(FieldError::new(
            "/spec/action",
            format!("unknown action \"{action}\"; use ALLOW, DENY, AUDIT or CUSTOM"),
        ));
    }
    if spec.action.as_deref() == Some("DENY") && spec.rules.is_empty() {
        found.push(FieldError::new(
            "/spec/rules",
            "a DENY policy without rules matches nothing; add a rule, or {} for all",
        ));
    }
    for (i, rule) in spec.rules.iter().enumerate() {
        for (j, to) in rule.to.iter().flatten().enumerate() {
            let Some(operation) = &to.operation else { continue };
            for port in
                operation.ports.iter().chain(&operation.not_ports).filter(|p| p.parse::<u16>().map_or(true, |p| p == 0))
            {
                let at = format!("/spec/rules/{i}/to/{j}/operation/ports");
                found.push(FieldError { pointer: at, message: format!("\"{port}\" is not a port") });
            }
        }
        for (j, when) in rule.when.iter().flatten().enumerate() {
            if when.values.is_empty() && when.not_values.is_empty() {
                let at = format!("/spec/rules/{i}/when/{j}");
                found.push(FieldError::new(&at, "a condition needs values or notValues"));
            }
        }
    }
}
