//! The example's Istio files are the seed's YAML, byte for byte.

use std::path::{Path, PathBuf};

/// The folder of shared conformance data; `None` where it is not checked out.
fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("MELTEMI_SHARED").map_or(beside, PathBuf::from);
    path.join("seed").is_dir().then_some(path)
}

#[test]
fn the_examples_rules_are_the_seeds_byte_for_byte() {
    let Some(shared) = shared() else {
        eprintln!("skipped: ../shared (or $MELTEMI_SHARED) is not there");
        return;
    };
    let mut seed = String::new();
    for entry in std::fs::read_dir(shared.join("seed")).unwrap().flatten() {
        seed.push_str(&std::fs::read_to_string(entry.path()).unwrap());
    }
    let istio = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/istio");
    let mut found = 0;
    for (name, version) in [
        ("payment-api.yaml", "networking.istio.io/v1alpha3"),
        ("peer-authentication.yaml", "security.istio.io/v1beta1"),
    ] {
        let text = std::fs::read_to_string(istio.join(name)).unwrap();
        assert!(seed.contains(text.trim_end_matches('\n')), "{name} is not a part of the seed as it stands there");
        assert!(text.contains(version), "{name}");
        found += text.matches("apiVersion:").count();
    }
    // All of the seed's objects are in the files.
    assert_eq!(found, seed.matches("apiVersion:").count());
}
