//! What happens to traffic when parts of the mesh go away.

use std::time::Duration;

use laptop::status::Request;

use crate::shop::{PATIENCE, Shop, binary, count, report};

fn traffic(shop: &Shop, seconds: u64) -> std::process::Child {
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

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn a_minute_without_istiod_and_a_restarted_pod_fail_no_request() {
    let shop = Shop::up(|_| {});
    let load = traffic(&shop, 80);
    shop.mesh.tell(&Request::RestartIstiod { after_seconds: 60 }).unwrap();
    shop.mesh
        .wait_until("istiod to be back", Duration::from_secs(90), |s| s.istiod.ready && s.istiod.restarts > 0)
        .unwrap();
    shop.mesh.wait_synced(PATIENCE).unwrap();
    let pod = shop.pods("payment-api-v2").remove(0);
    shop.mesh.tell(&Request::DeletePod { namespace: "production".to_owned(), pod }).unwrap();
    shop.mesh.wait_synced(PATIENCE).unwrap();
    let loaded = report(&load.wait_with_output().unwrap());
    assert_eq!(count(&loaded, "/failed"), 0, "{loaded}");
    assert!(count(&loaded, "/ok") > 4000, "{loaded}");
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it; five minutes"]
fn certificates_of_twenty_seconds_rotate_under_traffic() {
    let shop = Shop::up(|options| options.cert_seconds = Some(20));
    let loaded = report(&traffic(&shop, 300).wait_with_output().unwrap());
    assert_eq!(count(&loaded, "/failed"), 0, "{loaded}");
    let rotations = shop.proxy_logs("order-service").lines().filter(|l| l.contains("certificate in force")).count();
    assert!(rotations >= 15, "only {rotations} certificates in five minutes");
}
