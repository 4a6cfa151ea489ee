//! Everything a stock istiod was recorded to send can be read and printed again without loss.

use std::path::{Path, PathBuf};

use envoy_api::{any_from_json, any_to_json};
use serde_json::Value;

fn recorded() -> Option<Vec<PathBuf>> {
    let shared = std::env::var("MELTEMI_SHARED")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let folders = std::fs::read_dir(shared.join("contract/xds")).ok()?;
    let files =
        folders.flatten().filter(|f| f.path().is_dir()).flat_map(|f| std::fs::read_dir(f.path()).into_iter().flatten());
    Some(files.flatten().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect())
}

#[test]
fn recorded_resources_survive_the_round_trip() {
    let Some(files) = recorded() else {
        eprintln!("skipped: ../shared/contract/xds is not here");
        return;
    };
    let mut read = 0;
    for file in files {
        let json: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let resources = match json {
            Value::Array(items) => items,
            other => vec![other],
        };
        for resource in resources {
            let any = any_from_json(resource).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let again = any_from_json(any_to_json(&any)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(any_to_json(&any), any_to_json(&again), "{}", file.display());
            read += 1;
        }
    }
    assert!(read > 50, "only {read} resources were found");
}
