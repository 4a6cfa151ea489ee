//! One rule of an AuthorizationPolicy as permissions and principals of Envoy's RBAC.

use istio_api::security::{Condition, Operation, Rule, Source};
use serde_json::{Value, json};

use super::value;

/// What a rule is translated for.
pub(super) struct Target<'a> {
    /// Namespace of the policy, in which bare service accounts are looked up.
    pub namespace: &'a str,
    /// The mesh's trust domain and its aliases.
    pub trust_domains: &'a [String],
    /// HTTP attributes do not exist.
    pub tcp: bool,
    /// A rule that needs what does not exist never matches (ALLOW); otherwise the rest of it decides (DENY).
    pub skip_if_http: bool,
}

/// The two halves of one attribute: what it must be and must not be.
struct Attribute {
    yes: Vec<Value>,
    no: Vec<Value>,
    http_only: bool,
}

/// All conditions that a permission or a principal is made of; `None`: the rule can never match here.
struct Conditions<'a> {
    target: &'a Target<'a>,
    permission: bool,
    parts: Vec<Value>,
    impossible: bool,
}

impl<'a> Conditions<'a> {
    fn new(target: &'a Target<'a>, permission: bool) -> Self {
        Self { target, permission, parts: Vec::new(), impossible: false }
    }

    fn push(&mut self, attribute: Attribute) {
        if attribute.yes.is_empty() && attribute.no.is_empty() {
            return;
        }
        if attribute.http_only && self.target.tcp {
            self.impossible |= self.target.skip_if_http;
            return;
        }
        let (any, rules, not) =
            if self.permission { ("orRules", "rules", "notRule") } else { ("orIds", "ids", "notId") };
        // A metadata matcher holds all its values itself.
        let either = |mut all: Vec<Value>| match all.pop() {
            Some(one) if all.is_empty() && one.get("metadata").is_some() => one,
            last => {
                all.extend(last);
                json!({any: {rules: all}})
            }
        };
        if !attribute.yes.is_empty() {
            self.parts.push(either(attribute.yes));
        }
        if !attribute.no.is_empty() {
            self.parts.push(json!({not: either(attribute.no)}));
        }
    }

    fn each(&mut self, yes: &[String], no: &[String], http_only: bool, matcher: impl Fn(&str) -> Value) {
        let all = |values: &[String]| values.iter().map(|v| matcher(v)).collect();
        self.push(Attribute { yes: all(yes), no: all(no), http_only });
    }

    fn whole(&mut self, yes: &[String], no: &[String], http_only: bool, matcher: impl Fn(&[String]) -> Value) {
        let one = |values: &[String]| if values.is_empty() { Vec::new() } else { vec![matcher(values)] };
        self.push(Attribute { yes: one(yes), no: one(no), http_only });
    }

    fn finish(mut self) -> Option<Value> {
        if self.impossible {
            return None;
        }
        if self.parts.is_empty() {
            self.parts.push(json!({"any": true}));
        }
        Some(if self.permission {
            json!({"andRules": {"rules": self.parts}})
        } else {
            json!({"andIds": {"ids": self.parts}})
        })
    }
}

/// A rule as one RBAC policy; `None` when it can never match on this kind of connection.
pub(super) fn policy(rule: &Rule, target: &Target<'_>) -> Option<Value> {
    let operations: Vec<&Operation> = rule.to.iter().flatten().filter_map(|to| to.operation.as_ref()).collect();
    let sources: Vec<&Source> = rule.from.iter().flatten().filter_map(|from| from.source.as_ref()).collect();
    let when: &[Condition] = rule.when.as_deref().unwrap_or_default();
    let permissions: Vec<Value> = if operations.is_empty() {
        permission(&Operation::default(), when, target).into_iter().collect()
    } else {
        operations.iter().filter_map(|operation| permission(operation, when, target)).collect()
    };
    let principals: Vec<Value> = if sources.is_empty() {
        principal(&Source::default(), when, target).into_iter().collect()
    } else {
        sources.iter().filter_map(|source| principal(source, when, target)).collect()
    };
    if permissions.is_empty() || principals.is_empty() {
        return None;
    }
    Some(json!({"permissions": permissions, "principals": principals}))
}

fn permission(to: &Operation, when: &[Condition], target: &Target<'_>) -> Option<Value> {
    let mut out = Conditions::new(target, true);
    let header =
        |name: &'static str, ignore_case| move |v: &str| json!({"header": value::header(name, v, ignore_case)});
    out.each(&to.hosts, &to.not_hosts, true, header(":authority", true));
    out.each(&to.methods, &to.not_methods, true, header(":method", false));
    out.each(&to.paths, &to.not_paths, true, value::path);
    out.each(&to.ports, &to.not_ports, false, destination_port);
    for condition in when {
        let (yes, no) = (&condition.values, &condition.not_values);
        match condition.key.as_str() {
            "destination.ip" => out.each(yes, no, false, |v| json!({"destinationIp": value::cidr(v)})),
            "destination.port" => out.each(yes, no, false, destination_port),
            "connection.sni" => out.each(yes, no, false, |v| json!({"requestedServerName": value::string(v)})),
            key => {
                if let Some((filter, name)) =
                    key.strip_prefix("experimental.").and_then(|k| k.strip_suffix(']')).and_then(|k| k.split_once('['))
                {
                    out.whole(yes, no, false, |values| value::filter_metadata(filter, name, values));
                }
            }
        }
    }
    out.finish()
}

fn destination_port(port: &str) -> Value {
    json!({"destinationPort": port.parse::<u16>().unwrap_or(0)})
}

fn principal(from: &Source, when: &[Condition], target: &Target<'_>) -> Option<Value> {
    let mut out = Conditions::new(target, false);
    let expand = |names: &[String]| -> Vec<String> {
        names.iter().flat_map(|name| value::expand_trust_domains(name, target.trust_domains)).collect()
    };
    let account = |v: &str| value::service_account(v, target.namespace);
    let remote = |v: &str| json!({"remoteIp": value::cidr(v)});
    let direct = |v: &str| json!({"directRemoteIp": value::cidr(v)});
    out.each(&from.service_accounts, &from.not_service_accounts, false, account);
    out.each(&from.trust_domains, &from.not_trust_domains, false, value::trust_domain);
    out.each(&expand(&from.principals), &expand(&from.not_principals), false, value::principal);
    out.each(&from.request_principals, &from.not_request_principals, true, value::request_principal);
    out.each(&from.namespaces, &from.not_namespaces, false, value::namespace);
    out.each(&from.remote_ip_blocks, &from.not_remote_ip_blocks, false, remote);
    out.each(&from.ip_blocks, &from.not_ip_blocks, false, direct);
    for condition in when {
        let (yes, no) = (&condition.values, &condition.not_values);
        match condition.key.as_str() {
            "source.ip" => out.each(yes, no, false, direct),
            "remote.ip" => out.each(yes, no, false, remote),
            "source.namespace" => out.each(yes, no, false, value::namespace),
            "source.principal" => out.each(&expand(yes), &expand(no), false, value::principal),
            "source.serviceAccount" => out.each(yes, no, false, account),
            "source.trustDomain" => out.each(yes, no, false, value::trust_domain),
            "request.auth.principal" => out.each(yes, no, true, value::request_principal),
            "request.auth.audiences" => out.whole(yes, no, true, |v| value::claim(&["aud"], v)),
            "request.auth.presenter" => out.whole(yes, no, true, |v| value::claim(&["azp"], v)),
            key => {
                if let Some(name) = bracketed(key, "request.headers") {
                    out.each(yes, no, true, |v| json!({"header": value::header(name, v, false)}));
                } else if let Some(path) = bracketed(key, "request.auth.claims") {
                    let path: Vec<&str> = path.split("][").collect();
                    out.whole(yes, no, true, |v| value::claim(&path, v));
                }
            }
        }
    }
    out.finish()
}

/// The inside of `PREFIX[...]`.
fn bracketed<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']')
}

/// Whether a `when` key has a meaning here.
pub(crate) fn known_key(key: &str) -> bool {
    matches!(
        key,
        "destination.ip"
            | "destination.port"
            | "connection.sni"
            | "source.ip"
            | "remote.ip"
            | "source.namespace"
            | "source.principal"
            | "source.serviceAccount"
            | "source.trustDomain"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
    ) || bracketed(key, "request.headers").is_some()
        || bracketed(key, "request.auth.claims").is_some()
        || (key.starts_with("experimental.envoy.filters.") && key.ends_with(']'))
}
