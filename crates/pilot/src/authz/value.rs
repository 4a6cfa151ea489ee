//! One value of an AuthorizationPolicy (`exact`, `prefix*`, `*suffix`, `*`) as an Envoy matcher.

use serde_json::{Value, json};

/// A value that may begin or end with `*`.
pub(super) enum Pattern<'a> {
    Any,
    Prefix(&'a str),
    Suffix(&'a str),
    Exact(&'a str),
}

pub(super) fn pattern(value: &str) -> Pattern<'_> {
    if value == "*" {
        Pattern::Any
    } else if let Some(suffix) = value.strip_prefix('*') {
        Pattern::Suffix(suffix)
    } else if let Some(prefix) = value.strip_suffix('*') {
        Pattern::Prefix(prefix)
    } else {
        Pattern::Exact(value)
    }
}

/// A string matcher; `*` is any non-empty text.
pub(super) fn string(value: &str) -> Value {
    match pattern(value) {
        Pattern::Any => regex(".+"),
        Pattern::Prefix(p) => json!({"prefix": p}),
        Pattern::Suffix(s) => json!({"suffix": s}),
        Pattern::Exact(e) => json!({"exact": e}),
    }
}

pub(super) fn regex(expression: &str) -> Value {
    json!({"safeRegex": {"regex": expression}})
}

/// A header matcher; host names compare without case.
pub(super) fn header(name: &str, value: &str, ignore_case: bool) -> Value {
    if value == "*" {
        return json!({"name": name, "presentMatch": true});
    }
    let mut matcher = string(value);
    if ignore_case {
        matcher["ignoreCase"] = json!(true);
    }
    json!({"name": name, "stringMatch": matcher})
}

/// The peer's principal, which Envoy knows with its `spiffe://` scheme.
pub(super) fn principal(value: &str) -> Value {
    let matcher = match pattern(value) {
        Pattern::Any => regex(".+"),
        Pattern::Prefix(p) => json!({"prefix": format!("spiffe://{p}")}),
        Pattern::Suffix(s) => regex(&format!("spiffe://.*{}", quote(s))),
        Pattern::Exact(e) => json!({"exact": format!("spiffe://{e}")}),
    };
    authenticated(&matcher)
}

pub(super) fn authenticated(matcher: &Value) -> Value {
    json!({"authenticated": {"principalName": matcher}})
}

/// An address or a CIDR block; the policy's validation has checked that it is one.
pub(super) fn cidr(value: &str) -> Value {
    let (address, length) = value.split_once('/').unwrap_or((value, ""));
    let whole = if address.contains(':') { 128 } else { 32 };
    json!({"addressPrefix": address, "prefixLen": length.parse::<u32>().unwrap_or(whole)})
}

/// A namespace pattern inside a SPIFFE identity.
pub(super) fn namespace(value: &str) -> Value {
    authenticated(&regex(&format!(".*/ns/{}/.*", quote_glob(value, ".*"))))
}

/// `NAMESPACE/NAME`, or `NAME` in the policy's own namespace.
pub(super) fn service_account(value: &str, policy_namespace: &str) -> Value {
    let (namespace, name) = value.split_once('/').unwrap_or((policy_namespace, value));
    authenticated(&regex(&format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", quote(namespace), quote(name))))
}

/// A trust domain, possibly with a `*`.
pub(super) fn trust_domain(value: &str) -> Value {
    if value.contains('*') {
        return authenticated(&regex(&format!("spiffe://{}/.*", quote_glob(value, "[^/]*"))));
    }
    authenticated(&json!({"prefix": format!("spiffe://{value}/")}))
}

/// `ISSUER/SUBJECT` of a token.
pub(super) fn request_principal(value: &str) -> Value {
    let (issuer, subject) = match value.rsplit_once('/') {
        Some((issuer, subject)) => (string(issuer), string(subject)),
        None => match pattern(value) {
            Pattern::Any => (regex(".+"), regex(".+")),
            Pattern::Prefix(_) => (string(value), regex(".+")),
            Pattern::Suffix(_) => (regex(".+"), string(value)),
            Pattern::Exact(_) => (string(value), json!({"exact": ""})),
        },
    };
    json!({"andIds": {"ids": [claim_is(&["iss"], issuer), claim_is(&["sub"], subject)]}})
}

fn claim_is(path: &[&str], matcher: Value) -> Value {
    token_metadata(path, json!({"stringMatch": matcher}))
}

/// Any of `values` in a claim that may be a text or a list of texts.
pub(super) fn claim(path: &[&str], values: &[String]) -> Value {
    let any = any_of(values);
    token_metadata(path, json!({"orMatch": {"valueMatchers": [{"listMatch": {"oneOf": any.clone()}}, any]}}))
}

fn token_metadata(path: &[&str], value: Value) -> Value {
    let keys: Vec<Value> = std::iter::once(&"payload").chain(path).map(|key| json!({"key": key})).collect();
    json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": keys, "value": value}})
}

/// Dynamic metadata of any filter: `experimental.envoy.filters.a.b[key]`.
pub(super) fn filter_metadata(filter: &str, key: &str, values: &[String]) -> Value {
    json!({"metadata": {"filter": filter, "path": [{"key": key}], "value": any_of(values)}})
}

/// One of several texts; Envoy refuses an `orMatch` of fewer than two.
fn any_of(values: &[String]) -> Value {
    let mut all: Vec<Value> = values.iter().map(|v| json!({"stringMatch": string(v)})).collect();
    if all.len() == 1 { all.remove(0) } else { json!({"orMatch": {"valueMatchers": all}}) }
}

/// A path; `{*}` and `{**}` make it a template.
pub(super) fn path(value: &str) -> Value {
    if value.contains("{*}") || value.contains("{**}") {
        let template = value.replace("{**}", "**").replace("{*}", "*");
        return json!({"uriTemplate": {
            "name": "uri-template",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "pathTemplate": template
            }
        }});
    }
    json!({"urlPath": {"path": string(value)}})
}

fn quote_glob(value: &str, star: &str) -> String {
    value.split('*').map(quote).collect::<Vec<_>>().join(star)
}

/// Escapes exactly the characters that are special in RE2, so that equal policies give equal text to Istio's.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Replaces the trust domain of a principal by every trust domain of the mesh when it is one of them.
pub(super) fn expand_trust_domains(principal: &str, domains: &[String]) -> Vec<String> {
    let Some((wanted, rest)) = principal.split_once('/') else { return vec![principal.to_owned()] };
    let matches = |domain: &str| match wanted.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => domain.ends_with(suffix),
        None => domain == wanted,
    };
    if wanted == "*" || !domains.iter().any(|domain| matches(domain)) {
        return vec![principal.to_owned()];
    }
    let mut out = Vec::new();
    for domain in domains {
        let expanded = if matches(domain) { principal.to_owned() } else { format!("{domain}/{rest}") };
        if !out.contains(&expanded) {
            out.push(expanded);
        }
    }
    out
}
