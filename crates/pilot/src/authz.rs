//! AuthorizationPolicy as Envoy's RBAC filters, for HTTP and for TCP.
//!
//! CUSTOM needs an external authorizer, which is not built: what it would decide is denied, and `unsupported` says so.

mod rule;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use rule::known_key;

use std::sync::Arc;

use istio_api::Object;
use istio_api::security::AuthorizationPolicy;
use serde_json::{Map, Value, json};

/// The policies in force at one workload, by action, in the order in which they are listed.
pub(crate) struct Policies<'a> {
    /// Logged.
    pub audit: &'a [Arc<Object<AuthorizationPolicy>>],
    /// Decided by somebody else.
    pub custom: &'a [Arc<Object<AuthorizationPolicy>>],
    /// Refused.
    pub deny: &'a [Arc<Object<AuthorizationPolicy>>],
    /// Let in; when there is one, what none of them lets in is refused.
    pub allow: &'a [Arc<Object<AuthorizationPolicy>>],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Audit,
    Custom,
    Deny,
    Allow,
}

impl Policies<'_> {
    /// The HTTP filters, in the order in which they decide.
    pub(crate) fn http_filters(&self, trust_domains: &[String]) -> Vec<Value> {
        self.filters(trust_domains, false)
    }

    /// The network filters, in the order in which they decide.
    pub(crate) fn tcp_filters(&self, trust_domains: &[String]) -> Vec<Value> {
        self.filters(trust_domains, true)
    }

    fn filters(&self, trust_domains: &[String], tcp: bool) -> Vec<Value> {
        [
            filter(self.custom, Action::Custom, trust_domains, tcp),
            filter(self.audit, Action::Audit, trust_domains, tcp),
            filter(self.deny, Action::Deny, trust_domains, tcp),
            filter(self.allow, Action::Allow, trust_domains, tcp),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn filter(
    policies: &[Arc<Object<AuthorizationPolicy>>],
    action: Action,
    trust_domains: &[String],
    tcp: bool,
) -> Option<Value> {
    let (dry, wet): (Vec<_>, Vec<_>) = policies.iter().map(Arc::as_ref).partition(|policy| is_dry_run(policy));
    let enforced = rules(&wet, action, trust_domains, tcp);
    let shadow = rules(&dry, action, trust_domains, tcp);
    if enforced.is_none() && shadow.is_none() {
        return None;
    }
    let kind = if tcp { "network" } else { "http" };
    let mut config = json!({"@type": format!("type.googleapis.com/envoy.extensions.filters.{kind}.rbac.v3.RBAC")});
    let denies_dry = action == Action::Deny && shadow.is_some();
    if let Some(rules) = enforced {
        config["rules"] = rules;
    }
    if let Some(rules) = shadow {
        config["shadowRules"] = rules;
    }
    if action != Action::Custom {
        let prefix = if denies_dry { "istio_dry_run_deny_" } else { "istio_dry_run_allow_" };
        config["shadowRulesStatPrefix"] = json!(prefix);
    }
    if tcp {
        config["statPrefix"] = json!("tcp.");
    }
    Some(json!({"name": format!("envoy.filters.{kind}.rbac"), "typedConfig": config}))
}

/// The rules of all policies of one action; `None` when they would change nothing.
fn rules(
    policies: &[&Object<AuthorizationPolicy>],
    action: Action,
    trust_domains: &[String],
    tcp: bool,
) -> Option<Value> {
    if policies.is_empty() {
        return None;
    }
    let mut out = Map::new();
    for policy in policies {
        let (namespace, name) = (policy.metadata.namespace.as_str(), policy.metadata.name.as_str());
        let target = rule::Target { namespace, trust_domains, tcp, skip_if_http: action != Action::Deny };
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            let Some(body) = rule::policy(rule, &target) else { continue };
            let key = format!("ns[{namespace}]-policy[{name}]-rule[{index}]");
            out.insert(if action == Action::Custom { bad_custom(policy, &key) } else { key }, body);
        }
    }
    // No rule: ALLOW refuses everything, every other action does nothing.
    if out.is_empty() && action != Action::Allow {
        return None;
    }
    let mut rules = json!({});
    match action {
        Action::Allow => {}
        Action::Audit => rules["action"] = json!("LOG"),
        Action::Deny | Action::Custom => rules["action"] = json!("DENY"),
    }
    if !out.is_empty() {
        rules["policies"] = Value::Object(out);
    }
    Some(rules)
}

fn bad_custom(policy: &Object<AuthorizationPolicy>, key: &str) -> String {
    let provider = policy.spec.provider.as_ref().map_or("", |provider| provider.name.as_str());
    format!("istio-ext-authz-{provider}-{key}-deny-due-to-bad-CUSTOM-action")
}

fn is_dry_run(policy: &Object<AuthorizationPolicy>) -> bool {
    policy.metadata.annotations.get("istio.io/dry-run").is_some_and(|value| value == "true")
}
