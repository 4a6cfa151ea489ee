//! VirtualServices.

use std::time::Duration;

use super::FieldError;
use super::field::Found;
use crate::networking::{
    CorsPolicy, Destination, Fault, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRetry,
    HttpRewrite, HttpRoute, RouteDestination, StringMatch, VirtualService,
};

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

/// Names of gRPC statuses.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a direct response may hold, in bytes.
const MAX_BODY: usize = 1 << 20;

pub(super) fn virtual_service(spec: &VirtualService, found: &mut Vec<FieldError>) {
    let found = &mut Found(found);
    let delegate = spec.hosts.is_empty();
    if delegate {
        let message = "a VirtualService without hosts is a delegate: it has http routes only, and no gateways";
        found.when(!spec.gateways.is_empty(), "/spec/gateways", message);
        found.when(!spec.tls.is_empty(), "/spec/tls", message);
        found.when(!spec.tcp.is_empty(), "/spec/tcp", message);
    }
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh");
    for (i, host) in spec.hosts.iter().enumerate() {
        let at = format!("/spec/hosts/{i}");
        found.host(host, &at);
        found.when(host == "*" && mesh, &at, "\"*\" is for gateways only; name the hosts");
        found.when(spec.hosts.iter().take(i).any(|other| other == host), &at, "this host is there twice");
    }
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        found.no("/spec", "a VirtualService needs http, tcp or tls routes");
    }
    found.export_to(&spec.export_to);
    for (i, http) in spec.http.iter().enumerate() {
        http_route(http, delegate, &format!("/spec/http/{i}"), found);
    }
    for (i, route) in spec.tls.iter().enumerate() {
        let at = format!("/spec/tls/{i}");
        found.when(route.r#match.is_empty(), &format!("{at}/match"), "a tls route needs a match with sniHosts");
        for (j, wanted) in route.r#match.iter().enumerate() {
            let at = format!("{at}/match/{j}");
            found.when(wanted.sni_hosts.is_empty(), &format!("{at}/sniHosts"), "a tls match needs sniHosts");
            for (k, name) in wanted.sni_hosts.iter().enumerate() {
                let at = format!("{at}/sniHosts/{k}");
                found.host(name, &at);
                let within = spec.hosts.iter().any(|host| covers(host, name));
                found.when(!within, &at, "this server name is none of the VirtualService's hosts");
            }
            connection(&wanted.destination_subnets, wanted.port, &at, found);
            found.labels(&wanted.source_labels, &format!("{at}/sourceLabels"));
        }
        destinations(&route.route, &at, found);
    }
    for (i, route) in spec.tcp.iter().enumerate() {
        let at = format!("/spec/tcp/{i}");
        for (j, wanted) in route.r#match.iter().enumerate() {
            let at = format!("{at}/match/{j}");
            connection(&wanted.destination_subnets, wanted.port, &at, found);
            if !wanted.source_subnet.is_empty() {
                found.network(&wanted.source_subnet, format!("{at}/sourceSubnet"));
            }
            found.labels(&wanted.source_labels, &format!("{at}/sourceLabels"));
        }
        destinations(&route.route, &at, found);
    }
}

/// Whether a host of a VirtualService stands for a server name.
fn covers(host: &str, name: &str) -> bool {
    host == name || host.strip_prefix('*').is_some_and(|suffix| name.trim_start_matches('*').ends_with(suffix))
}

fn connection(subnets: &[String], port: Option<u32>, at: &str, found: &mut Found<'_>) {
    for (i, subnet) in subnets.iter().enumerate() {
        found.network(subnet, format!("{at}/destinationSubnets/{i}"));
    }
    found.port(port, &format!("{at}/port"));
}

fn destinations(routes: &[RouteDestination], at: &str, found: &mut Found<'_>) {
    found.when(routes.is_empty(), &format!("{at}/route"), "a route needs a destination");
    for (i, to) in routes.iter().enumerate() {
        destination(&to.destination, &format!("{at}/route/{i}/destination"), found);
    }
    weights(&routes.iter().map(|to| to.weight).collect::<Vec<_>>(), at, found);
}

fn destination(of: &Destination, at: &str, found: &mut Found<'_>) {
    if of.host.is_empty() {
        found.no(format!("{at}/host"), "a destination needs a host");
    } else {
        found.host(&of.host, &format!("{at}/host"));
    }
    found.port(of.port.as_ref().map(|p| p.number), &format!("{at}/port/number"));
}

fn weights(all: &[i32], at: &str, found: &mut Found<'_>) {
    for (i, weight) in all.iter().enumerate().filter(|(_, w)| **w < 0) {
        found.no(format!("{at}/route/{i}/weight"), format!("a weight cannot be negative ({weight})"));
    }
    let sum: i64 = all.iter().map(|w| i64::from(*w)).sum();
    let message = "the weights of several destinations add up to 0; no request could go anywhere";
    found.when(all.len() > 1 && sum == 0, &format!("{at}/route"), message);
    if all.len() > 1 && sum > i64::from(u32::MAX) {
        found.no(format!("{at}/route"), format!("the weights add up to {sum}, which is too much"));
    }
}

fn http_route(http: &HttpRoute, delegate: bool, at: &str, found: &mut Found<'_>) {
    let kinds =
        [!http.route.is_empty(), http.redirect.is_some(), http.direct_response.is_some(), http.delegate.is_some()];
    match kinds.iter().filter(|k| **k).count() {
        0 => found.no(at, "a route needs one of route, redirect, directResponse, delegate"),
        1 => {}
        _ => found.no(at, "a route has one of route, redirect, directResponse, delegate"),
    }
    if let Some(to) = &http.delegate {
        let at = format!("{at}/delegate");
        found.when(delegate, &at, "a delegate cannot delegate");
        found.when(to.name.is_empty(), &format!("{at}/name"), "a delegate needs a name");
    }
    if http.redirect.is_some() || http.direct_response.is_some() {
        let message = "only a route with destinations has this";
        found.when(http.fault.is_some(), &format!("{at}/fault"), message);
        found.when(http.rewrite.is_some(), &format!("{at}/rewrite"), message);
    }
    for (i, wanted) in http.r#match.iter().enumerate() {
        http_match(wanted, &format!("{at}/match/{i}"), found);
    }
    for (i, to) in http.route.iter().enumerate() {
        destination(&to.destination, &format!("{at}/route/{i}/destination"), found);
        headers(to.headers.as_ref(), &format!("{at}/route/{i}/headers"), found);
    }
    weights(&http.route.iter().map(|to| to.weight).collect::<Vec<_>>(), at, found);
    headers(http.headers.as_ref(), &format!("{at}/headers"), found);
    found.limit(http.timeout, &format!("{at}/timeout"));
    http.redirect.iter().for_each(|of| redirect(of, &format!("{at}/redirect"), found));
    http.direct_response.iter().for_each(|of| direct_response(of, &format!("{at}/directResponse"), found));
    http.rewrite.iter().for_each(|of| rewrite(of, &format!("{at}/rewrite"), found));
    http.retries.iter().for_each(|of| retries(of, &format!("{at}/retries"), found));
    http.fault.iter().for_each(|of| fault(of, &format!("{at}/fault"), found));
    http.cors_policy.iter().for_each(|of| cors(of, &format!("{at}/corsPolicy"), found));
    mirrors(http, at, found);
}

fn mirrors(http: &HttpRoute, at: &str, found: &mut Found<'_>) {
    let both = http.mirror.is_some() && !http.mirrors.is_empty();
    found.when(both, &format!("{at}/mirrors"), "a route has mirror or mirrors, not both");
    if let Some(to) = &http.mirror {
        destination(to, &format!("{at}/mirror"), found);
    }
    found.percent(http.mirror_percent.map(f64::from), &format!("{at}/mirrorPercent"));
    found.percent(http.mirror_percentage.as_ref().map(|p| p.value), &format!("{at}/mirrorPercentage/value"));
    for (i, to) in http.mirrors.iter().enumerate() {
        destination(&to.destination, &format!("{at}/mirrors/{i}/destination"), found);
        found.percent(to.percentage.as_ref().map(|p| p.value), &format!("{at}/mirrors/{i}/percentage/value"));
    }
}

fn http_match(wanted: &HttpMatchRequest, at: &str, found: &mut Found<'_>) {
    for (name, value) in
        [("uri", &wanted.uri), ("scheme", &wanted.scheme), ("method", &wanted.method), ("authority", &wanted.authority)]
    {
        pattern(value.as_ref(), &format!("{at}/{name}"), found);
    }
    for (field, map) in [("headers", &wanted.headers), ("withoutHeaders", &wanted.without_headers)] {
        for (name, value) in map {
            let at = format!("{at}/{field}/{name}");
            if !name.starts_with('@') {
                found.header_name(name, &at);
            }
            pattern(Some(value), &at, found);
        }
    }
    for (name, value) in &wanted.query_params {
        let at = format!("{at}/queryParams/{name}");
        found.when(name.is_empty(), &at, "a query parameter needs a name");
        pattern(Some(value), &at, found);
    }
    found.port(wanted.port, &format!("{at}/port"));
    found.labels(&wanted.source_labels, &format!("{at}/sourceLabels"));
}

fn pattern(value: Option<&StringMatch>, at: &str, found: &mut Found<'_>) {
    if let Some(StringMatch::Regex(expression)) = value
        && expression != "*"
    {
        found.expression(expression, &format!("{at}/regex"));
    }
}

fn headers(of: Option<&Headers>, at: &str, found: &mut Found<'_>) {
    let Some(of) = of else { return };
    for (side, operations) in [("request", &of.request), ("response", &of.response)] {
        let Some(operations) = operations else { continue };
        for (kind, map) in [("set", &operations.set), ("add", &operations.add)] {
            map.keys().for_each(|name| found.header_name(name, &format!("{at}/{side}/{kind}/{name}")));
        }
        for (i, name) in operations.remove.iter().enumerate() {
            found.header_name(name, &format!("{at}/{side}/remove/{i}"));
        }
    }
}

fn redirect(of: &HttpRedirect, at: &str, found: &mut Found<'_>) {
    let empty = of.uri.is_empty()
        && of.authority.is_empty()
        && of.scheme.is_empty()
        && of.prefix_rewrite.is_empty()
        && of.port.is_none()
        && of.derive_port.is_none();
    found.when(empty, at, "a redirect needs uri, prefixRewrite, authority, port or scheme");
    let both = !of.uri.is_empty() && !of.prefix_rewrite.is_empty();
    found.when(both, &format!("{at}/prefixRewrite"), "a redirect has uri or prefixRewrite, not both");
    found.port(of.port, &format!("{at}/port"));
    let both = of.port.is_some() && of.derive_port.is_some();
    found.when(both, &format!("{at}/derivePort"), "a redirect has port or derivePort, not both");
    let known = ["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"];
    found.one_of(of.derive_port.as_deref(), &known, &format!("{at}/derivePort"));
    let code = of.redirect_code;
    let wrong = ![0, 301, 302, 303, 307, 308].contains(&code);
    found.when(wrong, &format!("{at}/redirectCode"), "a redirect's status is 301, 302, 303, 307 or 308");
}

fn direct_response(of: &HttpDirectResponse, at: &str, found: &mut Found<'_>) {
    let wrong = !(200..600).contains(&of.status);
    found.when(wrong, &format!("{at}/status"), "a direct response's status lies between 200 and 599");
    let Some(body) = &of.body else { return };
    let size = body.string.as_ref().or(body.bytes.as_ref()).map_or(0, String::len);
    found.when(size > MAX_BODY, &format!("{at}/body"), "a direct response's body has at most 1 MiB");
    let both = body.string.is_some() && body.bytes.is_some();
    found.when(both, &format!("{at}/body"), "a body is string or bytes, not both");
}

fn rewrite(of: &HttpRewrite, at: &str, found: &mut Found<'_>) {
    let empty = of.uri.is_empty() && of.authority.is_empty() && of.uri_regex_rewrite.is_none();
    found.when(empty, at, "a rewrite needs uri, uriRegexRewrite or authority");
    let Some(regex) = &of.uri_regex_rewrite else { return };
    let at = format!("{at}/uriRegexRewrite");
    found.when(!of.uri.is_empty(), &at, "a rewrite has uri or uriRegexRewrite, not both");
    found.when(regex.r#match.is_empty(), &format!("{at}/match"), "an expression is needed");
    found.expression(&regex.r#match, &format!("{at}/match"));
}

fn retries(of: &HttpRetry, at: &str, found: &mut Found<'_>) {
    found.not_negative(Some(of.attempts), &format!("{at}/attempts"));
    let told = !of.retry_on.is_empty() || of.per_try_timeout.is_some();
    let message = "attempts is 0, which turns retries off; how to retry cannot be said then";
    found.when(of.attempts == 0 && told, &format!("{at}/attempts"), message);
    found.duration(of.per_try_timeout, &format!("{at}/perTryTimeout"));
    found.duration(of.backoff, &format!("{at}/backoff"));
    for word in of.retry_on.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let code = word.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
        if !RETRY_ON.contains(&word) && !code {
            found.no(format!("{at}/retryOn"), format!("unknown condition \"{word}\"; use {}", RETRY_ON.join(", ")));
        }
    }
}

fn fault(of: &Fault, at: &str, found: &mut Found<'_>) {
    found.when(of.delay.is_none() && of.abort.is_none(), at, "a fault needs delay or abort");
    if let Some(delay) = &of.delay {
        let at = format!("{at}/delay");
        let missing = delay.fixed_delay.is_none() && delay.exponential_delay.is_none();
        found.when(missing, &format!("{at}/fixedDelay"), "a delay needs fixedDelay");
        found.duration(delay.fixed_delay, &format!("{at}/fixedDelay"));
        found.percent(Some(f64::from(delay.percent)), &format!("{at}/percent"));
        found.percent(delay.percentage.as_ref().map(|p| p.value), &format!("{at}/percentage/value"));
    }
    if let Some(abort) = &of.abort {
        let at = format!("{at}/abort");
        let given = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.http2_error.is_some()];
        found.when(given.iter().filter(|g| **g).count() != 1, &at, "an abort has one of httpStatus and grpcStatus");
        let wrong = abort.http_status.is_some_and(|status| !(200..600).contains(&status));
        found.when(wrong, &format!("{at}/httpStatus"), "a status lies between 200 and 599");
        found.one_of(abort.grpc_status.as_deref(), &GRPC, &format!("{at}/grpcStatus"));
        found.percent(abort.percentage.as_ref().map(|p| p.value), &format!("{at}/percentage/value"));
    }
}

fn cors(of: &CorsPolicy, at: &str, found: &mut Found<'_>) {
    for (i, origin) in of.allow_origins.iter().enumerate() {
        pattern(Some(origin), &format!("{at}/allowOrigins/{i}"), found);
    }
    for (i, method) in of.allow_methods.iter().enumerate() {
        let wrong = method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase() || c == '*');
        found.when(wrong, &format!("{at}/allowMethods/{i}"), "this is no HTTP method, such as GET");
    }
    for (field, names) in [("allowHeaders", &of.allow_headers), ("exposeHeaders", &of.expose_headers)] {
        names.iter().enumerate().for_each(|(i, name)| found.header_name(name, &format!("{at}/{field}/{i}")));
    }
    let split = of.max_age.is_some_and(|age| age.subsec_nanos() != 0 || age < Duration::from_secs(1));
    found.when(split, &format!("{at}/maxAge"), "maxAge is given in whole seconds");
    found.one_of(
        of.unmatched_preflights.as_deref(),
        &["UNSPECIFIED", "FORWARD", "IGNORE"],
        &format!("{at}/unmatchedPreflights"),
    );
}
