//! Extension configurations, and who the proxy is.

use serde_json::{Value, json};

use super::dump::{at, camel, list, section, text};
use crate::table::{WIDE, columns, row};

/// Extension configurations of a dump.
pub(crate) fn filters(dump: &Value) -> Vec<Value> {
    section(dump, "EcdsConfigDump").map(|s| list(s, "ecds_filters").to_vec()).unwrap_or_default()
}

/// As a table, by type and name.
pub(crate) fn table(filters: &[Value]) -> String {
    let mut rows: Vec<(String, String)> = filters
        .iter()
        .map(|f| {
            let filter = at(f, "ecds_filter");
            let kind = text(at(filter, "typed_config"), "@type").rsplit('/').next().unwrap_or_default();
            (kind.to_owned(), text(filter, "name").to_owned())
        })
        .collect();
    rows.sort();
    let cells = rows.into_iter().map(|(kind, name)| vec![name, kind]);
    columns(&std::iter::once(row(["ECDS NAME", "TYPE"])).chain(cells).collect::<Vec<_>>(), WIDE)
}

/// For machines.
pub(crate) fn value(filters: &[Value]) -> Value {
    json!({"ecdsFilters": filters.iter().map(camel).collect::<Vec<_>>()})
}

/// The bootstrap of a dump, or of a file that has only that.
pub(crate) fn bootstrap(dump: &Value) -> Value {
    let section = section(dump, "BootstrapConfigDump").cloned();
    camel(&section.unwrap_or_else(|| if dump.get("bootstrap").is_some() { dump.clone() } else { json!({}) }))
}

/// Versions that the bootstrap tells of.
pub(crate) fn versions(bootstrap: &Value) -> String {
    let node = at(bootstrap, "bootstrap.node");
    let metadata = &node["metadata"];
    let build = at(node, "user_agent_build_version");
    let number = |part: &str| super::dump::number(build, &format!("version.{part}"));
    let note = |key: &str| build["metadata"][key].as_str().unwrap_or_default();
    let mut rows = vec![vec!["Istio Version:".to_owned(), text(metadata, "ISTIO_VERSION").to_owned()]];
    let sha = text(metadata, "ISTIO_PROXY_SHA");
    if !sha.is_empty() {
        let sha = sha.rsplit(':').next().unwrap_or_default();
        rows.push(vec!["Istio Proxy Version:".to_owned(), sha.to_owned()]);
    }
    let envoy = format!(
        "{}.{}.{}/{}/{}/{}",
        number("major_number"),
        number("minor_number"),
        number("patch"),
        note("revision.status"),
        note("build.type"),
        note("ssl.version")
    );
    rows.push(vec!["Envoy Version:".to_owned(), envoy]);
    columns(&rows, 1)
}
