//! Istio's own cases for its analyzers: the same codes about the same objects.

use std::path::{Path, PathBuf};

use galley::Input;
use serde_json::Value;

fn folder() -> PathBuf {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    shared.join("conformance/analyze")
}

fn expected(case: &Value) -> Vec<(String, String)> {
    let pairs = case["expected"].as_array().expect("a case has a list");
    let text = |v: &Value| v.as_str().expect("a code or a name").to_owned();
    pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

#[test]
fn analyzers_find_what_istios_find() {
    let folder = folder();
    let Ok(index) = std::fs::read_to_string(folder.join("cases.json")) else {
        eprintln!("skipped: {} is not here", folder.display());
        return;
    };
    let cases: Vec<Value> = serde_json::from_str(&index).expect("the index is JSON");
    let levels: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("codes.json")).expect("codes"))
        .expect("the codes are JSON");
    let (mut passed, mut failed) = (0, Vec::new());
    for case in &cases {
        let mut input = Input::new();
        let read = |name: &Value| {
            let path = folder.join(name.as_str().expect("a file name"));
            let text = std::fs::read_to_string(&path).expect("a case names an existing file");
            (path, text)
        };
        for name in case["files"].as_array().expect("a case has files") {
            let (path, text) = read(name);
            // Networks are no object of Kubernetes; Istio's cases give them as a file of their own.
            if path.ends_with("meshnetworks.yaml") {
                input.add_mesh_networks(&path, &text);
            } else {
                input.add_text(&path, &text, "");
            }
        }
        if case["mesh_config"].is_string() {
            let (path, text) = read(&case["mesh_config"]);
            input.add_mesh_config(&path, &text);
        }
        let analyzer = case["analyzer"].as_str().expect("a case names its analyzer");
        let Some(found) = galley::analyze_with(&input, analyzer) else {
            failed.push(format!("{}: there is no analyzer {analyzer}", case["name"]));
            continue;
        };
        for message in &found {
            let known = &levels[message.code.name];
            assert_eq!(known["code"], message.code.code, "{message}");
            assert_eq!(known["level"], message.code.level.to_string(), "{message}");
        }
        let mut got: Vec<(String, String)> = found.into_iter().map(|m| (m.code.code.to_owned(), m.resource)).collect();
        let mut wanted = expected(case);
        got.sort();
        wanted.sort();
        if got == wanted {
            passed += 1;
        } else {
            let only = |a: &[(String, String)], b: &[(String, String)]| -> Vec<String> {
                a.iter().filter(|x| !b.contains(x)).map(|x| format!("{} {}", x.0, x.1)).collect()
            };
            failed.push(format!(
                "{}: missing {:?}, too many {:?} ({} for {})",
                case["name"],
                only(&wanted, &got),
                only(&got, &wanted),
                got.len(),
                wanted.len()
            ));
        }
    }
    eprintln!("analyze: {passed} of {} cases pass", cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
