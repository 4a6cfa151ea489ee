//! Tokens of end users: RequestAuthentication checks them, AuthorizationPolicy asks for them.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::shop::{PATIENCE, Shop};
use crate::sidecar;

const ISSUER: &str = "https://issuer.example";
/// The page /open needs none; the rest needs a token of the group "buyers".
const RULES: &str = r#"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  jwtRules:
  - issuer: https://issuer.example
    jwks: '{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"1"}]}'
    outputClaimToHeaders: [{header: x-user, claim: sub}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: buyers, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  rules:
  - to: [{operation: {paths: [/open]}}]
  - from: [{source: {requestPrincipals: ["https://issuer.example/*"]}}]
    when: [{key: "request.auth.claims[groups]", values: [buyers]}]
"#;

fn token(secret: &[u8], claims: &Value) -> String {
    let head = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
    encode(&head, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn claims(groups: &[&str], until: u64) -> Value {
    json!({"iss": ISSUER, "sub": "alice", "groups": groups, "exp": until})
}

/// Status and body of one call with these headers.
fn call(shop: &Shop, path: &str, headers: &[String]) -> (String, String) {
    let url = format!("http://payment-api:8080{path}");
    let mut words = vec!["get", url.as_str(), "-i"];
    for header in headers {
        words.extend(["-H", header.as_str()]);
    }
    let done = shop.app("production", "deploy/order-service", &words);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    (text.lines().next().unwrap_or_default().to_owned(), text)
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn requests_need_a_token_that_holds_and_says_enough() {
    let shop = Shop::up(|_| {});
    shop.write("tokens.yaml", RULES);
    let status = |headers: &[String]| call(&shop, "/pay", headers).0;
    shop.until("the rules to be in force", || status(&[]).contains("403"));
    // In one pod; the others have them when they have acknowledged them.
    shop.mesh.wait_synced(PATIENCE).unwrap();
    sidecar::old_rules_are_gone(&shop, &["payment-api-v1", "payment-api-v2"]);

    let far = 4_000_000_000;
    let bearer = |secret: &[u8], claims: &Value| vec![format!("authorization: Bearer {}", token(secret, claims))];
    let good = bearer(b"secret", &claims(&["buyers", "others"], far));
    let (line, body) = call(&shop, "/pay", &good);
    assert!(line.contains("200"), "{body}");
    // The application sees who it is, and not the token.
    let seen = body.to_lowercase();
    assert!(seen.contains("\"x-user\":\"alice\"") && !seen.contains("authorization"), "{body}");
    // A claim of the client's own making does not pass for one.
    let (_, forged) = call(&shop, "/open", &["x-user: admin".to_owned()]);
    assert!(!forged.contains("admin"), "{forged}");

    let refused = [
        ("another group", bearer(b"secret", &claims(&["sellers"], far)), "403", "RBAC: access denied"),
        ("expired", bearer(b"secret", &claims(&["buyers"], 1_000_000_000)), "401", "Jwt is expired"),
        ("another key", bearer(b"guess", &claims(&["buyers"], far)), "401", "Jwt verification fails"),
        ("garbage", vec!["authorization: Bearer a.b".to_owned()], "401", "Jwt is not in the form"),
    ];
    for (what, headers, code, reason) in refused {
        let (line, body) = call(&shop, "/pay", &headers);
        assert!(line.contains(code) && body.contains(reason), "{what}: {body}");
    }
    // Without a token the open page answers; with a bad one nothing does.
    assert!(call(&shop, "/open", &[]).0.contains("200"));
    assert!(call(&shop, "/open", &bearer(b"guess", &claims(&["buyers"], far))).0.contains("401"));
    shop.until("the log to name the reason", || {
        shop.proxy_logs("payment-api-v1").contains("jwt_authn_access_denied{Jwt_is_expired}")
            || shop.proxy_logs("payment-api-v2").contains("jwt_authn_access_denied{Jwt_is_expired}")
    });
}
