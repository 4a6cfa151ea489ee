//! Listeners.

use serde_json::Value;

use super::dump::{at, camel, list, number, section, text};
use super::routes::describe_match;
use crate::table::{columns, row};

/// Which listeners are wanted.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub address: String,
    pub port: u64,
    pub kind: String,
}

/// The wanted listeners of a dump, in the order of the table.
pub(crate) fn wanted(dump: &Value, filter: &Filter) -> Vec<Value> {
    let Some(section) = section(dump, "ListenersConfigDump") else { return Vec::new() };
    let dynamic = list(section, "dynamic_listeners").iter().map(|l| at(l, "active_state.listener"));
    let fixed = list(section, "static_listeners").iter().map(|l| at(l, "listener"));
    let mut all: Vec<Value> =
        dynamic.chain(fixed).filter(|l| l.is_object()).filter(|l| filter.takes(l)).cloned().collect();
    all.sort_by_cached_key(|l| (port(l), address(l)));
    all
}

impl Filter {
    fn takes(&self, listener: &Value) -> bool {
        (self.address.is_empty() || address(listener).eq_ignore_ascii_case(&self.address))
            && (self.port == 0 || port(listener) == self.port)
            && (self.kind.is_empty() || kind(listener).eq_ignore_ascii_case(&self.kind))
    }
}

fn socket(listener: &Value) -> &Value {
    at(listener, "address.socket_address")
}

fn address(listener: &Value) -> String {
    let pipe = text(listener, "address.pipe.path");
    if !pipe.is_empty() {
        return format!("unix://{pipe}");
    }
    let more = list(listener, "additional_addresses").iter().map(|a| text(a, "address.socket_address.address"));
    std::iter::once(text(socket(listener), "address")).chain(more).collect::<Vec<_>>().join(",")
}

fn port(listener: &Value) -> u64 {
    number(socket(listener), "port_value")
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    let default = at(listener, "default_filter_chain");
    list(listener, "filter_chains").iter().chain(default.is_object().then_some(default))
}

const HTTP: &str = "envoy.filters.network.http_connection_manager";
const TCP: &str = "envoy.filters.network.tcp_proxy";

/// `HTTP`, `TCP`, `HTTP+TCP` or `UNKNOWN`.
fn kind(listener: &Value) -> &'static str {
    let has = |name: &str| chains(listener).any(|c| list(c, "filters").iter().any(|f| text(f, "name") == name));
    match (has(HTTP), has(TCP)) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

/// As a table; with `named`, the name stands first. Without `verbose`, one row a listener.
pub(crate) fn table(dump: &Value, filter: &Filter, verbose: bool, named: bool) -> String {
    let mut head = match verbose {
        true => row(["ADDRESSES", "PORT", "MATCH", "DESTINATION"]),
        false => row(["ADDRESSES", "PORT", "TYPE"]),
    };
    if named {
        head.insert(0, "NAME".to_owned());
    }
    let mut rows = vec![head];
    for listener in wanted(dump, filter) {
        let mut lines: Vec<Vec<String>> = match verbose {
            true => {
                let mut all: Vec<(String, String)> = chains(&listener).map(|c| (describe(c), destination(c))).collect();
                all.sort_by(|a, b| b.1.cmp(&a.1));
                all.into_iter().map(|(wanted, to)| vec![wanted, to]).collect()
            }
            false => vec![row([kind(&listener)])],
        };
        for line in &mut lines {
            line.splice(0..0, [address(&listener), port(&listener).to_string()]);
            if named {
                line.insert(0, format!("listener/{}", text(&listener, "name")));
            }
        }
        rows.append(&mut lines);
    }
    columns(&rows, 1)
}

/// What a chain is for.
fn describe(chain: &Value) -> String {
    let wanted = at(chain, "filter_chain_match");
    let joined = |field: &str| list(wanted, field).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let mut parts = Vec::new();
    let mut part = |name: &str, value: String| {
        if !value.is_empty() {
            parts.push(format!("{name}: {value}"));
        }
    };
    part("SNI", joined("server_names"));
    part("Trans", text(wanted, "transport_protocol").to_owned());
    part("App", joined("application_protocols"));
    let port = number(wanted, "destination_port");
    let port = if port == 0 { String::new() } else { format!(":{port}") };
    let ranges: Vec<String> = list(wanted, "prefix_ranges")
        .iter()
        .map(|r| format!("{}/{}", text(r, "address_prefix"), number(r, "prefix_len")))
        .collect();
    match (ranges.is_empty(), port.is_empty()) {
        (true, true) => {}
        (true, false) => part("Addr", format!("*{port}")),
        (false, _) => part("Addr", format!("{}{port}", ranges.join(","))),
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

/// Where a chain leads.
fn destination(chain: &Value) -> String {
    for filter in list(chain, "filters") {
        let config = at(filter, "typed_config");
        match text(filter, "name") {
            HTTP if at(config, "route_config").is_object() => return inline(at(config, "route_config")),
            HTTP => {
                let route = text(config, "rds.route_config_name");
                return if route.is_empty() { "HTTP".to_owned() } else { format!("Route: {route}") };
            }
            TCP if !config.to_string().contains("BlackHoleCluster") => {
                let weighted = list(config, "weighted_clusters.clusters").iter().map(|c| text(c, "name"));
                return match text(config, "cluster") {
                    "" => format!("Cluster: {}", weighted.collect::<Vec<_>>().join(", ")),
                    cluster => to_cluster(cluster),
                };
            }
            _ => {}
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

/// Clusters of Istio's own say by their name that they are clusters.
fn to_cluster(name: &str) -> String {
    if name.contains("Cluster") { name.to_owned() } else { format!("Cluster: {name}") }
}

fn inline(config: &Value) -> String {
    let hosts = list(config, "virtual_hosts");
    if let [host] = hosts
        && let ([route], [domain]) = (list(host, "routes"), list(host, "domains"))
        && domain == "*"
        && text(route, "match.prefix") == "/"
        && !text(route, "route.cluster").is_empty()
    {
        return to_cluster(text(route, "route.cluster"));
    }
    let describe = |host: &Value| {
        let domains = list(host, "domains").iter().filter_map(Value::as_str).collect::<Vec<_>>().join("/");
        let routes: Vec<String> = list(host, "routes").iter().map(|r| describe_match(at(r, "match"))).collect();
        let routes = routes.join(", ");
        if domains == "*" || domains.is_empty() { routes } else { format!("{domains} {routes}") }
    };
    format!("Inline Route: {}", hosts.iter().map(describe).collect::<Vec<_>>().join("; "))
}

/// For machines.
pub(crate) fn value(dump: &Value, filter: &Filter) -> Value {
    wanted(dump, filter).iter().map(camel).collect()
}
