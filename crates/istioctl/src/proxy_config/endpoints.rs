//! Endpoints: those the proxy balances over (`endpoint`, from `/clusters`), and those istiod sent (`eds`).

use serde_json::Value;

use super::dump::{ClusterKey, at, camel, list, number, section, text};
use crate::table::{WIDE, columns, row};

/// Which endpoints are wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub address: String,
    pub port: u64,
    pub cluster: String,
    pub status: String,
}

/// One endpoint.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    address: String,
    port: u64,
    cluster: String,
    status: String,
    more: String,
}

impl Filter {
    fn takes(&self, row: &Row) -> bool {
        (self.address.is_empty() || row.address.eq_ignore_ascii_case(&self.address))
            && (self.port == 0 || row.port == self.port)
            && (self.cluster.is_empty() || row.cluster.eq_ignore_ascii_case(&self.cluster))
            && (self.status.is_empty() || row.status.eq_ignore_ascii_case(&self.status))
    }

    fn is_open(&self) -> bool {
        self.address.is_empty() && self.port == 0 && self.status.is_empty()
    }
}

impl Row {
    fn of(address: &Value, cluster: &str, status: &str, more: &str) -> Self {
        let socket = at(address, "socket_address");
        let (address, port) =
            match (text(address, "pipe.path"), text(address, "envoy_internal_address.server_listener_name")) {
                ("", "") => (text(socket, "address").to_owned(), number(socket, "port_value")),
                ("", listener) => (format!("envoy://{listener}/"), 0),
                (pipe, _) => (pipe.to_owned(), 0),
            };
        Self { address, port, cluster: cluster.to_owned(), status: status.to_owned(), more: more.to_owned() }
    }

    fn shown(&self) -> String {
        let v6 = self.address.contains(':') && !self.address.contains("://");
        match (self.port, v6) {
            (0, _) => self.address.clone(),
            (port, true) => format!("[{}]:{port}", self.address),
            (port, false) => format!("{}:{port}", self.address),
        }
    }
}

fn of_status(clusters: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for cluster in list(clusters, "cluster_statuses") {
        for host in list(cluster, "host_statuses") {
            let status = text(host, "health_status.eds_health_status");
            let status = if status.is_empty() { "UNKNOWN" } else { status };
            let failed = at(host, "health_status.failed_outlier_check") == true;
            rows.push(Row::of(
                at(host, "address"),
                text(cluster, "name"),
                status,
                if failed { "FAILED" } else { "OK" },
            ));
        }
    }
    rows
}

/// What `/clusters?format=json` says, as a table.
pub(crate) fn table(clusters: &Value, filter: &Filter) -> String {
    let mut rows = of_status(clusters);
    rows.retain(|r| filter.takes(r));
    rows.sort();
    let cells = rows.iter().map(|r| vec![r.shown(), r.status.clone(), r.more.clone(), r.cluster.clone()]);
    let head = row(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    columns(&std::iter::once(head).chain(cells).collect::<Vec<_>>(), WIDE)
}

/// For machines: the clusters with their wanted hosts.
pub(crate) fn value(clusters: &Value, filter: &Filter) -> Value {
    let mut all = Vec::new();
    for cluster in list(clusters, "cluster_statuses") {
        let one = serde_json::json!({"cluster_statuses": [cluster]});
        if of_status(&one).iter().any(|r| filter.takes(r)) {
            all.push(camel(cluster));
        }
    }
    all.into()
}

/// The assignments of a dump that were sent or are written in the bootstrap, in the order of the table.
pub(crate) fn assignments(dump: &Value, filter: &Filter) -> Vec<Value> {
    let Some(section) = section(dump, "EndpointsConfigDump") else { return Vec::new() };
    let all = list(section, "dynamic_endpoint_configs").iter().chain(list(section, "static_endpoint_configs"));
    let mut all: Vec<Value> = all.map(|e| at(e, "endpoint_config").clone()).collect();
    all.retain(|a| sent(a).iter().any(|r| filter.takes(r)) || (filter.is_open() && takes_name(a, filter)));
    all.sort_by_cached_key(|a| ClusterKey::of(text(a, "cluster_name")).order());
    all
}

fn takes_name(assignment: &Value, filter: &Filter) -> bool {
    filter.cluster.is_empty() || text(assignment, "cluster_name").eq_ignore_ascii_case(&filter.cluster)
}

fn sent(assignment: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for group in list(assignment, "endpoints") {
        let place: Vec<&str> = ["region", "zone", "sub_zone"]
            .into_iter()
            .map(|part| text(at(group, "locality"), part))
            .filter(|part| !part.is_empty())
            .collect();
        for endpoint in list(group, "lb_endpoints") {
            let status = text(endpoint, "health_status");
            let status = if status.is_empty() { "UNKNOWN" } else { status };
            let address = at(endpoint, "endpoint.address");
            rows.push(Row::of(address, text(assignment, "cluster_name"), status, &place.join("/")));
        }
    }
    rows
}

/// What istiod sent, as a table.
pub(crate) fn eds_table(assignments: &[Value], filter: &Filter) -> String {
    let rows = assignments.iter().flat_map(sent).filter(|r| filter.takes(r));
    let cells = rows.map(|r| vec![r.shown(), r.status.clone(), r.more.clone(), r.cluster.clone()]);
    let head = row(["NAME", "STATUS", "LOCALITY", "CLUSTER"]);
    columns(&std::iter::once(head).chain(cells).collect::<Vec<_>>(), WIDE)
}
