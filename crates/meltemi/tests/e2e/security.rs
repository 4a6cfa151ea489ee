//! Who may talk to whom.

use crate::shop::{Shop, count};
use crate::sidecar::passes_over;

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn strict_and_permissive_and_policies_decide_who_talks() {
    let shop = Shop::up(|_| {});
    let legacy = || shop.app("legacy", "deploy/legacy-client", &["get", "http://payment-api.production:8080/pay"]);

    // STRICT, as the seed has it: plain text is refused, the mesh's own calls go on.
    assert!(!legacy().status.success(), "a call without mTLS must be refused under STRICT");
    assert_eq!(count(&shop.load(&["-n", "20"]), "/ok"), 20);

    // The database is for payment-service alone.
    let ask = |who: &str| shop.app("production", who, &["tcp", "database-service:5432", "-d", "select 1"]);
    let allowed = ask("deploy/payment-api-v1");
    assert_eq!(String::from_utf8_lossy(&allowed.stdout), "select 1");
    let denied = ask("deploy/order-service");
    assert!(!denied.status.success() && denied.stdout.is_empty(), "order-service reached the database");
    shop.until("the log to name what decided", || {
        shop.proxy_logs("database-service").contains("rbac_access_denied_matched_policy[none]")
    });

    // PERMISSIVE: both work, and the mesh's own calls are still mTLS.
    shop.write("peer-authentication.yaml", &Shop::strict().replace("STRICT", "PERMISSIVE"));
    shop.until("the legacy call to be let in", || legacy().status.success());
    assert_eq!(count(&shop.load(&["-n", "20"]), "/ok"), 20);
    let pods = shop.pods("payment-api-v1");
    let of = |policy: &str, principal: &str| {
        let metrics: String =
            pods.iter().map(|p| shop.mesh.get("production", p, 15090, "/stats/prometheus").unwrap()).collect();
        metrics.lines().any(|l| {
            l.starts_with("istio_requests_total")
                && l.contains(policy)
                && l.contains(&format!("source_principal=\"{principal}\""))
        })
    };
    if !passes_over("security::metrics") {
        assert!(of("mutual_tls", "spiffe://cluster.local/ns/production/sa/order-service-sa"));
        // The kernel spreads plain calls over all pods; some reach one of these.
        shop.until("a plain call in the metrics", || legacy().status.success() && of("policy=\"none\"", "unknown"));
    }

    // And back: a connection that was let in under the old policy is not served on.
    shop.write("peer-authentication.yaml", &Shop::strict());
    shop.until("the legacy call to be refused again", || !legacy().status.success());
}

/// Denies by path for HTTP, by caller for TCP.
const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: production}
spec:
  selector: {matchLabels: {app: payment-api}}
  action: DENY
  rules:
  - to: [{operation: {paths: [/never]}}]
  - to: [{operation: {paths: [/admin*]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-greeting, namespace: production}
spec:
  selector: {matchLabels: {app: greeter}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/production/sa/order-service-sa]}}]
";

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn the_log_names_the_policy_that_denied() {
    let shop = Shop::with(|_| vec![("deny.yaml".to_owned(), DENY.to_owned())], |_| {});
    let ask = |path: &str, id: &str| {
        let (url, id) = (format!("http://payment-api:8080{path}"), format!("x-request-id: {id}"));
        shop.app("production", "deploy/order-service", &["get", &url, "-H", &id])
    };
    assert!(ask("/pay", "allowed").status.success());
    assert!(!ask("/admin/keys", "denied").status.success());
    let entry = shop.entry("order-service", "denied");
    assert_eq!(entry["response_code"], 403, "{entry}");
    let details = || -> Vec<_> {
        let both = ["payment-api-v1", "payment-api-v2"].iter().flat_map(|pods| shop.entries(pods, "denied"));
        both.map(|entry| entry["response_code_details"].clone()).collect()
    };
    shop.until("the server's log", || !details().is_empty());
    assert_eq!(details(), ["rbac_access_denied_matched_policy[ns[production]-policy[no-admin]-rule[1]]"]);

    if passes_over("security::denied_greeting") {
        return;
    }
    let greeted = shop.app("production", "deploy/order-service", &["tcp", "greeter:7000", "--want", "7"]);
    assert!(!greeted.status.success() && greeted.stdout.is_empty(), "{greeted:?}");
    shop.until("the name of the policy that cut the connection", || {
        let named = "rbac_access_denied_matched_policy[ns[production]-policy[no-greeting]-rule[0]]";
        let log = shop.proxy_logs("greeter");
        let entries = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        entries.into_iter().any(|entry| entry["connection_termination_details"] == named)
    });
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn claims_of_a_client_are_not_believed() {
    let shop = Shop::up(|_| {});
    // A forged identity header does not survive the sidecar.
    let answer = shop.app(
        "production",
        "deploy/order-service",
        &[
            "get",
            "http://payment-api:8080/pay",
            "-H",
            "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/production/sa/admin",
        ],
    );
    let body = String::from_utf8_lossy(&answer.stdout);
    assert!(body.contains("order-service-sa") && !body.contains("sa/admin"), "{body}");
}
