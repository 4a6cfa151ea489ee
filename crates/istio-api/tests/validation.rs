//! Istio's own documents that must pass or must be refused.

use std::path::{Path, PathBuf};

use istio_api::yaml::{self, Document};
use serde_json::Value;

/// Kinds whose documents must be judged alike.
const BUILT: [&str; 5] =
    ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "ServiceEntry", "WorkloadEntry"];

fn folder() -> PathBuf {
    let shared = std::env::var_os("MELTEMI_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    shared.join("conformance/validation")
}

fn documents() -> Option<Vec<Document>> {
    let Ok(files) = std::fs::read_dir(folder()) else {
        eprintln!("skipped: {} is not here", folder().display());
        return None;
    };
    let mut all = Vec::new();
    for file in files.flatten() {
        let text = std::fs::read_to_string(file.path()).expect("a file of the folder is readable");
        all.extend(yaml::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.path().display())));
    }
    Some(all)
}

#[test]
fn istios_documents_are_judged_as_istio_judges_them() {
    let Some(documents) = documents() else { return };
    let (mut agreed, mut other, mut differing) = (0, 0, Vec::new());
    for mut document in documents {
        let refused = document.value.as_object_mut().and_then(|map| map.shift_remove("_err"));
        let kind = document.value["kind"].as_str().unwrap_or_default().to_owned();
        let name = document.value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !BUILT.contains(&kind.as_str()) {
            // Valid ones of other kinds must at least have a known shape.
            other += 1;
            if refused.is_none()
                && let Err(errors) = istio_api::schema(&document)
            {
                differing.push(format!("{kind} {name}: {errors:?}"));
            }
            continue;
        }
        let result = istio_api::read(&document, "default");
        if result.is_err() == refused.is_some() {
            agreed += 1;
        } else {
            let why = refused.as_ref().and_then(Value::as_str);
            differing.push(format!("{kind} {name}: Istio says {why:?}, we say {:?}", result.err()));
        }
    }
    eprintln!(
        "validation: {agreed} documents judged alike; {other} of kinds that are not built had their shape checked"
    );
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn a_quoted_word_stays_text() {
    let text = "a: \"true\"\nb: true\nc: \"1\"\nd: 'yes'\n";
    let document = yaml::parse(text).expect("this is YAML").remove(0);
    assert_eq!(document.value, serde_json::json!({"a": "true", "b": true, "c": "1", "d": "yes"}));
}

#[test]
fn every_kind_of_istio_knows_its_fields() {
    let check = |kind: &str, group: &str, field: &str| {
        let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n  {field}: 1\n");
        let document = yaml::parse(&text).expect("this is YAML").remove(0);
        let errors = istio_api::schema(&document).expect_err("the field does not exist");
        assert_eq!((errors.len(), document.place(&errors[0].pointer).line), (1, 5), "{errors:?}");
        errors[0].message.clone()
    };
    for kind in ["VirtualService", "DestinationRule", "ServiceEntry", "Sidecar", "Gateway", "WorkloadGroup"] {
        assert!(check(kind, "networking.istio.io/v1", "nosuchfield").contains("unknown field"), "{kind}");
    }
    assert!(check("Telemetry", "telemetry.istio.io/v1", "tracin").contains("did you mean \"tracing\""));
    assert!(check("WasmPlugin", "extensions.istio.io/v1alpha1", "pluginNam").contains("\"pluginName\""));
}
