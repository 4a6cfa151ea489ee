//! Clusters.

use serde_json::Value;

use super::dump::{ClusterKey, camel, list, made_from, section, text};
use crate::table::{WIDE, columns, row};

/// Which clusters are wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub fqdn: String,
    pub port: u64,
    pub subset: String,
    pub direction: String,
}

/// The wanted clusters of a dump, in the order of the table.
pub(crate) fn wanted(dump: &Value, filter: &Filter) -> Vec<Value> {
    let Some(section) = section(dump, "ClustersConfigDump") else { return Vec::new() };
    let all = list(section, "dynamic_active_clusters").iter().chain(list(section, "static_clusters"));
    let mut all: Vec<Value> = all.map(|c| c["cluster"].clone()).filter(|c| filter.takes(c)).collect();
    all.sort_by_cached_key(|c| ClusterKey::of(text(c, "name")).order());
    all
}

impl Filter {
    fn takes(&self, cluster: &Value) -> bool {
        let key = ClusterKey::of(text(cluster, "name"));
        (self.fqdn.is_empty() || key.host.contains(&self.fqdn))
            && (self.port == 0 || key.port == self.port)
            && (self.subset.is_empty() || key.subset.contains(&self.subset))
            && (self.direction.is_empty() || key.direction.eq_ignore_ascii_case(&self.direction))
    }
}

/// As a table; with `named`, the full name stands first.
pub(crate) fn table(dump: &Value, filter: &Filter, named: bool) -> String {
    let mut head = row(["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"]);
    let rows = wanted(dump, filter).into_iter().map(|cluster| {
        let key = ClusterKey::of(text(&cluster, "name"));
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let port = if key.port == 0 { "-".to_owned() } else { key.port.to_string() };
        let mut cells = vec![
            key.host,
            port,
            or_dash(key.subset),
            or_dash(key.direction),
            kind(&cluster).to_owned(),
            made_from(&cluster),
        ];
        if named {
            cells.insert(0, format!("cluster/{}", text(&cluster, "name")));
        }
        cells
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if named {
        head.insert(0, "NAME".to_owned());
    }
    columns(&[vec![head], rows].concat(), WIDE)
}

fn kind(cluster: &Value) -> &str {
    match (text(cluster, "type"), text(cluster, "cluster_type.name")) {
        ("", "") => "STATIC",
        ("", custom) => custom,
        (kind, _) => kind,
    }
}

/// For machines.
pub(crate) fn value(dump: &Value, filter: &Filter) -> Value {
    wanted(dump, filter).iter().map(camel).collect()
}
