//! Istio's samples are sound: nothing grave is said about them.

use std::path::{Path, PathBuf};

use galley::{Input, Level, analyze};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn bookinfo_has_no_schema_errors() {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let folder = shared.join("conformance/samples/bookinfo");
    let mut all = Vec::new();
    files(&folder, &mut all);
    if all.is_empty() {
        eprintln!("skipped: {} is not here", folder.display());
        return;
    }
    let mut grave = Vec::new();
    for path in &all {
        let mut input = Input::new();
        let text = std::fs::read_to_string(path).expect("a sample is readable");
        input.add_text(path, &text, "default");
        let found = analyze(&input, None);
        // A file alone names services and gateways of others; its own fields must be right.
        let own = found
            .into_iter()
            .filter(|m| m.code.level == Level::Error && m.code == galley::codes::SCHEMA_VALIDATION_ERROR);
        grave.extend(own.map(|m| m.to_string()));
    }
    eprintln!("samples: {} files", all.len());
    assert!(grave.is_empty(), "{}", grave.join("\n"));
}
