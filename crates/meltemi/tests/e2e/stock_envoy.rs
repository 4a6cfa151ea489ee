//! Stock Envoy 1.40 as one pod's sidecar: between it and the rest of the mesh there is nothing but xDS and mTLS.

use crate::shop::{PATIENCE, Shop, count, deployment, report, service};
use crate::sidecar::{envoy, passes_over};

const GUEST: &str = "spiffe://cluster.local/ns/production/sa/guest-sa";
const ORDER: &str = "spiffe://cluster.local/ns/production/sa/order-service-sa";

/// A pod whose sidecar is a stock Envoy.
pub fn guest() -> String {
    let http = "--http, \"8080\"";
    let plain = deployment("production", "guest", 1, "guest-sa", "guest", "v1", http);
    let labels = "labels: {app: guest, version: v1}}\n    spec:";
    assert!(plain.contains(labels));
    let annotated = format!(
        "labels: {{app: guest, version: v1}}, annotations: {{meltemi.dev/envoy: {}}}}}\n    spec:",
        envoy().display()
    );
    plain.replace(labels, &annotated) + &service("guest", 8080, "http")
}

fn from_guest(shop: &Shop, words: &[&str]) -> serde_json::Value {
    let mut all = vec!["get", "http://payment-api:8080/pay", "--json"];
    all.extend(words);
    report(&shop.app("production", "deploy/guest", &all))
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn a_stock_envoy_is_a_sidecar_like_any_other() {
    if passes_over("stock_envoy::a_stock_envoy_is_a_sidecar_like_any_other") {
        return;
    }
    let files = |_: &std::path::Path| vec![("guest.yaml".to_owned(), guest())];
    // Coming up means that istiod calls every proxy SYNCED.
    let shop = Shop::with(files, |options| options.cert_seconds = Some(20));
    let pod = shop.pods("guest").remove(0);
    let info = shop.page(&pod, 15000, "/server_info");
    assert!(info.contains("/1.40.") && info.contains("LIVE"), "{info}");
    let first_certificate = shop.page(&pod, 15000, "/certs");
    assert!(first_certificate.contains(GUEST), "{first_certificate}");

    client(&shop);
    server(&shop, &pod);

    // An edit of the routes under traffic.
    let seed = Shop::traffic();
    let binary = crate::shop::binary();
    let words =
        [binary.to_str().unwrap(), "app", "get", "http://payment-api:8080/pay", "--json", "--rate", "50", "-n", "400"];
    let load = shop.mesh.spawn("production", "deploy/guest", &words).unwrap();
    shop.write("payment-api.yaml", &seed.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100"));
    shop.until("the edit to be in force", || count(&from_guest(&shop, &["-n", "50"]), "/versions/v2") == 50);
    let loaded = report(&load.wait_with_output().unwrap());
    assert_eq!((count(&loaded, "/ok"), count(&loaded, "/failed")), (400, 0), "{loaded}");

    // Certificates of 20 s: the agent has pushed another one by now, or does soon, and traffic goes on.
    let serial = |page: &str| {
        let page: serde_json::Value = serde_json::from_str(page).unwrap();
        page.pointer("/certificates/0/cert_chain/0/serial_number").cloned()
    };
    shop.until("another certificate", || serial(&shop.page(&pod, 15000, "/certs")) != serial(&first_certificate));
    let after = from_guest(&shop, &["-n", "50", "--fresh"]);
    assert_eq!(count(&after, "/ok"), 50, "{after}");
    shop.mesh.wait_synced(PATIENCE).unwrap();
    assert!(!shop.mesh.istiod_log().contains("refused the configuration"), "{}", shop.mesh.istiod_log());
    pages(&shop, &pod);
}

/// It routes as the seed says, with mTLS to our sidecars, which see who it is.
fn client(shop: &Shop) {
    let canary = from_guest(shop, &["-H", "x-canary-user: true", "-n", "100", "-c", "4"]);
    assert_eq!(count(&canary, "/versions/v2"), 100, "{canary}");
    let split = from_guest(shop, &["-n", "3000", "-c", "8"]);
    let v2 = count(&split, "/versions/v2");
    assert_eq!(count(&split, "/ok"), 3000, "{split}");
    assert!((230..=370).contains(&v2), "{v2} of 3000 reached v2");
    let metrics: String =
        shop.pods("payment-api-v1").iter().map(|pod| shop.page(pod, 15090, "/stats/prometheus")).collect();
    let seen = |line: &str| {
        line.starts_with("istio_requests_total")
            && line.contains("connection_security_policy=\"mutual_tls\"")
            && line.contains(&format!("source_principal=\"{GUEST}\""))
    };
    assert!(metrics.lines().any(seen), "{metrics}");
    shop.until("its access log", || shop.proxy_logs("guest").contains("outbound|8080|v2|payment-api.production"));
}

/// Our sidecars reach it by mTLS, it knows who calls, and plain text is refused.
fn server(shop: &Shop, pod: &str) {
    let answer = shop.app("production", "deploy/order-service", &["get", "http://guest:8080/"]);
    let body = String::from_utf8_lossy(&answer.stdout);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert!(body.contains(&format!("URI={ORDER}")), "Envoy tells the application who called: {body}");
    let caller = shop.pods("order-service").remove(0);
    let metrics = shop.page(&caller, 15090, "/stats/prometheus");
    let seen = |line: &str| {
        line.starts_with("istio_requests_total") && line.contains(&format!("destination_principal=\"{GUEST}\""))
    };
    assert!(metrics.lines().any(seen), "{metrics}");
    let legacy = shop.app("legacy", "deploy/legacy-client", &["get", "http://guest.production:8080/"]);
    assert!(!legacy.status.success(), "plain text must be refused under STRICT: {}", shop.proxy_logs(pod));
}

/// The pod's ports are those of any sidecar.
fn pages(shop: &Shop, pod: &str) {
    assert!(shop.page(pod, 15090, "/stats/prometheus").contains("envoy_cluster_upstream_rq"));
    assert!(shop.page(pod, 15020, "/stats/prometheus").contains("envoy_cluster_upstream_rq"));
    assert!(shop.page(pod, 15000, "/listeners").contains("virtualInbound"));
    let asked = shop.mesh.exec("production", pod, &["pilot-agent", "request", "GET", "/clusters"]).unwrap();
    assert!(String::from_utf8_lossy(&asked.stdout).contains("outbound|8080|v1|payment-api.production"), "{asked:?}");
}
