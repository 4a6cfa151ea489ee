//! Everything a stock istiod was recorded to send compiles.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_api::envoy::config::listener::v3::Listener;
use envoy_api::envoy::config::route::v3::RouteConfiguration;
use envoy_api::{any_from_json, unpack};
use proxy_config::{Context, compile_cluster, compile_endpoints, compile_listener, compile_routes};
use telemetry::{Telemetry, Workload};

#[test]
fn recorded_resources_compile() {
    let shared = std::env::var("MELTEMI_SHARED")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let Ok(folders) = std::fs::read_dir(shared.join("contract/xds")) else {
        eprintln!("skipped: ../shared/contract/xds is not here");
        return;
    };
    let context = Context::new(Arc::default(), Arc::default(), Telemetry::new(Workload::unknown()));
    let mut compiled = 0;
    for folder in folders.flatten().filter(|f| f.path().is_dir()) {
        for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
            for resource in json.as_array().into_iter().flatten() {
                let any = any_from_json(resource.clone()).unwrap();
                let result = match any.type_url.rsplit('.').next().unwrap() {
                    "Cluster" => compile_cluster(&unpack::<Cluster>(&any).unwrap(), &context).map(drop),
                    "ClusterLoadAssignment" => {
                        compile_endpoints(&unpack::<ClusterLoadAssignment>(&any).unwrap()).map(drop)
                    }
                    "Listener" => compile_listener(&unpack::<Listener>(&any).unwrap(), &context).map(drop),
                    "RouteConfiguration" => {
                        compile_routes(&unpack::<RouteConfiguration>(&any).unwrap(), &context, None).map(drop)
                    }
                    // The agent's, not the proxy's.
                    "NameTable" => continue,
                    other => panic!("{other}"),
                };
                result.unwrap_or_else(|e| panic!("{}: {e}", file.path().display()));
                compiled += 1;
            }
        }
    }
    assert!(compiled > 50, "only {compiled} resources were found");
}
