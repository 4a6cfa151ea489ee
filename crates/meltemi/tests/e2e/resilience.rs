//! Retries and time limits as the seed has them: three more tries after a 5xx, a reset or a failed connection.

use serde_json::Value;

use crate::shop::{Shop, deployment, service};

/// One request with a header that makes the application misbehave; what the caller's sidecar logged of it.
fn ask(shop: &Shop, id: &str, trouble: &str) -> Value {
    let id_header = format!("x-request-id: {id}");
    let done = shop.app(
        "production",
        "deploy/order-service",
        &["get", "http://payment-api:8080/pay", "-H", trouble, "-H", &id_header],
    );
    assert!(!done.status.success(), "{id}: {}", String::from_utf8_lossy(&done.stdout));
    shop.entry("order-service", id)
}

/// How often the application was tried, as the sidecars before it saw it.
fn tries(shop: &Shop, id: &str) -> usize {
    ["payment-api-v1", "payment-api-v2"].iter().map(|pods| shop.entries(pods, id).len()).sum()
}

/// Waits for the tries and makes sure that no more come.
fn assert_tries(shop: &Shop, id: &str, expected: usize) {
    shop.until(&format!("{expected} tries of {id}"), || tries(shop, id) >= expected);
    // Good answers in between, so that no pod is ejected for five failures in a row.
    assert_eq!(shop.load(&["-n", "60"])["failed"], 0);
    assert_eq!(tries(shop, id), expected);
}

fn has(entry: &Value, key: &str, part: &str) -> bool {
    entry[key].as_str().is_some_and(|text| text.contains(part))
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn failures_are_tried_three_more_times_and_the_log_says_why() {
    let files = |_: &std::path::Path| vec![("gone.yaml".to_owned(), gone())];
    let shop = Shop::with(files, |_| {});

    let failed = ask(&shop, "all-503", "x-app-status: 503");
    assert_eq!((&failed["response_code"], &failed["response_flags"]), (&503.into(), &"URX".into()), "{failed}");
    assert!(has(&failed, "response_code_details", "via_upstream"), "{failed}");
    assert_tries(&shop, "all-503", 4);

    // The application cuts the request off: its own sidecar logs it, the caller sees failures until it gives up. The port is
    // also that of a gRPC service, so its requests go over HTTP/2 and end by a reset of the stream: UR, not UC.
    let reset = ask(&shop, "all-reset", "x-app-reset: true");
    assert!(reset["response_code"] == 503 && has(&reset, "response_flags", "URX"), "{reset}");
    assert_tries(&shop, "all-reset", 4);
    let seen: Vec<Value> =
        ["payment-api-v1", "payment-api-v2"].iter().flat_map(|p| shop.entries(p, "all-reset")).collect();
    assert!(seen.iter().all(|entry| has(entry, "response_flags", "UR")), "{seen:?}");

    connect_failure(&shop);
    limits(&shop);
}

/// A pod without sidecar that runs, but does not listen.
fn gone() -> String {
    let http = "--http, \"9999\"";
    let pod = deployment("legacy", "gone", 1, "default", "gone", "v1", http);
    let service = service("gone", 8080, "http").replace("namespace: production", "namespace: legacy");
    let rule = "---\napiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata: {name: gone, namespace: legacy}\n\
        spec:\n  hosts: [gone]\n  http:\n  - route: [{destination: {host: gone}}]\n    \
        retries: {attempts: 3, perTryTimeout: 5s, retryOn: \"5xx,reset,connect-failure\"}\n    timeout: 30s\n";
    pod + &service + rule
}

fn connect_failure(shop: &Shop) {
    let id = "x-request-id: nobody-listens";
    let done = shop.app("production", "deploy/order-service", &["get", "http://gone.legacy:8080/", "-H", id]);
    assert!(!done.status.success());
    let entry = shop.entry("order-service", "nobody-listens");
    assert!(entry["response_code"] == 503 && has(&entry, "response_flags", "UF"), "{entry}");
    assert!(has(&entry, "response_flags", "URX"), "{entry}");
    let caller = shop.pods("order-service").remove(0);
    let failures = shop.page(&caller, 15000, "/clusters");
    let failures =
        failures.lines().find(|l| l.starts_with("outbound|8080||gone.legacy") && l.contains("cx_connect_fail"));
    assert!(failures.is_some_and(|l| l.ends_with("::4")), "{failures:?}");
}

/// The seed's rules with a fifth of its times: each try is cut at 1 s, and all of them together.
fn limits(shop: &Shop) {
    let shorter = Shop::traffic().replace("perTryTimeout: 5s", "perTryTimeout: 1s");
    // Four tries fit into the limit of 30 s.
    shop.write("payment-api.yaml", &shorter);
    in_force(shop, "\"1s\"");
    let tried = ask(shop, "each-try-is-cut", "x-app-delay: 6s");
    assert_eq!(tried["response_code"], 504, "{tried}");
    assert!(has(&tried, "response_flags", "UT") && has(&tried, "response_flags", "URX"), "{tried}");
    assert!(has(&tried, "response_code_details", "per_try_timeout"), "{tried}");
    assert_tries(shop, "each-try-is-cut", 4);
    // The fourth does not fit into 3 s.
    shop.write("payment-api.yaml", &shorter.replace("timeout: 30s", "timeout: 3s"));
    in_force(shop, "\"3s\"");
    let cut = ask(shop, "the-whole-is-cut", "x-app-delay: 6s");
    assert_eq!((&cut["response_code"], &cut["response_flags"]), (&504.into(), &"UT".into()), "{cut}");
    assert!(has(&cut, "response_code_details", "response_timeout"), "{cut}");
    assert_tries(shop, "the-whole-is-cut", 3);
}

/// Waits until the caller's sidecar has a route with this time in it.
fn in_force(shop: &Shop, time: &str) {
    let caller = shop.pods("order-service").remove(0);
    shop.until(&format!("{time} in a route"), || {
        let dump: Value = serde_json::from_str(&shop.page(&caller, 15000, "/config_dump")).unwrap();
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        configs.iter().any(|c| {
            c["@type"].as_str().is_some_and(|t| t.contains("RoutesConfigDump")) && c.to_string().contains(time)
        })
    });
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn the_seeds_own_limit_of_five_seconds_cuts_every_try() {
    let shop = Shop::up(|_| {});
    let entry = ask(&shop, "five-seconds", "x-app-delay: 6s");
    assert_eq!(entry["response_code"], 504, "{entry}");
    assert!(has(&entry, "response_flags", "UT") && has(&entry, "response_flags", "URX"), "{entry}");
    // Four tries of 5 s, and an end before the whole's 30 s: lower bounds hold however slow the machine is.
    assert!(entry["duration"].as_u64().is_some_and(|ms| ms >= 20_000), "{entry}");
    assert_tries(&shop, "five-seconds", 4);
}
