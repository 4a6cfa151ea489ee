//! Who may talk to whom.

use crate::shop::{Shop, count};

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
    let metrics: String =
        pods.iter().map(|p| shop.mesh.get("production", p, 15090, "/stats/prometheus").unwrap()).collect();
    let of = |policy: &str, principal: &str| {
        metrics.lines().any(|l| {
            l.starts_with("istio_requests_total")
                && l.contains(policy)
                && l.contains(&format!("source_principal=\"{principal}\""))
        })
    };
    assert!(of("mutual_tls", "spiffe://cluster.local/ns/production/sa/order-service-sa"), "{metrics}");
    assert!(of("connection_security_policy=\"none\"", "unknown"), "{metrics}");

    // And back: a connection that was let in under the old policy is not served on.
    shop.write("peer-authentication.yaml", &Shop::strict());
    shop.until("the legacy call to be refused again", || !legacy().status.success());
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
