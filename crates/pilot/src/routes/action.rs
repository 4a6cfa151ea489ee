//! What a route does: forward, redirect or answer; retries, faults, CORS and header operations.

use istio_api::networking::{CorsPolicy, Fault, HttpMatchRequest, HttpRetry, HttpRoute, Percent, StringMatch};
use serde_json::{Map, Value, json};

use super::matching;
use crate::duration;

const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// One destination, resolved to a cluster.
pub(super) struct Target {
    /// Envoy's cluster.
    pub cluster: String,
    /// Share of requests.
    pub weight: u32,
    /// Header operations of this destination only.
    pub headers: Option<istio_api::networking::Headers>,
    /// How requests are tied to hosts, from the DestinationRule.
    pub hash: Option<Value>,
}

/// The retry policy of routes without one.
pub(super) fn default_retry(hashed: bool) -> Value {
    let mut out = json!({"hostSelectionRetryMaxAttempts": "5", "numRetries": 2, "retryOn": RETRY_ON});
    if !hashed {
        out["retryHostPredicate"] = previous_hosts();
    }
    out
}

/// Every second try leaves the priorities, and so the localities, that were tried before.
fn previous_priorities() -> Value {
    json!({
        "name": "envoy.retry_priorities.previous_priorities",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "updateFrequency": 2
        }
    })
}

fn previous_hosts() -> Value {
    json!([{
        "name": "envoy.retry_host_predicates.previous_hosts",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}
    }])
}

/// A user's retry policy; `None`: no retries. Status codes inside `retryOn` become a list of their own.
fn retry(of: &HttpRetry, hashed: bool) -> Option<Value> {
    let attempts = of.attempts;
    if attempts <= 0 {
        return None;
    }
    let mut out = json!({"hostSelectionRetryMaxAttempts": "5", "numRetries": attempts});
    let (codes, mut names): (Vec<&str>, Vec<&str>) = of
        .retry_on
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .partition(|word| word.parse::<u16>().is_ok());
    let codes: Vec<u16> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    if !codes.is_empty() {
        out["retriableStatusCodes"] = json!(codes);
        if !names.contains(&"retriable-status-codes") {
            names.push("retriable-status-codes");
        }
    }
    out["retryOn"] = if names.is_empty() { json!(RETRY_ON) } else { json!(names.join(",")) };
    if let Some(limit) = &of.per_try_timeout {
        out["perTryTimeout"] = duration(limit);
    }
    if let Some(wait) = &of.backoff {
        out["retryBackOff"] = json!({"baseInterval": duration(wait)});
    }
    if of.retry_ignore_previous_hosts.unwrap_or(!hashed) {
        out["retryHostPredicate"] = previous_hosts();
    }
    if of.retry_remote_localities == Some(true) {
        out["retryPriority"] = previous_priorities();
    }
    Some(out)
}

/// The route action for the given destinations.
pub(super) fn forward(
    user: Option<(&HttpRoute, Option<&HttpMatchRequest>)>,
    targets: &[Target],
    mirrors: Vec<Value>,
) -> Value {
    let http = user.map(|(http, _)| http);
    let mut out = Map::new();
    match targets {
        [one] => {
            out.insert("cluster".to_owned(), json!(one.cluster));
        }
        many => {
            let clusters: Vec<Value> = many.iter().map(weighted).collect();
            out.insert("weightedClusters".to_owned(), json!({"clusters": clusters}));
        }
    }
    let hashes: Vec<&Value> = targets.iter().filter_map(|target| target.hash.as_ref()).take(1).collect();
    let hashed = !hashes.is_empty();
    if hashed {
        out.insert("hashPolicy".to_owned(), json!(hashes));
    }
    let timeout = http.and_then(|http| http.timeout.as_ref()).map_or_else(|| json!("0s"), duration);
    out.insert("maxGrpcTimeout".to_owned(), timeout.clone());
    out.insert("timeout".to_owned(), timeout);
    let retries = match http.and_then(|http| http.retries.as_ref()) {
        Some(of) => retry(of, hashed),
        None => Some(default_retry(hashed)),
    };
    if let Some(retries) = retries {
        out.insert("retryPolicy".to_owned(), retries);
    }
    if let Some((http, request)) = user {
        rewrite(http, request, &mut out);
        let own = match targets {
            [one] => host_header(one.headers.as_ref()),
            _ => None,
        };
        if let Some(host) = own.or_else(|| host_header(http.headers.as_ref())) {
            out.insert("hostRewriteLiteral".to_owned(), json!(host));
        }
    }
    if !mirrors.is_empty() {
        out.insert("requestMirrorPolicies".to_owned(), json!(mirrors));
    }
    Value::Object(out)
}

fn weighted(target: &Target) -> Value {
    let mut out = json!({"name": target.cluster, "weight": target.weight});
    if let Some(headers) = &target.headers {
        set_headers(headers, &mut out);
        if let Some(host) = host_header(Some(headers)) {
            out["hostRewriteLiteral"] = json!(host);
        }
    }
    out
}

fn rewrite(http: &HttpRoute, request: Option<&HttpMatchRequest>, out: &mut Map<String, Value>) {
    let Some(rewrite) = &http.rewrite else { return };
    if !rewrite.uri.is_empty() {
        // A path that was matched as a whole is replaced as a whole; there is no prefix to replace.
        if request.is_some_and(|request| matches!(request.uri, Some(StringMatch::Regex(_)))) {
            out.insert("regexRewrite".to_owned(), json!({"pattern": {"regex": "^.*$"}, "substitution": rewrite.uri}));
        } else {
            out.insert("prefixRewrite".to_owned(), json!(rewrite.uri));
        }
    }
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        out.insert(
            "regexRewrite".to_owned(),
            json!({"pattern": {"regex": regex.r#match}, "substitution": regex.rewrite}),
        );
    }
    if !rewrite.authority.is_empty() {
        out.insert("hostRewriteLiteral".to_owned(), json!(rewrite.authority));
    }
}

/// A mirror policy to a cluster; the share in millionths.
pub(super) fn mirror(cluster: &str, percent: Option<f64>) -> Value {
    json!({
        "cluster": cluster,
        "disableShadowHostSuffixAppend": true,
        "runtimeFraction": {"defaultValue": fraction(percent.unwrap_or(100.0))},
        "traceSampled": false
    })
}

/// Per cent as Envoy's fraction with four decimals.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1_000_000 first")]
fn fraction(percent: f64) -> Value {
    let millionths = (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    json!({"numerator": millionths, "denominator": "MILLION"})
}

/// `redirect`, as Envoy's, for requests to a port.
pub(super) fn redirect(of: &istio_api::networking::HttpRedirect, port: u16) -> Value {
    let mut out = json!({});
    if !of.prefix_rewrite.is_empty() {
        out["prefixRewrite"] = json!(of.prefix_rewrite);
    } else if let Some(prefix) = of.uri.strip_prefix("%PREFIX()%") {
        out["prefixRewrite"] = json!(prefix);
    } else if !of.uri.is_empty() {
        out["pathRedirect"] = json!(of.uri);
    }
    if !of.authority.is_empty() {
        out["hostRedirect"] = json!(of.authority);
    }
    if !of.scheme.is_empty() {
        out["schemeRedirect"] = json!(of.scheme);
    }
    if let Some(port) = of.port {
        out["portRedirect"] = json!(port);
    } else if of.derive_port.as_deref() == Some("FROM_REQUEST_PORT") {
        out["portRedirect"] = json!(port);
    }
    let code = match of.redirect_code {
        302 => "FOUND",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => return out,
    };
    out["responseCode"] = json!(code);
    out
}

/// `directResponse`.
pub(super) fn direct_response(of: &istio_api::networking::HttpDirectResponse) -> Value {
    let mut out = json!({"status": of.status});
    if let Some(body) = &of.body {
        out["body"] = match (&body.string, &body.bytes) {
            (Some(text), _) => json!({"inlineString": text}),
            (None, Some(bytes)) => json!({"inlineBytes": bytes}),
            (None, None) => json!({}),
        };
    }
    out
}

/// Header operations on a route, a destination or a virtual host.
pub(super) fn set_headers(headers: &istio_api::networking::Headers, out: &mut Value) {
    let sides = [("request", headers.request.as_ref()), ("response", headers.response.as_ref())];
    for (side, operations) in sides {
        let Some(operations) = operations else { continue };
        let mut add: Vec<Value> = Vec::new();
        for (name, value) in &operations.add {
            add.extend(header(name, value, "APPEND_IF_EXISTS_OR_ADD"));
        }
        for (name, value) in &operations.set {
            add.extend(header(name, value, "OVERWRITE_IF_EXISTS_OR_ADD"));
        }
        let remove = operations.remove.iter().filter(|name| !is_special(name)).map(|name| json!(name)).collect();
        extend(out, &format!("{side}HeadersToAdd"), add);
        extend(out, &format!("{side}HeadersToRemove"), remove);
    }
}

fn extend(out: &mut Value, key: &str, mut more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    match out.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.append(&mut more),
        None => out[key] = Value::Array(more),
    }
}

fn header(name: &str, value: &str, action: &str) -> Option<Value> {
    (!is_special(name)).then(|| json!({"header": {"key": name, "value": value}, "appendAction": action}))
}

fn is_special(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

/// A host that header operations set; Envoy rewrites it instead.
fn host_header(headers: Option<&istio_api::networking::Headers>) -> Option<&str> {
    let request = headers?.request.as_ref()?;
    request
        .set
        .iter()
        .chain(&request.add)
        .find(|(name, _)| name.eq_ignore_ascii_case("host") || name.as_str() == ":authority")
        .map(|(_, value)| value.as_str())
}

/// Filters' own settings on a route: fault and CORS.
pub(super) fn per_filter(http: &HttpRoute) -> Map<String, Value> {
    let mut out = Map::new();
    if let Some(fault) = &http.fault {
        out.insert("envoy.filters.http.fault".to_owned(), fault_config(fault));
    }
    if let Some(policy) = &http.cors_policy {
        out.insert("envoy.filters.http.cors".to_owned(), cors(policy));
    }
    out
}

fn share(percentage: Option<&Percent>) -> Value {
    fraction(percentage.map_or(100.0, |p| p.value))
}

fn fault_config(fault: &Fault) -> Value {
    let mut out = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"});
    if let Some(delay) = &fault.delay
        && let Some(fixed) = &delay.fixed_delay
    {
        // The old whole number counts where the new field is not used.
        let old = (delay.percentage.is_none() && delay.percent > 0).then(|| f64::from(delay.percent));
        let percentage = old.map_or_else(|| share(delay.percentage.as_ref()), fraction);
        out["delay"] = json!({"fixedDelay": duration(fixed), "percentage": percentage});
    }
    if let Some(abort) = &fault.abort {
        let mut how = json!({"percentage": share(abort.percentage.as_ref())});
        if let Some(status) = abort.http_status {
            how["httpStatus"] = json!(status);
        } else if let Some(code) = abort.grpc_status.as_deref().and_then(grpc_code) {
            how["grpcStatus"] = json!(code);
        }
        out["abort"] = how;
    }
    out
}

/// The number of a gRPC status name.
fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
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
    NAMES.iter().position(|known| *known == name).and_then(|index| u32::try_from(index).ok())
}

fn cors(policy: &CorsPolicy) -> Value {
    let mut out = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "filterEnabled": {"defaultValue": {"numerator": 100}},
        "forwardNotMatchingPreflights": policy.unmatched_preflights.as_deref() != Some("IGNORE")
    });
    let origins: Vec<Value> = policy
        .allow_origins
        .iter()
        .map(matching::string)
        .chain(policy.allow_origin.iter().map(|origin| json!({"exact": origin})))
        .collect();
    if !origins.is_empty() {
        out["allowOriginStringMatch"] = json!(origins);
    }
    for (key, values) in [
        ("allowMethods", &policy.allow_methods),
        ("allowHeaders", &policy.allow_headers),
        ("exposeHeaders", &policy.expose_headers),
    ] {
        if !values.is_empty() {
            out[key] = json!(values.join(","));
        }
    }
    if let Some(age) = &policy.max_age {
        out["maxAge"] = json!(age.as_secs().to_string());
    }
    if let Some(allow) = policy.allow_credentials {
        out["allowCredentials"] = json!(allow);
    }
    out
}
