//! Policies against the filters that Istio makes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use istio_api::Object;
use istio_api::security::AuthorizationPolicy;
use serde_json::Value;

use super::{Policies, value};

type Policy = Arc<Object<AuthorizationPolicy>>;

fn cases_dir() -> PathBuf {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    shared.join("conformance/authz")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a case names an existing file");
    text.split("\n---")
        .filter(|part| part.lines().any(|line| !line.trim().is_empty() && line.trim() != "---"))
        .map(|part| serde_saphyr::from_str(part).expect("a case is valid YAML"))
        .collect()
}

fn policies(path: &Path) -> Vec<Policy> {
    documents(path)
        .into_iter()
        .map(|document| Arc::new(serde_json::from_value(document).expect("a case is an AuthorizationPolicy")))
        .collect()
}

fn of_action(all: &[Policy], action: &str) -> Vec<Policy> {
    all.iter().filter(|p| p.spec.action.as_deref().unwrap_or("ALLOW") == action).cloned().collect()
}

fn filters(all: &[Policy], trust_domains: &[String], tcp: bool) -> Vec<Value> {
    let [audit, custom, deny, allow] = ["AUDIT", "CUSTOM", "DENY", "ALLOW"].map(|action| of_action(all, action));
    let policies = Policies { audit: &audit, custom: &custom, deny: &deny, allow: &allow };
    if tcp { policies.tcp_filters(trust_domains) } else { policies.http_filters(trust_domains) }
}

#[test]
fn policies_become_the_filters_of_istio() {
    let dir = cases_dir();
    let Ok(index) = std::fs::read_to_string(dir.join("cases.json")) else {
        eprintln!("skipped: {} is not here", dir.display());
        return;
    };
    let cases: Vec<Value> = serde_json::from_str(&index).expect("the index is JSON");
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), Vec::new());
    for case in &cases {
        let text = |key: &str| case[key].as_str().expect("a case has this text").to_owned();
        let name = format!("{}/{}", text("protocol"), text("name"));
        if text("name").starts_with("custom-grpc") || text("name").starts_with("custom-http") {
            skipped.push(name);
            continue;
        }
        let dir = dir.join(text("protocol"));
        let mut domains = vec![text("trust_domain")];
        let aliases = case["trust_domain_aliases"].as_array().cloned().unwrap_or_default();
        domains.extend(aliases.iter().filter_map(|alias| alias.as_str().map(str::to_owned)));
        let got = filters(&policies(&dir.join(text("input"))), &domains, text("protocol") == "tcp");
        let files = case["expected"].as_array().cloned().unwrap_or_default();
        let expected: Vec<Value> =
            files.iter().filter_map(Value::as_str).flat_map(|file| documents(&dir.join(file))).collect();
        if got == expected {
            passed += 1;
        } else {
            for (path, why) in differences(&Value::Array(expected), &Value::Array(got)) {
                eprintln!("{name} {path}: {why}");
            }
            failed.push(name);
        }
    }
    eprintln!("authz: {passed} of {} pass; not built: {skipped:?}; differ: {failed:?}", cases.len());
    assert_eq!(failed, Vec::<String>::new());
}

fn differences(expected: &Value, got: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    walk("", expected, got, &mut out);
    out.truncate(10);
    out
}

fn walk(at: &str, expected: &Value, got: &Value, out: &mut Vec<(String, String)>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = &Value::Null;
                walk(&format!("{at}/{key}"), a.get(key).unwrap_or(null), b.get(key).unwrap_or(null), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{at}/{index}"), a, b, out);
            }
        }
        _ if expected == got => {}
        _ => out.push((at.to_owned(), format!("expected {expected}, got {got}"))),
    }
}

#[test]
fn a_deny_of_http_fields_denies_all_tcp() {
    let policy: Policy = Arc::new(
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "no-get", "namespace": "foo"},
            "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
        }))
        .expect("this is a policy"),
    );
    let made = filters(&[policy], &["cluster.local".to_owned()], true);
    let rules = &made[0]["typedConfig"]["rules"];
    assert_eq!(rules["action"], "DENY");
    let permission = &rules["policies"]["ns[foo]-policy[no-get]-rule[0]"]["permissions"][0];
    assert_eq!(permission["andRules"]["rules"][0]["any"], true);
}

#[test]
fn an_allow_without_rules_lets_nobody_in() {
    let policy: Policy = Arc::new(
        serde_json::from_value(serde_json::json!({"metadata": {"name": "none", "namespace": "foo"}, "spec": {}}))
            .expect("this is a policy"),
    );
    let made = filters(&[policy], &["cluster.local".to_owned()], false);
    assert_eq!(made[0]["typedConfig"]["rules"], serde_json::json!({}));
}

#[test]
fn trust_domains_of_the_mesh_stand_for_each_other() {
    let mesh = ["new".to_owned(), "old".to_owned()];
    let expand = |name| value::expand_trust_domains(name, &mesh);
    assert_eq!(expand("old/ns/a/sa/b"), ["new/ns/a/sa/b", "old/ns/a/sa/b"]);
    assert_eq!(expand("other/ns/a/sa/b"), ["other/ns/a/sa/b"]);
    assert_eq!(expand("*/ns/a/sa/b"), ["*/ns/a/sa/b"]);
    assert_eq!(expand("*"), ["*"]);
}
