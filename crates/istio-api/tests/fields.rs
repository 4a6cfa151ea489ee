//! The page of fields says what is so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use istio_api::{edge, extensions, mesh, providers, service_entry, yaml};
use serde::Serialize;
use serde_json::{Value, json};

/// One row of a table.
struct Row {
    kind: String,
    field: String,
    state: String,
    shown: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    let path = root().join("docs/traffic-fields-services.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn rows(page: &str) -> Vec<Row> {
    let mut kind = String::new();
    let mut out = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut kind);
        }
        let cells: Vec<&str> = line.trim_matches('|').splitn(3, '|').map(str::trim).collect();
        if let ([field, state, shown], true) = (cells.as_slice(), line.starts_with("| `")) {
            out.push(Row {
                kind: kind.clone(),
                field: field.trim_matches('`').to_owned(),
                state: (*state).to_owned(),
                shown: (*shown).to_owned(),
            });
        }
    }
    out
}

fn fields(kind: &str, of: &impl Serialize) -> (String, BTreeSet<String>) {
    let value = serde_json::to_value(of).unwrap();
    (kind.to_owned(), value.as_object().unwrap().keys().cloned().collect())
}

/// All fields of all types. What is left out of JSON while it is empty is filled in.
fn types() -> Vec<(String, BTreeSet<String>)> {
    let tracing = providers::ProxyTracing {
        zipkin: Some(providers::ZipkinAddress::default()),
        sampling: Some(1.0),
        custom_tags: [(String::new(), Value::Null)].into(),
        max_path_tag_length: Some(1),
    };
    let settings = mesh::ProxySettings {
        concurrency: Some(1),
        discovery_address: Some(String::new()),
        proxy_metadata: [(String::new(), String::new())].into(),
        termination_drain_duration: Some(std::time::Duration::ZERO),
        hold_application_until_proxy_starts: Some(true),
        drain_duration: Some(std::time::Duration::ZERO),
        mesh_id: Some(String::new()),
        image: Some(extensions::ProxyImage::default()),
        interception_mode: Some(String::new()),
        proxy_admin_port: Some(1),
        status_port: Some(1),
        proxy_headers: Some(mesh::ProxyHeaders::default()),
        tracing: Some(tracing.clone()),
    };
    vec![
        fields("ServiceEntry", &service_entry::ServiceEntry::default()),
        fields("ServiceEntryPort", &service_entry::ServiceEntryPort::default()),
        fields("WorkloadEntry", &service_entry::WorkloadEntry::default()),
        fields("WorkloadGroup", &service_entry::WorkloadGroup::default()),
        fields("Sidecar", &edge::Sidecar::default()),
        fields("IngressListener", &edge::IngressListener::default()),
        fields("EgressListener", &edge::EgressListener::default()),
        fields("SidecarPort", &edge::SidecarPort::default()),
        fields("SidecarOutboundPolicy", &edge::SidecarOutboundPolicy::default()),
        fields("ProxyConfig", &extensions::ProxyConfig::default()),
        fields("MeshConfig", &mesh::MeshConfig::default()),
        fields("ExtensionProvider", &mesh::ExtensionProvider::default()),
        fields("Zipkin", &providers::Zipkin::default()),
        fields("OpenTelemetry", &providers::OpenTelemetry::default()),
        fields("FileAccessLog", &providers::FileAccessLog::default()),
        fields("DefaultProviders", &mesh::DefaultProviders::default()),
        fields("ProxySettings", &settings),
        fields("ProxyTracing", &tracing),
    ]
}

#[test]
fn every_field_has_a_row_and_every_row_a_field() {
    let rows = rows(&page());
    for (kind, fields) in types() {
        let listed: BTreeSet<String> = rows.iter().filter(|r| r.kind == kind).map(|r| r.field.clone()).collect();
        assert_eq!(listed, fields, "{kind}");
    }
    let kinds: BTreeSet<String> = types().into_iter().map(|(kind, _)| kind).collect();
    assert!(rows.iter().all(|r| kinds.contains(&r.kind)), "a table of an unknown type");
}

#[test]
fn what_works_has_a_test() {
    let mut all = String::new();
    sources(&root().join("crates"), &mut all);
    for row in rows(&page()).iter().filter(|r| r.state == "works") {
        let name = row.shown.trim_matches('`');
        assert!(all.contains(&format!("fn {name}()")), "{}.{}: there is no test {name}", row.kind, row.field);
    }
}

fn sources(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()) {
        if entry.is_dir() {
            sources(&entry, all);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            all.push_str(&std::fs::read_to_string(&entry).unwrap());
        }
    }
}

/// An object of the kind whose table it is, with this spec.
fn object(kind: &str, spec: &str) -> Value {
    if [
        "MeshConfig",
        "ExtensionProvider",
        "Zipkin",
        "OpenTelemetry",
        "FileAccessLog",
        "DefaultProviders",
        "ProxySettings",
        "ProxyTracing",
    ]
    .contains(&kind)
    {
        return json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio"}, "data": {"mesh": spec}});
    }
    let kind = match kind {
        "IngressListener" | "EgressListener" | "SidecarPort" | "SidecarOutboundPolicy" => "Sidecar",
        other => other,
    };
    let version = if kind == "ProxyConfig" { "v1beta1" } else { "v1" };
    let spec = yaml::parse(spec).unwrap().remove(0).value;
    json!({"apiVersion": format!("networking.istio.io/{version}"), "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

fn refusal(of: &Value) -> String {
    let document = yaml::parse(&of.to_string()).unwrap().remove(0);
    match istio_api::read(&document, "default") {
        Ok(_) => "taken".to_owned(),
        Err(errors) => errors.into_iter().map(|e| format!("{} {}\n", e.pointer, e.message)).collect(),
    }
}

#[test]
fn what_is_refused_says_so_and_names_the_field() {
    for row in rows(&page()).iter().filter(|r| r.state == "refused") {
        let (spec, message) = row.shown.trim_start_matches('`').split_once("`: ").expect("a use and a message");
        let said = refusal(&object(&row.kind, spec));
        assert!(said.contains(message), "{}.{}: {said}", row.kind, row.field);
        assert!(said.contains(&row.field), "{}.{} is not named: {said}", row.kind, row.field);
    }
}

#[test]
fn the_rest_of_the_mesh_configuration_is_refused_by_name() {
    let page = page();
    let (_, list) = page.split_once("is refused by its name: ").expect("the list");
    let list = list.split("\n\n").next().unwrap();
    let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let said = refusal(&object("MeshConfig", &format!("{{{name}: {{}}}}")));
        assert!(said.contains(&format!("the field \"{name}\" is not built")), "{name}: {said}");
    }
}

#[test]
fn other_providers_are_refused_by_kind() {
    let page = page();
    let (_, list) = page.split_once("Every other kind of provider is refused by its name: ").expect("the list");
    let list = list.split("\n\n").next().unwrap();
    let kinds: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert!(kinds.len() > 10, "{kinds:?}");
    for kind in kinds {
        let said = refusal(&object("MeshConfig", &format!("{{extensionProviders: [{{name: x, {kind}: {{}}}}]}}")));
        assert!(said.contains(&format!("the field \"{kind}\" is not built")), "{kind}: {said}");
        assert!(said.contains("/extensionProviders/0"), "{kind}: {said}");
    }
}

#[test]
fn what_istio_installs_with_is_taken() {
    let installed = "{defaultConfig: {discoveryAddress: 'istiod.istio-system.svc:15012', proxyMetadata: {}}, \
        defaultProviders: {metrics: [prometheus]}, enablePrometheusMerge: true, rootNamespace: istio-system, \
        trustDomain: cluster.local, extensionProviders: [{name: prometheus, prometheus: {}}]}";
    assert_eq!(refusal(&object("MeshConfig", installed)), "taken");
    for (wrong, field) in [
        ("{extensionProviders: [{name: a}]}", "extensionProviders[0]"),
        ("{extensionProviders: [{name: a, prometheus: {}}, {name: a, prometheus: {}}]}", "two providers"),
        ("{defaultProviders: {accessLogging: [prometheus]}}", "accessLogging"),
        ("{defaultProviders: {tracing: [envoy]}}", "tracing"),
        ("{defaultConfig: {interceptionMode: NO}}", "interceptionMode"),
        ("{defaultConfig: {image: {imageType: big}}}", "imageType"),
    ] {
        assert!(refusal(&object("MeshConfig", wrong)).contains(field), "{wrong}");
    }
}
