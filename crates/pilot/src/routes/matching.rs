//! The match of an HTTP route, and string matches wherever Istio uses them.

use istio_api::networking::{HttpMatchRequest, StringMatch};
use serde_json::{Map, Value, json};

/// Whether a match can apply to this client at all; what only the client decides is decided here, once.
pub(crate) fn applies(request: &HttpMatchRequest, proxy: &crate::Proxy, port: u16) -> bool {
    request.port.is_none_or(|wanted| wanted == u32::from(port))
        && (request.source_namespace.is_empty() || request.source_namespace == proxy.namespace)
        && request.source_labels.iter().all(|(key, value)| proxy.labels.get(key) == Some(value))
        && (request.gateways.is_empty() || request.gateways.iter().any(|gateway| gateway == "mesh"))
}

/// A string match as Envoy's.
pub(crate) fn string(of: &StringMatch) -> Value {
    match of {
        StringMatch::Present => json!({"safeRegex": {"regex": ".*"}}),
        StringMatch::Exact(text) => json!({"exact": text}),
        StringMatch::Prefix(text) => json!({"prefix": text}),
        StringMatch::Regex(expression) => json!({"safeRegex": {"regex": expression}}),
    }
}

/// Envoy's route match; none: everything.
pub(crate) fn route(request: Option<&HttpMatchRequest>) -> Value {
    let Some(request) = request else { return json!({"prefix": "/"}) };
    let mut out = Map::new();
    match &request.uri {
        None | Some(StringMatch::Present) => out.insert("prefix".to_owned(), json!("/")),
        Some(StringMatch::Exact(path)) => out.insert("path".to_owned(), json!(path)),
        Some(StringMatch::Prefix(prefix)) => out.insert("prefix".to_owned(), json!(prefix)),
        Some(StringMatch::Regex(expression)) => out.insert("safeRegex".to_owned(), json!({"regex": expression})),
    };
    out.insert("caseSensitive".to_owned(), json!(!request.ignore_uri_case));
    let headers = headers(request);
    if !headers.is_empty() {
        out.insert("headers".to_owned(), json!(headers));
    }
    let queries: Vec<Value> = request.query_params.iter().map(|(name, value)| query(name, value)).collect();
    if !queries.is_empty() {
        out.insert("queryParameters".to_owned(), json!(queries));
    }
    Value::Object(out)
}

fn headers(request: &HttpMatchRequest) -> Vec<Value> {
    let mut out: Vec<Value> = request.headers.iter().map(|(name, value)| header(name, Some(value), false)).collect();
    out.extend(request.without_headers.iter().map(|(name, value)| header(name, Some(value), true)));
    for (name, value) in
        [(":method", &request.method), (":authority", &request.authority), (":scheme", &request.scheme)]
    {
        if let Some(value) = value {
            out.push(header(name, Some(value), false));
        }
    }
    out
}

fn header(name: &str, value: Option<&StringMatch>, inverted: bool) -> Value {
    let mut out = json!({"name": name});
    match value {
        Some(StringMatch::Present) => out["presentMatch"] = json!(true),
        Some(StringMatch::Regex(any)) if any == "*" => out["presentMatch"] = json!(true),
        Some(StringMatch::Exact(empty) | StringMatch::Prefix(empty)) if empty.is_empty() => {
            out["presentMatch"] = json!(true);
        }
        Some(value) => out["stringMatch"] = string(value),
        None => out["presentMatch"] = json!(true),
    }
    if inverted {
        out["invertMatch"] = json!(true);
        if out.get("stringMatch").is_some() {
            out["treatMissingHeaderAsEmpty"] = json!(true);
        }
    }
    out
}

fn query(name: &str, value: &StringMatch) -> Value {
    match value {
        StringMatch::Present => json!({"name": name, "presentMatch": true}),
        StringMatch::Regex(any) if any == "*" => json!({"name": name, "presentMatch": true}),
        StringMatch::Exact(empty) if empty.is_empty() => json!({"name": name, "presentMatch": true}),
        value => json!({"name": name, "stringMatch": string(value)}),
    }
}
