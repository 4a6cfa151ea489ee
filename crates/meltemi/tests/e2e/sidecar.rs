//! Which data plane the pods of a mesh have: ours, or a stock Envoy in every pod (`MELTEMI_E2E_SIDECAR=envoy`, which
//! `scripts/test --sidecar envoy` sets). The same tests, the same istiod, the other proxy.

use std::path::{Path, PathBuf};

use laptop::MeshOptions;

use crate::shop::Shop;

/// Tests, and parts of tests, that ask for what only our own sidecar does, and why.
const OURS_ONLY: &[(&str, &str)] = &[
    (
        "life::killed_and_flapping_pods_fail_no_idempotent_request",
        "under Istio's default policy Envoy gives up a request whose connection broke; ours sends an idempotent one again",
    ),
    (
        "routing::server_first",
        "where the protocol is undeclared Istio has Envoy wait for the client's first bytes without end",
    ),
    (
        "security::denied_greeting",
        "where the protocol is undeclared Istio has Envoy wait for the client's first bytes without end",
    ),
    (
        "stock_envoy::a_stock_envoy_is_a_sidecar_like_any_other",
        "every pod has one already, and this test asks our own sidecars what they saw of one",
    ),
    ("command_line::metrics", "Istio's metrics come from filters that a stock Envoy does not have"),
    ("security::metrics", "Istio's metrics come from filters that a stock Envoy does not have"),
];

/// The stock Envoy that `scripts/install-tools` fetches.
pub fn envoy() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/envoy");
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}; scripts/install-tools fetches it", path.display()))
}

/// Whether every pod's sidecar is to be a stock Envoy.
fn all_envoy() -> bool {
    std::env::var("MELTEMI_E2E_SIDECAR").is_ok_and(|kind| kind == "envoy")
}

/// Sets the data plane that was asked for.
pub fn choose(options: &mut MeshOptions) {
    options.envoy = all_envoy().then(envoy);
}

/// Whether this test or part (`module::name`) is about our own sidecar, and another is asked for: it says so and is passed over.
pub fn passes_over(test: &str) -> bool {
    let (_, why) = OURS_ONLY.iter().find(|(name, _)| *name == test).unwrap_or_else(|| panic!("{test} is not listed"));
    if all_envoy() {
        eprintln!("{test} is passed over with a stock Envoy: {why}");
    }
    all_envoy()
}

/// Waits until no connection is judged by rules of before. Ours matches a connection again before its next request; an
/// Envoy that has acknowledged a listener serves the connections it had by the old filter chains until they have drained.
pub fn old_rules_are_gone(shop: &Shop, workloads: &[&str]) {
    if !all_envoy() {
        return;
    }
    let drains = |pod: &String| {
        let page = shop.page(pod, 15000, "/stats?filter=listener_manager.total_filter_chains_draining");
        !page.trim().ends_with(": 0")
    };
    let pods: Vec<String> = workloads.iter().flat_map(|workload| shop.pods(workload)).collect();
    shop.until("old filter chains to have drained", || !pods.iter().any(drains));
}
