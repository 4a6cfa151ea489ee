//! The seed's traffic rules.

use crate::shop::{Shop, count, report};
use crate::sidecar::passes_over;

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn canary_retries_timeouts_and_ejection_follow_the_seed() {
    let shop = Shop::up(|_| {});

    let canary = shop.load(&["-H", "x-canary-user: true", "-n", "300", "-c", "8"]);
    assert_eq!(count(&canary, "/versions/v2"), 300, "{canary}");
    let split = shop.load(&["-n", "10000", "-c", "16"]);
    assert_eq!(count(&split, "/ok"), 10_000, "{split}");
    let v2 = count(&split, "/versions/v2");
    assert!((900..=1100).contains(&v2), "{v2} of 10000 reached v2");

    // Each of the two pods fails this request once: the third try succeeds.
    let retried = shop.app(
        "production",
        "deploy/order-service",
        &["get", "http://payment-api:8080/pay", "-H", "x-app-fail-first: 1", "-H", "x-request-id: retry-me", "-i"],
    );
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let body = String::from_utf8_lossy(&retried.stdout).to_lowercase();
    assert!(body.contains("\"x-envoy-attempt-count\":\"3\""), "{body}");

    // All tries fail: the last answer, and the log says that retries are exhausted.
    let failed = shop.app(
        "production",
        "deploy/order-service",
        &["get", "http://payment-api:8080/pay", "-H", "x-app-status: 503", "-H", "x-request-id: always-fails"],
    );
    assert!(!failed.status.success());
    shop.until("the log of the failed request", || {
        shop.proxy_logs("order-service")
            .lines()
            .any(|l| l.contains("always-fails") && l.contains("\"response_flags\":\"URX\""))
    });

    ejection(&shop);
    server_first(&shop);
}

/// A pod that answers five times 5xx in a row gets nothing more, and no more than half of the pods are put aside.
fn ejection(shop: &Shop) {
    let victims = shop.pods("payment-api-v2");
    let break_it = |pod: &str, status: u16| {
        let url = format!("http://127.0.0.1:8080/fail?status={status}");
        let done = shop.app("production", pod, &["get", &url, "-X", "POST"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let began = std::time::Instant::now();
    break_it(&victims[0], 500);
    shop.load(&["-H", "x-canary-user: true", "-n", "40", "-c", "1"]);
    let after = shop.load(&["-H", "x-canary-user: true", "-n", "100", "-c", "4"]);
    assert_eq!(count(&after, "/pods").max(count(&after, &format!("/pods/{}", victims[0]))), 0, "{after}");
    assert_eq!(count(&after, "/ok"), 100, "{after}");
    // The second is as bad, but one of two is out already.
    break_it(&victims[1], 500);
    let both = shop.load(&["-H", "x-canary-user: true", "-n", "30", "-c", "1"]);
    assert_eq!(count(&both, &format!("/pods/{}", victims[0])), 0, "{both}");
    assert_eq!(count(&both, "/statuses/500"), 30, "the second pod still gets everything: {both}");
    for victim in &victims {
        break_it(victim, 0);
    }
    // Requests go on all the time: none reaches the pod while its sidecar's peers call it ejected, and it comes back.
    let caller = shop.pods("order-service").remove(0);
    let address = shop.mesh.pod("production", &victims[0]).unwrap().ip.unwrap();
    let line = format!("outbound|8080|v2|payment-api.production.svc.cluster.local::{address}:8080::health_flags::");
    let ejected = || {
        let page = shop.page(&caller, 15000, "/clusters");
        let flags = page.lines().find_map(|l| l.strip_prefix(&line).map(str::to_owned));
        flags.is_some_and(|flags| flags.contains("failed_outlier_check"))
    };
    assert!(ejected(), "{}", shop.page(&caller, 15000, "/clusters"));
    let mut quiet = 0;
    loop {
        let now = shop.load(&["-H", "x-canary-user: true", "-n", "20", "-c", "1"]);
        let share = count(&now, &format!("/pods/{}", victims[0]));
        if ejected() {
            assert_eq!(share, 0, "{now}");
            quiet += count(&now, "/ok");
        } else if share > 0 {
            break;
        }
        assert!(began.elapsed() < 2 * crate::shop::PATIENCE, "the ejected pod does not come back");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(quiet > 100, "only {quiet} requests were seen to go elsewhere");
    // A lower bound, which a slow machine only makes truer: it was out for the base ejection time at least.
    assert!(began.elapsed().as_secs() >= 30, "back after {:?}", began.elapsed());
}

/// A protocol in which the server speaks first does not hang on a port whose protocol is not declared.
fn server_first(shop: &Shop) {
    if passes_over("routing::server_first") {
        return;
    }
    let said = shop.app("production", "deploy/order-service", &["tcp", "greeter:7000", "--want", "7"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "welcome", "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn http2_and_grpc_take_the_same_rules() {
    let shop = Shop::up(|_| {});
    let ask = |url: &str, kind: &str| {
        let words = ["get", url, "--json", kind, "-H", "x-canary-user: true", "-n", "100", "-c", "4"];
        report(&shop.app("production", "deploy/order-service", &words))
    };
    let http2 = ask("http://payment-api:8080/pay", "--h2");
    assert_eq!((count(&http2, "/ok"), count(&http2, "/versions/v2")), (100, 100), "{http2}");
    // Status and trailers arrive over a port that is declared as gRPC.
    let grpc = ask("http://ledger:9000/pay", "--grpc");
    assert_eq!(count(&grpc, "/ok"), 100, "{grpc}");
}
