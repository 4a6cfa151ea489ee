//! Changes under traffic: good ones are in force at once, bad ones change nothing, none drops a request.

use std::process::Child;

use crate::shop::{Shop, binary, count};

/// Traffic from order-service until the child is waited for.
fn traffic(shop: &Shop, seconds: u64) -> Child {
    let (binary, duration) = (binary(), format!("{seconds}s"));
    let words = [
        binary.to_str().unwrap(),
        "app",
        "get",
        "http://payment-api:8080/pay",
        "--json",
        "--rate",
        "100",
        "-c",
        "8",
        "--duration",
        &duration,
    ];
    shop.mesh.spawn("production", "deploy/order-service", &words).unwrap_or_else(|e| panic!("{e}"))
}

fn finished(child: Child) -> serde_json::Value {
    crate::shop::report(&child.wait_with_output().unwrap())
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn two_hundred_edits_fail_no_request_and_the_last_one_counts() {
    let shop = Shop::up(|_| {});
    let load = traffic(&shop, 60);
    let seed = Shop::traffic();
    let started = std::time::Instant::now();
    for edit in 0..200_u32 {
        let weight = edit % 100;
        shop.write(
            "payment-api.yaml",
            &seed
                .replace("weight: 90", &format!("weight: {}", 100 - weight))
                .replace("weight: 10", &format!("weight: {weight}")),
        );
        // Two hundred in a minute.
        let next = std::time::Duration::from_millis(u64::from(edit + 1) * 290);
        std::thread::sleep(next.saturating_sub(started.elapsed()));
    }
    shop.write("payment-api.yaml", &seed.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100"));
    let loaded = finished(load);
    assert_eq!(count(&loaded, "/failed"), 0, "{loaded}");
    assert!(count(&loaded, "/ok") > 3000, "{loaded}");
    shop.until("the last edit to be in force", || count(&shop.load(&["-n", "50"]), "/versions/v2") == 50);
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn bad_input_is_refused_with_its_place_and_loses_nothing() {
    let shop = Shop::up(|_| {});
    let seed = Shop::traffic();
    let bomb: String = (1..9).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        format!("{text}a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "))
    });
    let cases = [
        ("unknown field", seed.replace("perTryTimeout", "perTryTimeOut"), "did you mean \\\"perTryTimeout\\\""),
        ("weight sum", seed.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 0"), "add up to 0"),
        ("unknown kind", seed.replace("kind: DestinationRule", "kind: DestinationRuler"), "DestinationRuler"),
        ("broken YAML", seed.replace("spec:", "spec: ["), "payment-api.yaml"),
        ("ten megabytes", format!("# {}\n{seed}", "x".repeat(10 << 20)), "the limit is"),
        ("alias bomb", bomb, "payment-api.yaml"),
    ];
    for (name, text, reason) in cases {
        shop.write("payment-api.yaml", &text);
        shop.until(&format!("{name} to be refused"), || {
            let page = shop.mesh.get("", "", 15014, "/debug/problems").unwrap();
            page.contains(reason) && page.contains("\"line\"")
        });
        let canary = shop.load(&["-H", "x-canary-user: true", "-n", "20"]);
        assert_eq!(count(&canary, "/versions/v2"), 20, "{name}: the last good rules stay in force: {canary}");
    }
    shop.write("payment-api.yaml", &seed);
    shop.until("the good file to be taken", || shop.mesh.get("", "", 15014, "/debug/problems").unwrap().trim() == "[]");
}
