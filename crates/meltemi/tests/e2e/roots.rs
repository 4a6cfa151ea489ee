//! The mesh's own root is renewed under traffic: pods old and new, ours and a stock Envoy's, speak with each other all the
//! time, and in the end nobody trusts the former root.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use laptop::status::Request;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use serde_json::Value;

use crate::shop::{PATIENCE, Shop, count, report};
use crate::stock_envoy::guest;

/// Life of a workload's certificate, in seconds: that long former roots are trusted.
const LIFE: u64 = 12;
/// Where a pod has the roots.
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
/// No connection serves two requests, so that each is a handshake.
const HANDSHAKES: &str = r#"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: guest, namespace: production}
spec:
  host: guest
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"#;

/// Who calls whom: ours ours, a stock Envoy ours, ours a stock Envoy.
const CALLS: [(&str, &str); 3] = [
    ("deploy/order-service", "http://payment-api:8080/pay"),
    ("deploy/guest", "http://payment-api:8080/pay"),
    ("deploy/order-service", "http://guest:8080/"),
];

fn certificates(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

/// A certificate of the same name and key that is about to end. Time cannot be turned on to the last days of a root of
/// ten years: istiod finds this one in its place.
fn ending(key: &str) -> String {
    let key = KeyPair::from_pem(key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(60)).into();
    params.self_signed(&key).unwrap().pem()
}

/// Calls until `done`; how many requests were made, and what failed.
fn calls(shop: &Shop, from: &str, url: &str, done: &AtomicBool) -> (u64, Vec<Value>) {
    let (mut made, mut wrong) = (0, Vec::new());
    while !done.load(Relaxed) {
        let words = ["get", url, "--json", "--fresh", "--rate", "30", "-c", "2", "--duration", "3s"];
        let done = report(&shop.app("production", from, &words));
        made += count(&done, "/ok");
        if count(&done, "/failed") > 0 || count(&done, "/ok") == 0 {
            wrong.push(done);
        }
    }
    (made, wrong)
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn the_root_is_renewed_under_traffic_and_nothing_fails() {
    let files = |_: &std::path::Path| vec![("guest.yaml".to_owned(), guest() + "---" + HANDSHAKES)];
    let shop = Shop::with(files, |options| {
        options.cert_seconds = Some(LIFE);
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        options.istiod_env =
            vec![set("ROOT_SPREAD_SECONDS", "4"), set("CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL", "1s")];
    });
    let (traffic, limit) = (Shop::traffic(), "        http1MaxPendingRequests: 100\n");
    assert!(traffic.contains(limit));
    shop.write("payment-api.yaml", &traffic.replace(limit, &format!("{limit}        maxRequestsPerConnection: 1\n")));
    shop.mesh.wait_synced(PATIENCE).unwrap();

    let folder = shop.mesh.state().ca();
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let first = file("root-cert.pem");
    assert_eq!(certificates(&first), 1);
    let trusted = |target: &str| {
        let read = shop.mesh.exec("production", target, &["cat", ROOTS]).unwrap();
        String::from_utf8_lossy(&read.stdout).into_owned()
    };
    let roll = |workload: &str| {
        let old = shop.pods(workload);
        let roll = Request::Roll { namespace: "production".to_owned(), workload: workload.to_owned() };
        shop.mesh.tell(&roll).unwrap();
        let new = |s: &laptop::status::Status| {
            let mine: Vec<_> = s.pods.iter().filter(|p| p.workload == workload && p.phase != "Terminating").collect();
            mine.len() == old.len() && mine.iter().all(|p| p.ready && !old.contains(&p.name))
        };
        shop.mesh.wait_until("new pods", PATIENCE, new).unwrap();
    };

    let done = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        let loads = CALLS.map(|(from, url)| {
            let (shop, done) = (&shop, &done);
            scope.spawn(move || calls(shop, from, url, done))
        });
        let renewal = scope.spawn(|| {
            std::fs::write(folder.join("ca-cert.pem"), ending(&file("ca-key.pem"))).unwrap();
            let both = |pem: &str| certificates(pem) == 2 && pem.contains(first.trim());
            shop.until("both roots in every pod", || {
                ["deploy/order-service", "deploy/guest", "deploy/payment-api-v1"].iter().all(|t| both(&trusted(t)))
            });
            roll("payment-api-v1");
            shop.until("the new one to sign", || shop.mesh.istiod_log().contains("another authority signs"));
            roll("payment-api-v2");
            shop.until("the former one to be forgotten", || {
                let pods = ["deploy/order-service", "deploy/guest", "deploy/payment-api-v1", "deploy/payment-api-v2"];
                pods.iter().all(|t| certificates(&trusted(t)) == 1 && !trusted(t).contains(first.trim()))
            });
            // Envoy has been told too.
            let guest = shop.pods("guest").remove(0);
            shop.until("Envoy to trust one root", || {
                let page: Value = serde_json::from_str(&shop.page(&guest, 15000, "/certs")).unwrap();
                let all = page["certificates"].as_array().into_iter().flatten();
                let counts: Vec<usize> = all.filter_map(|c| Some(c["ca_cert"].as_array()?.len())).collect();
                !counts.is_empty() && counts.iter().all(|n| *n <= 1)
            });
        });
        let renewed = renewal.join();
        done.store(true, Relaxed);
        let results = loads.map(|load| load.join().unwrap());
        renewed.unwrap();
        results
    });
    for ((from, url), (made, wrong)) in CALLS.iter().zip(results) {
        eprintln!("{from} to {url}: {made} requests, each over a connection of its own");
        assert!(made > 200 && wrong.is_empty(), "{from} to {url}: {made}, {wrong:#?}\n{}", shop.mesh.istiod_log());
    }
    let last = file("root-cert.pem");
    assert!(certificates(&last) == 1 && !last.contains(first.trim()), "{last}");
}
