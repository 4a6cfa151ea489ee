//! istioctl's commands on a laptop mesh: from outside through its control socket, from inside over xDS.

use std::process::{Command, Output};

use serde_json::Value;

use crate::shop::{Shop, binary};

/// Runs istioctl inside a pod.
fn inside(shop: &Shop, words: &[&str]) -> Output {
    let binary = binary();
    let mut command = vec![binary.to_str().unwrap(), "istioctl"];
    command.extend(words);
    shop.mesh.exec("production", "deploy/order-service", &command).unwrap_or_else(|e| panic!("{e}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn istiod_answers_tools_over_xds_only_what_they_may_know() {
    let shop = Shop::up(|_| {});
    let pod = shop.pods("order-service").remove(0);
    let own = format!("{pod}.production");
    let ask = |page: &str, more: &[&str]| {
        let mut words = vec!["x", "internal-debug", page];
        words.extend(more);
        inside(&shop, &words)
    };
    let secure = ["--xds-address", "istiod.istio-system.svc:15012"];
    // A workload sees its own namespace's proxies.
    let dump = ask(&format!("config_dump?proxyID={own}"), &secure);
    assert!(dump.status.success(), "{}", text(&dump));
    let dump: Value = serde_json::from_slice(&dump.stdout).unwrap();
    let sections: Vec<&str> = dump["configs"].as_array().unwrap().iter().filter_map(|c| c["@type"].as_str()).collect();
    assert!(sections.iter().any(|s| s.ends_with("ClustersConfigDump")), "{sections:?}");
    // Not everybody's.
    let all = ask("syncz", &secure);
    assert!(!all.status.success() && text(&all).contains("may not see this"), "{}", text(&all));
    // And nobody sees anything without TLS.
    let plain = ask("syncz", &["--xds-address", "istiod.istio-system.svc:15010", "--plaintext"]);
    assert!(!plain.status.success() && text(&plain).contains("over TLS only"), "{}", text(&plain));
    // The proxy's own pages answer the tables.
    let dump = shop.mesh.get("production", &pod, 15000, "/config_dump?include_eds=true").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.json");
    std::fs::write(&file, dump).unwrap();
    let table = |part: &str, more: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["istioctl", "pc", part, "--file"]).arg(&file).args(more);
        text(&command.output().unwrap())
    };
    let clusters = table("cluster", &["--fqdn", "payment-api.production.svc.cluster.local"]);
    assert!(clusters.contains("payment-api.production.svc.cluster.local     8080     v1"), "{clusters}");
    assert!(clusters.contains("payment-api.production\n"), "{clusters}");
    assert!(table("listener", &["--port", "15001"]).contains("PassthroughCluster"), "{}", table("listener", &[]));
    assert!(table("route", &["--name", "8080"]).contains("payment-api.production"), "{}", table("route", &[]));
    assert!(table("eds", &[]).contains("HEALTHY"), "{}", table("eds", &[]));
}
