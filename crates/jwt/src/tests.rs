use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

/// An issuer with an elliptic key, and the set it publishes.
struct Issuer {
    key: EncodingKey,
    public: Vec<u8>,
    set: String,
}

impl Issuer {
    fn new() -> Self {
        let pair = KeyPair::generate().unwrap();
        let public = pair.der_bytes().to_vec();
        let part = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&public[range]);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": "1", "alg": "ES256", "x": part(1..33), "y": part(33..65)});
        let unusable = json!({"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"});
        let set = json!({"keys": [unusable, key]}).to_string();
        Self { key: EncodingKey::from_ec_der(pair.serialized_der()), public, set }
    }

    fn sign(&self, claims: &Value) -> String {
        let head = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&head, claims, &self.key).unwrap()
    }

    fn provider(&self) -> Provider {
        Provider {
            issuer: ISSUER.into(),
            audiences: Vec::new(),
            keys: KeySet::parse(&self.set).unwrap().into(),
            locations: Location::defaults(),
            forward: false,
            payload_header: None,
            pad_payload: false,
            claim_headers: Vec::new(),
            metadata: "payload".into(),
            space_delimited: vec!["scope".to_owned()],
            skew: 60,
        }
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW + 600, "aud": "shop", "scope": "read write"})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap())])
}

/// A request may come without a token; as Istio asks.
fn optional(providers: Vec<Provider>) -> Policy {
    let one = Requirement::Any(vec![Requirement::Provider(0), Requirement::AllowMissing]);
    Policy { providers, rules: vec![("/".into(), Some(one))], bypass_preflight: true }
}

#[test]
fn a_good_token_is_believed_and_taken_out_of_the_request() {
    let issuer = Issuer::new();
    let mut provider = issuer.provider();
    provider.audiences = vec!["https://shop/".to_owned()];
    provider.payload_header = Some("x-payload".parse().unwrap());
    provider.claim_headers = vec![ClaimHeader { header: "x-sub".parse().unwrap(), claim: vec!["sub".to_owned()] }];
    let policy = optional(vec![provider]);
    let token = issuer.sign(&claims());
    let headers = bearer(&token);
    let changes = policy.check(Parts { headers: &headers, path: "/pay" }, NOW).unwrap();
    assert_eq!(changes.claims["payload"]["sub"], "alice");
    assert_eq!(changes.claims["payload"]["scope"], json!(["read", "write"]));
    assert!(changes.remove.contains(&http::header::AUTHORIZATION));
    let set: Vec<_> = changes.set.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(set, [("x-payload", token.split('.').nth(1).unwrap()), ("x-sub", "alice")]);

    // In the query, and only the token goes.
    let path = format!("/pay?a=1&access_token={token}&b=2");
    let empty = HeaderMap::new();
    let changes = policy.check(Parts { headers: &empty, path: &path }, NOW).unwrap();
    assert_eq!(changes.path.as_deref(), Some("/pay?a=1&b=2"));
}

#[test]
fn headers_that_only_we_may_set_are_taken_from_the_client() {
    let issuer = Issuer::new();
    let mut provider = issuer.provider();
    provider.claim_headers = vec![ClaimHeader { header: "x-sub".parse().unwrap(), claim: vec!["sub".to_owned()] }];
    let headers = HeaderMap::from_iter([("x-sub".parse().unwrap(), HeaderValue::from_static("admin"))]);
    let changes = optional(vec![provider]).check(Parts { headers: &headers, path: "/" }, NOW).unwrap();
    assert_eq!(changes.remove, ["x-sub"]);
    assert!(changes.claims.is_empty());
}

#[test]
fn each_forgery_is_refused_for_its_reason() {
    let issuer = Issuer::new();
    let stranger = Issuer::new();
    let good = issuer.sign(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let forged_payload = BASE64_URL_SAFE_NO_PAD.encode(with(claims(), "sub", json!("admin")).to_string());
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let critical = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","crit":["b64"],"b64":false}"#);
    // The public key as if it were a shared secret.
    let confused = encode(
        &Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) },
        &claims(),
        &EncodingKey::from_secret(&issuer.public),
    )
    .unwrap();
    let other_kid =
        encode(&Header { kid: Some("2".to_owned()), ..Header::new(Algorithm::ES256) }, &claims(), &issuer.key).unwrap();
    let mut provider = issuer.provider();
    provider.audiences = vec!["shop".to_owned()];
    let cases = [
        (stranger.sign(&claims()), TokenError::Forged),
        (format!("{}.{forged_payload}.{}", parts[0], parts[2]), TokenError::Forged),
        (format!("{none}.{}.", parts[1]), TokenError::Algorithm),
        (format!("{critical}.{}.{}", parts[1], parts[2]), TokenError::Header),
        (confused, TokenError::NoKey),
        (other_kid, TokenError::NoKey),
        (issuer.sign(&with(claims(), "exp", json!(NOW - 61))), TokenError::Expired),
        (issuer.sign(&with(claims(), "exp", json!(-1))), TokenError::Expired),
        (issuer.sign(&with(claims(), "exp", json!("tomorrow"))), TokenError::Payload),
        (issuer.sign(&with(claims(), "nbf", json!(NOW + 61))), TokenError::NotYet),
        (issuer.sign(&with(claims(), "aud", json!(["bank"]))), TokenError::Audience),
        (issuer.sign(&with(claims(), "aud", Value::Null)), TokenError::Audience),
        (issuer.sign(&with(claims(), "iss", json!("https://evil.example"))), TokenError::Issuer),
        ("a.b".to_owned(), TokenError::Form),
        ("a.b.c.d".to_owned(), TokenError::Form),
        ("%.%.%".to_owned(), TokenError::Header),
        (format!("{}.%.{}", parts[0], parts[2]), TokenError::Payload),
        ("x".repeat(70_000), TokenError::Form),
    ];
    let policy = optional(vec![provider]);
    for (token, reason) in cases {
        let headers = bearer(&token);
        let verdict = policy.check(Parts { headers: &headers, path: "/" }, NOW);
        assert_eq!(verdict.map(|c| c.claims).unwrap_err(), reason, "{token}");
    }
    // Clocks may differ by a minute.
    let late = bearer(&issuer.sign(&with(claims(), "exp", json!(NOW - 59))));
    assert!(policy.check(Parts { headers: &late, path: "/" }, NOW).is_ok());
}

#[test]
fn several_issuers_and_none() {
    let (one, two) = (Issuer::new(), Issuer::new());
    let mut second = two.provider();
    second.issuer = "second".into();
    let optional = |index| Requirement::Any(vec![Requirement::Provider(index), Requirement::AllowMissing]);
    let any = Requirement::Any(vec![
        Requirement::Provider(0),
        Requirement::Provider(1),
        Requirement::All(vec![optional(0), optional(1)]),
    ]);
    let policy =
        Policy { providers: vec![one.provider(), second], rules: vec![("/".into(), Some(any))], ..Policy::default() };
    let check = |headers: &HeaderMap| policy.check(Parts { headers, path: "/" }, NOW).map(|c| c.claims);
    assert_eq!(check(&bearer(&one.sign(&claims()))).unwrap()["payload"]["iss"], ISSUER);
    assert_eq!(check(&bearer(&two.sign(&with(claims(), "iss", json!("second"))))).unwrap()["payload"]["iss"], "second");
    assert!(check(&HeaderMap::new()).unwrap().is_empty());
    // A stranger's token, and one that claims another's name.
    assert_eq!(check(&bearer(&one.sign(&with(claims(), "iss", json!("x"))))).unwrap_err(), TokenError::Issuer);
    assert_eq!(check(&bearer(&one.sign(&with(claims(), "iss", json!("second"))))).unwrap_err(), TokenError::Forged);
    // Where a token must be there, none is not enough.
    let strict = Policy { rules: vec![("/".into(), Some(Requirement::Provider(0)))], ..policy.clone() };
    assert_eq!(
        strict.check(Parts { headers: &HeaderMap::new(), path: "/" }, NOW).map(|c| c.claims).unwrap_err(),
        TokenError::Missing
    );
}

#[test]
fn tokens_stand_in_headers_cookies_and_parameters_of_choice() {
    let issuer = Issuer::new();
    let token = issuer.sign(&claims());
    let mut provider = issuer.provider();
    provider.locations = vec![
        Location::Header("x-token".parse().unwrap(), "".into()),
        Location::Cookie("session".into()),
        Location::Param("jwt".into()),
    ];
    let policy = optional(vec![provider]);
    let header = |name: &str, value: String| {
        HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::try_from(value).unwrap())])
    };
    let found =
        |headers: &HeaderMap, path: &str| !policy.check(Parts { headers, path }, NOW).unwrap().claims.is_empty();
    assert!(found(&header("x-token", token.clone()), "/"));
    assert!(found(&header("cookie", format!("a=b; session={token}")), "/"));
    assert!(found(&HeaderMap::new(), &format!("/?jwt={token}")));
    assert!(!found(&bearer(&token), "/"), "the default place counts only when no other is named");
}

#[test]
fn key_sets_that_can_verify_nothing_are_refused() {
    for text in ["", "{}", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"RSA\"}]}", "{\"keys\":7}"] {
        assert!(KeySet::parse(text).is_err(), "{text}");
    }
    let shared = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"1"}]}"#;
    let provider = Provider { keys: KeySet::parse(shared).unwrap().into(), ..Issuer::new().provider() };
    let head = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
    let token = encode(&head, &claims(), &EncodingKey::from_secret(b"secret")).unwrap();
    assert!(provider.verify(&token, NOW).is_ok());
}
