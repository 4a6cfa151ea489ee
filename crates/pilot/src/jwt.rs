//! RequestAuthentication as Envoy's `jwt_authn` filter.

use istio_api::security::{JwtRule, RequestAuthentication};
use mesh::Snapshot;
use serde_json::{Map, Value, json};

/// The filter that checks the tokens of all policies at one workload; none when there are none.
///
/// A request without a token passes (AuthorizationPolicy decides); a request with a token that no provider accepts is
/// refused. Keys come inline: the rule's own, or those that were fetched from its address. Until they have been, a key
/// that signed nothing stands in for them, so every token of that issuer fails, as with Istio.
pub(crate) fn filter<'a>(
    snapshot: &Snapshot,
    policies: impl IntoIterator<Item = &'a RequestAuthentication>,
) -> Option<Value> {
    let rules: Vec<&JwtRule> = policies.into_iter().flat_map(|policy| policy.jwt_rules.iter()).collect();
    if rules.is_empty() {
        return None;
    }
    let mut providers = Map::new();
    let mut checks = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let name = format!("origins-{index}");
        providers.insert(name.clone(), provider(snapshot, rule));
        checks.push(name);
    }
    Some(json!({
        "name": "envoy.filters.http.jwt_authn",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "bypassCorsPreflight": true,
            "providers": providers,
            "rules": [{"match": {"prefix": "/"}, "requires": requirement(&checks)}]
        }
    }))
}

fn requirement(providers: &[String]) -> Value {
    let optional =
        |name: &String| json!({"requiresAny": {"requirements": [{"providerName": name}, {"allowMissing": {}}]}});
    match providers {
        [one] => optional(one),
        many => {
            let mut any: Vec<Value> = many.iter().map(|name| json!({"providerName": name})).collect();
            any.push(json!({"requiresAll": {"requirements": many.iter().map(optional).collect::<Vec<_>>()}}));
            json!({"requiresAny": {"requirements": any}})
        }
    }
}

/// Stands in for keys that are not known: an issuer whose keys are missing must not let anybody in, and Envoy refuses the
/// whole listener for a set without a key. The private half was thrown away when this was made.
const NO_KEYS: &str = "{\"keys\":[{\"kty\":\"RSA\",\"alg\":\"RS256\",\"kid\":\"nobody\",\"e\":\"AQAB\",\"n\":\"\
wtLHvS0_eLsHEMck6llKLHI4v-7A5TN8sVXNf8nvE46QGmbf9OzmAkqnWIOxbOJh8g5q4suyvpXFLRLc5AElZmgSoz\
twwiUZ_OfHjF8Sfm-InLW7w4_tGf6XZfcdjW1uHxy6vJDgLn9tVhgP6u3ygjxc-7VIDbNazC24jJeS9WFDguvEsJ-T\
TyUYQxt5t9X-c8jO6StptIcd3Ri7wCOeZ7xIISholnhm2yZ-RRcXraHeLlDn4RJAcr7OxQtj-732nJ_1l2RXSkh5R6\
KCdaKtePTrwyVuZpm8N1LjU2_WF5ROeFN8S37fgRGfbI31W7_H1zgBc36V5Um_R4bLlhljWw\"}]}";

/// Claims that are lists written as one text, whatever the rule says (Istio's default).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

fn provider(snapshot: &Snapshot, rule: &JwtRule) -> Value {
    let fetched = rule.key_set_uri().and_then(|uri| snapshot.key_set(&uri).map(str::to_owned));
    let own = Some(&rule.jwks).filter(|text| !text.is_empty()).cloned();
    let keys = own.or(fetched).unwrap_or_else(|| NO_KEYS.to_owned());
    let mut spaced: Vec<&str> = SPACE_DELIMITED.to_vec();
    spaced.extend(rule.space_delimited_claims.iter().map(String::as_str).filter(|c| !SPACE_DELIMITED.contains(c)));
    let mut out = json!({
        "forward": rule.forward_original_token,
        "issuer": rule.issuer,
        "localJwks": {"inlineString": keys},
        "normalizePayloadInMetadata": {"spaceDelimitedClaims": spaced},
        "payloadInMetadata": "payload"
    });
    if !rule.audiences.is_empty() {
        out["audiences"] = json!(rule.audiences);
    }
    if !rule.from_headers.is_empty() {
        out["fromHeaders"] = rule
            .from_headers
            .iter()
            .map(|header| {
                if header.prefix.is_empty() {
                    json!({"name": header.name})
                } else {
                    json!({"name": header.name, "valuePrefix": header.prefix})
                }
            })
            .collect();
    }
    if !rule.from_params.is_empty() {
        out["fromParams"] = json!(rule.from_params);
    }
    if !rule.from_cookies.is_empty() {
        out["fromCookies"] = json!(rule.from_cookies);
    }
    if !rule.output_payload_to_header.is_empty() {
        out["forwardPayloadHeader"] = json!(rule.output_payload_to_header);
    }
    if !rule.output_claim_to_headers.is_empty() {
        out["claimToHeaders"] = rule
            .output_claim_to_headers
            .iter()
            .map(|copy| json!({"headerName": copy.header, "claimName": copy.claim}))
            .collect();
    }
    out
}
