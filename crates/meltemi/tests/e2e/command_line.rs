//! `meltemi` and its parts on the command line.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::shop::{Shop, binary};
use crate::sidecar::passes_over;

/// Runs a command of the binary against a shop's mesh.
fn meltemi(shop: &Shop, words: &[&str]) -> Output {
    let base = shop.mesh.state().path().parent().unwrap().to_owned();
    Command::new(binary()).env("MELTEMI_STATE", base).env("MELTEMI_MESH", "mesh").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn exec_logs_ps_and_the_sidecars_pages() {
    let shop = Shop::up(|_| {});
    let exec = |words: &[&str]| {
        let mut all = vec!["exec", "-n", "production", "deploy/order-service", "--"];
        all.extend(words);
        meltemi(&shop, &all)
    };
    let done = exec(&["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(
        (done.status.code(), text(&done.stdout), text(&done.stderr)),
        (Some(42), "out\n".into(), "err\n".into())
    );
    let killed = exec(&["sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    assert_eq!(exec(&["no-such-command"]).status.code(), Some(1));

    shop.load(&["-n", "5", "-H", "x-request-id: shown-in-logs"]);
    shop.until("the access log", || {
        let logs = meltemi(&shop, &["logs", "-n", "production", "deploy/order-service", "-c", "istio-proxy"]);
        text(&logs.stdout).contains("shown-in-logs")
    });
    let tail =
        meltemi(&shop, &["logs", "-n", "production", "deploy/order-service", "-c", "istio-proxy", "--tail", "1"]);
    assert_eq!(text(&tail.stdout).lines().count(), 1);
    assert!(!meltemi(&shop, &["logs", "-n", "production", "deploy/nothing"]).status.success());

    let ps = meltemi(&shop, &["ps", "-o", "json"]);
    let status: Value = serde_json::from_slice(&ps.stdout).unwrap();
    assert_eq!(status["ready"], true, "{status}");
    let pods = status["pods"].as_array().unwrap();
    assert_eq!(pods.len(), 8, "{status}");
    let synced = pods.iter().filter(|p| p["injected"] == true && p["sync"] == "SYNCED").count();
    assert_eq!(synced, 7, "{status}");
    let table = text(&meltemi(&shop, &["ps"]).stdout);
    assert!(table.contains("order-service") && table.contains("SYNCED"), "{table}");

    for (page, part) in [
        ("/clusters", "outbound|8080|v1|payment-api.production.svc.cluster.local"),
        ("/config_dump", "ClustersConfigDump"),
        ("/listeners", "virtualOutbound"),
        ("/stats/prometheus", "istio_requests_total"),
        ("/certs", "spiffe://cluster.local/ns/production/sa/order-service-sa"),
    ] {
        let part =
            if page == "/stats/prometheus" && passes_over("command_line::metrics") { "envoy_cluster" } else { part };
        let asked = exec(&["pilot-agent", "request", "GET", page]);
        assert!(asked.status.success() && text(&asked.stdout).contains(part), "{page}: {}", text(&asked.stdout));
    }
    assert!(!exec(&["pilot-agent", "request", "GET", "/no-such-page"]).status.success());
}

/// Levels are read and set while the mesh runs, objects are told in JSON, and the debug pages have what is in force.
#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn istioctl_reads_and_sets_what_runs() {
    let shop = Shop::up(|_| {});
    let istioctl = |words: &[&str]| meltemi(&shop, &[&["istioctl"], words].concat());
    let json = |words: &[&str]| -> Value {
        let done = istioctl(&[words, &["-o", "json"]].concat());
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {done:?}"))
    };
    let level =
        |all: &Value| all.as_array().unwrap().iter().find(|s| s["name"] == "ads").unwrap()["output_level"].clone();
    let before = level(&json(&["admin", "log"]));
    assert_ne!(before, "debug");
    assert_eq!(level(&json(&["admin", "log", "--level", "ads:debug"])), "debug");
    assert_eq!(level(&json(&["admin", "log", "--reset"])), "info");
    let refused = istioctl(&["admin", "log", "--stack-trace-level", "ads:debug"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("stack_trace_level"), "{refused:?}");

    let told = json(&["experimental", "describe", "service", "payment-api.production"]);
    assert_eq!(told["virtualServices"][0]["name"], "payment-api.production", "{told:#}");
    assert_eq!(told["mtlsMode"], "STRICT", "{told:#}");
    let waited = istioctl(&["experimental", "wait", "VirtualService", "payment-api.production", "--timeout", "60s"]);
    assert!(waited.status.success(), "{waited:?}");
    let page = |name: &str| -> Value {
        let done = istioctl(&["experimental", "internal-debug", name]);
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {done:?}"))
    };
    assert_eq!(page("clusterz")[0]["syncStatus"], "synced");
    assert!(page("push_status").is_object());
    let istiod = shop.mesh.get("", "", 15014, "/metrics").unwrap();
    assert!(istiod.contains("istio_build{component=\"pilot\""), "{istiod}");
    let order = shop.pods("order-service").remove(0);
    let agent = shop.mesh.get("production", &order, 15020, "/stats/prometheus").unwrap();
    assert!(agent.contains("istio_build{component=\"agent\""), "{agent}");
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn the_demo_ends_by_itself_and_tells_what_it_saw() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.json");
    let done = Command::new(binary())
        .args(["demo", "--seconds", "6", "--json", file.to_str().unwrap()])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    let calls: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let call = |source: &str, destination: &str| {
        let found = calls.iter().find(|c| {
            let is = |key: &str, part: &str| c[key].as_str().is_some_and(|name| name.contains(part));
            is("source", source) && is("destination", destination)
        });
        found.unwrap_or_else(|| panic!("{source} -> {destination} is missing: {calls:?}")).clone()
    };
    let numbers = |c: &Value| (c["ok"].as_u64().unwrap(), c["failed"].as_u64().unwrap());
    let paid = call("order-service", "payment-api");
    assert!(numbers(&paid).0 > 0 && numbers(&paid).1 == 0 && paid["mtls"] == "yes", "{paid}");
    let (denied, allowed) = (call("order-service", "database-service"), call("payment-api", "database-service"));
    assert!(numbers(&denied).0 == 0 && numbers(&denied).1 > 0, "{denied}");
    assert!(numbers(&allowed).0 > 0 && numbers(&allowed).1 == 0, "{allowed}");
    let legacy = call("legacy", "payment-api");
    assert!(numbers(&legacy).0 == 0 && numbers(&legacy).1 > 0, "STRICT: {legacy}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["demo.json"], "the demo leaves nothing else");
}

/// The example has all that the issue names, and nothing for `analyze` to find but what it is meant to show.
#[test]
fn the_example_is_whole_and_analyze_knows_it() {
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let done = Command::new(binary())
        .args(["istioctl", "analyze", "-n", "production", "-o", "json"])
        .arg(&shop)
        .output()
        .unwrap();
    let found = text(&done.stdout);
    let messages: Vec<Value> = serde_json::from_str(&found).unwrap_or_else(|e| panic!("{e}: {found}"));
    assert!(messages.iter().all(|m| m["level"] != "Error"), "{found}");
    let whole: String =
        ["order", "payment", "database", "legacy", "namespaces", "istio/authorization", "istio/payment-api"]
            .iter()
            .map(|name| std::fs::read_to_string(shop.join(format!("{name}.yaml"))).unwrap())
            .collect();
    for part in
        ["order-service", "payment-api-v1", "payment-api-v2", "port: 5432", "legacy", "kind: AuthorizationPolicy"]
    {
        assert!(whole.contains(part), "{part}");
    }
}

#[test]
fn kube_inject_adds_a_sidecar_to_a_file() {
    let order = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/order.yaml");
    let done = Command::new(binary()).args(["istioctl", "kube-inject", "-f"]).arg(&order).output().unwrap();
    let out = text(&done.stdout);
    assert!(done.status.success() && out.contains("name: istio-proxy") && out.contains("istio-init"), "{out}");
}
