//! Istio's own documents that must pass or must be refused.

use std::path::{Path, PathBuf};

use istio_api::yaml::{self, Document};
use serde_json::Value;

/// Kinds that are in force; the others are valid or not all the same.
const BUILT: [&str; 6] = [
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
    "ServiceEntry",
    "WorkloadEntry",
    "ProxyConfig",
];

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
    let (mut agreed, mut differing) = (0, Vec::new());
    for mut document in documents {
        let refused = document.value.as_object_mut().and_then(|map| map.shift_remove("_err"));
        let kind = document.value["kind"].as_str().unwrap_or_default().to_owned();
        let name = document.value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let result = if BUILT.contains(&kind.as_str()) {
            istio_api::read(&document, "default").map(|_| ())
        } else {
            istio_api::check(&document)
        };
        if result.is_err() == refused.is_some() {
            agreed += 1;
        } else {
            let why = refused.as_ref().and_then(Value::as_str);
            differing.push(format!("{kind} {name}: Istio says {why:?}, we say {:?}", result.err()));
        }
    }
    eprintln!("validation: {agreed} documents judged alike");
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

/// The first mistake of a document of a kind: pointer and words.
fn mistake(head: &str, spec: &str) -> Option<(String, String)> {
    let (kind, version) = head.split_once(' ').expect("a kind and a version");
    let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
    let document = yaml::parse(&text).expect("this is YAML").remove(0);
    let errors = istio_api::check(&document).err()?;
    errors.into_iter().next().map(|e| (e.pointer, e.message))
}

#[test]
fn kinds_that_are_not_in_force_are_judged_by_their_values() {
    const GATEWAY: &str = "Gateway networking.istio.io/v1";
    const TELEMETRY: &str = "Telemetry telemetry.istio.io/v1";
    const FILTER: &str = "EnvoyFilter networking.istio.io/v1alpha3";
    const EXTENSION: &str = "TrafficExtension extensions.istio.io/v1alpha1";
    const GROUP: &str = "WorkloadGroup networking.istio.io/v1";
    let http = "port: {number: 80, name: http, protocol: HTTP}";
    for (head, spec, place) in [
        (GATEWAY, "{}".to_owned(), "/spec/servers"),
        (GATEWAY, format!("{{servers: [{{{http}, hosts: [a]}}]}}"), ""),
        (GATEWAY, format!("{{servers: [{{{http}, hosts: [\"a b\"]}}]}}"), "/spec/servers/0/hosts/0"),
        (
            GATEWAY,
            format!("{{servers: [{{{http}, hosts: [a]}}, {{{http}, hosts: [b]}}]}}"),
            "/spec/servers/1/port/name",
        ),
        (
            GATEWAY,
            "{servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: [a], tls: {mode: SIMPLE}}]}".to_owned(),
            "/spec/servers/0/tls",
        ),
        (
            TELEMETRY,
            "{tracing: [{randomSamplingPercentage: 101}]}".to_owned(),
            "/spec/tracing/0/randomSamplingPercentage",
        ),
        (
            TELEMETRY,
            "{metrics: [{overrides: [{tagOverrides: {a: {operation: UPSERT}}}]}]}".to_owned(),
            "/spec/metrics/0/overrides/0/tagOverrides/a/value",
        ),
        (
            FILTER,
            "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: ADD}}]}".to_owned(),
            "/spec/configPatches/0/patch/value",
        ),
        (
            FILTER,
            "{configPatches: [{applyTo: CLUSTER, match: {listener: {}}, patch: {operation: REMOVE}}]}".to_owned(),
            "/spec/configPatches/0/match/listener",
        ),
        (EXTENSION, "{lua: {inlineCode: \"x\"}}".to_owned(), ""),
        (EXTENSION, "{}".to_owned(), "/spec"),
        (EXTENSION, "{wasm: {url: \"ftp://a\"}}".to_owned(), "/spec/wasm/url"),
        (GROUP, "{template: {serviceAccount: a}, probe: {tcpSocket: {port: 80}}}".to_owned(), ""),
        (GROUP, "{template: {}, probe: {}}".to_owned(), "/spec/probe"),
        ("WasmPlugin extensions.istio.io/v1alpha1", "{url: a, sha256: xyz}".to_owned(), "/spec/sha256"),
    ] {
        let found = mistake(head, &spec);
        assert_eq!(found.as_ref().map_or("", |(pointer, _)| pointer.as_str()), place, "{head} {spec}: {found:?}");
    }
}

#[test]
fn hosts_that_callers_name_are_wildcards_of_protocols_that_name_hosts() {
    let port = "{number: 443, name: p, protocol: TLS}";
    for (spec, place) in [
        (format!("{{hosts: [\"*.a.example\"], ports: [{port}]}}"), ""),
        (format!("{{hosts: [a.example], ports: [{port}]}}"), "/spec/hosts/0"),
        (
            format!("{{hosts: [\"*.a.example\"], ports: [{port}], endpoints: [{{address: 192.0.2.1}}]}}"),
            "/spec/endpoints",
        ),
        (
            format!("{{hosts: [\"*.a.example\"], ports: [{port}], workloadSelector: {{labels: {{a: b}}}}}}"),
            "/spec/workloadSelector",
        ),
        (
            "{hosts: [\"*.a.example\"], ports: [{number: 9000, name: p, protocol: TCP}]}".to_owned(),
            "/spec/ports/0/protocol",
        ),
        ("{hosts: [\"*.a.example\"], ports: [{number: 9000, name: p}]}".to_owned(), "/spec/ports/0/protocol"),
        (
            "{hosts: [\"*.a.example\"], ports: [{number: 80, name: p, protocol: HTTP, targetPort: 81}]}".to_owned(),
            "/spec/ports/0/targetPort",
        ),
    ] {
        let spec = spec.replacen('{', "{resolution: DYNAMIC_DNS, ", 1);
        let text =
            format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec: {spec}\n");
        let document = yaml::parse(&text).expect("this is YAML").remove(0);
        let found = istio_api::read(&document, "default").err().unwrap_or_default();
        assert_eq!(found.first().map_or("", |e| e.pointer.as_str()), place, "{spec}: {found:?}");
    }
}
