//! What the policies of security.istio.io have in common, and RequestAuthentication.

use serde_json::Value;

use super::FieldError;
use crate::security::{AuthorizationPolicy, RequestAuthentication, Selector};

/// Adds a mistake.
pub(super) fn no(found: &mut Vec<FieldError>, pointer: impl AsRef<str>, message: impl Into<String>) {
    found.push(FieldError::new(pointer.as_ref(), message));
}

/// A selector's labels.
pub(super) fn selector(selector: Option<&Selector>, found: &mut Vec<FieldError>) {
    for (key, value) in selector.iter().flat_map(|s| &s.match_labels) {
        let at = "/spec/selector/matchLabels";
        if key.is_empty() {
            no(found, at, "a label needs a name");
        }
        if key.contains('*') || value.contains('*') {
            no(found, at, "a selector knows no wildcards; write the labels out");
        }
    }
}

/// Whom a policy is for, when it says so by reference.
pub(super) fn targets(selector: bool, single: Option<&Value>, several: &[Value], found: &mut Vec<FieldError>) {
    let given = [selector, single.is_some(), !several.is_empty()].into_iter().filter(|g| *g).count();
    if given > 1 {
        no(found, "/spec", "only one of selector, targetRef and targetRefs can be set");
    }
    let all = single.map(|r| ("/spec/targetRef".to_owned(), r)).into_iter();
    let listed = several.iter().enumerate().map(|(i, r)| (format!("/spec/targetRefs/{i}"), r));
    for (at, target) in all.chain(listed) {
        let text = |field: &str| target.get(field).and_then(Value::as_str).unwrap_or_default();
        for field in ["kind", "name"] {
            if text(field).is_empty() {
                no(found, format!("{at}/{field}"), format!("a target needs a {field}"));
            }
        }
        if !text("kind").chars().all(|c| c.is_ascii_alphanumeric()) {
            no(found, format!("{at}/kind"), format!("\"{}\" is no kind", text("kind")));
        }
        if !text("group").chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-') {
            no(found, format!("{at}/group"), format!("\"{}\" is no API group", text("group")));
        }
        if !text("namespace").is_empty() {
            no(found, format!("{at}/namespace"), "a target is in the policy's own namespace; remove the field");
        }
    }
}

/// What AuthorizationPolicy cannot say with types.
pub(super) fn authorization(spec: &AuthorizationPolicy, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    targets(spec.selector.is_some(), spec.target_ref.as_ref(), &spec.target_refs, found);
    for (i, rule) in spec.rules.iter().enumerate() {
        for (j, from) in rule.from.iter().flatten().enumerate() {
            let Some(source) = &from.source else { continue };
            let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
            let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
            if accounts && others.iter().any(|o| !o.is_empty()) {
                let at = format!("/spec/rules/{i}/from/{j}/source");
                no(found, at, "serviceAccounts cannot stand beside principals or namespaces; write two sources");
            }
            for (field, blocks) in [
                ("ipBlocks", &source.ip_blocks),
                ("notIpBlocks", &source.not_ip_blocks),
                ("remoteIpBlocks", &source.remote_ip_blocks),
                ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
            ] {
                for (k, block) in blocks.iter().enumerate().filter(|(_, b)| !is_block(b)) {
                    let at = format!("/spec/rules/{i}/from/{j}/source/{field}/{k}");
                    no(found, at, format!("\"{block}\" is neither an IP address nor a CIDR"));
                }
            }
        }
    }
}

fn is_block(text: &str) -> bool {
    let (ip, prefix) = text.split_once('/').unwrap_or((text, "0"));
    let most = if ip.contains(':') { 128 } else { 32 };
    ip.parse::<std::net::IpAddr>().is_ok() && prefix.parse::<u8>().is_ok_and(|p| p <= most)
}

/// RequestAuthentication.
pub(super) fn request_authentication(spec: &RequestAuthentication, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    targets(spec.selector.is_some(), spec.target_ref.as_ref(), &spec.target_refs, found);
    for (i, rule) in spec.jwt_rules.iter().enumerate() {
        let at = format!("/spec/jwtRules/{i}");
        if rule.issuer.is_empty() {
            no(found, format!("{at}/issuer"), "a JWT rule needs an issuer");
        }
        for (field, all) in [
            ("audiences", &rule.audiences),
            ("fromParams", &rule.from_params),
            ("fromCookies", &rule.from_cookies),
            ("spaceDelimitedClaims", &rule.space_delimited_claims),
        ] {
            for (j, _) in all.iter().enumerate().filter(|(_, v)| v.is_empty()) {
                no(found, format!("{at}/{field}/{j}"), "this cannot be empty");
            }
        }
        let uri = &rule.jwks_uri;
        if !uri.is_empty() && !uri.starts_with("https://") && !uri.starts_with("http://") {
            no(found, format!("{at}/jwksUri"), format!("\"{uri}\" is no http or https address"));
        }
        if !uri.is_empty() && !rule.jwks.is_empty() {
            no(found, &at, "only one of jwks and jwksUri can be set");
        }
        for (j, _) in rule.from_headers.iter().enumerate().filter(|(_, h)| h.name.is_empty()) {
            no(found, format!("{at}/fromHeaders/{j}/name"), "a header needs a name");
        }
        for (j, output) in rule.output_claim_to_headers.iter().enumerate() {
            let at = format!("{at}/outputClaimToHeaders/{j}");
            if output.claim.is_empty() {
                no(found, format!("{at}/claim"), "a claim needs a name");
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if output.header.is_empty() || !output.header.chars().all(fits) {
                no(found, format!("{at}/header"), format!("\"{}\" is no header name", output.header));
            }
        }
    }
}
