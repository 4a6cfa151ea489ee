//! Routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::dump::{at, camel, list, made_from, section, text};
use crate::table::{WIDE, columns, row};

/// The routes of a dump, all or of one name, in the order of the table.
pub(crate) fn wanted(dump: &Value, name: &str) -> Vec<Value> {
    let Some(section) = section(dump, "RoutesConfigDump") else { return Vec::new() };
    let all = list(section, "dynamic_route_configs").iter().chain(list(section, "static_route_configs"));
    let mut all: Vec<Value> =
        all.map(|r| at(r, "route_config").clone()).filter(|r| name.is_empty() || text(r, "name") == name).collect();
    // Numbers first, by size; then names; those without a name are last.
    all.sort_by_cached_key(|r| {
        let name = text(r, "name").to_owned();
        let (number, rest) = match name.parse::<u32>() {
            Ok(number) => (number, 0),
            Err(_) if name.is_empty() => (u32::MAX, 2),
            Err(_) => (u32::MAX, 1),
        };
        (rest, number, name)
    });
    all
}

/// As a table; with `named`, names say that they are routes'. Without `verbose`, one row a virtual host.
pub(crate) fn table(dump: &Value, name: &str, verbose: bool, named: bool) -> String {
    let mut rows = vec![match verbose {
        true => row(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]),
        false => row(["NAME", "VIRTUAL HOSTS"]),
    }];
    for config in wanted(dump, name) {
        let name = text(&config, "name");
        let name = if named { format!("route/{name}") } else { name.to_owned() };
        let hosts = list(&config, "virtual_hosts");
        if !verbose {
            rows.push(vec![name, hosts.len().to_string()]);
            continue;
        }
        for host in hosts {
            let cells = |wanted: String, from: String| {
                vec![name.clone(), text(host, "name").to_owned(), domains(host), wanted, from]
            };
            let routes = list(host, "routes");
            if routes.is_empty() {
                rows.push(cells("/*".to_owned(), "404".to_owned()));
            }
            let shown = routes.iter().filter(|r| text(r, "route.cluster") != "PassthroughCluster");
            rows.extend(shown.map(|r| cells(describe_match(at(r, "match")), made_from(r))));
        }
    }
    columns(&rows, WIDE)
}

/// The first domains, without those that only spell another one out.
fn domains(host: &Value) -> String {
    /// How many are shown.
    const SHOWN: usize = 2;
    let all: Vec<&str> = list(host, "domains").iter().filter_map(Value::as_str).collect();
    if let [one] = all.as_slice() {
        return (*one).to_owned();
    }
    let without_port = |d: &&str| !d.contains(':') || (d.matches(':').count() > 2 && d.ends_with(']'));
    let plain: Vec<&str> = all.into_iter().filter(without_port).collect();
    let known: BTreeSet<&str> = plain.iter().copied().collect();
    let spelt_out = |d: &str| {
        [".svc.cluster.local", ".svc"].iter().any(|end| d.strip_suffix(end).is_some_and(|s| known.contains(s)))
    };
    let shown: Vec<&str> = plain.into_iter().filter(|d| !spelt_out(d)).collect();
    match shown.get(SHOWN..) {
        Some(more) if !more.is_empty() => format!("{} + {} more...", shown[..SHOWN].join(", "), more.len()),
        _ => shown.join(", "),
    }
}

/// The path of a match.
pub(crate) fn describe_match(wanted: &Value) -> String {
    let kinds = [
        ("prefix", "", "*"),
        ("path_separated_prefix", "PathPrefix:", ""),
        ("path", "", ""),
        ("safe_regex.regex", "regex ", ""),
    ];
    let parts = kinds.iter().filter_map(|(field, before, after)| {
        let value = text(wanted, field);
        (!value.is_empty()).then(|| format!("{before}{value}{after}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// For machines.
pub(crate) fn value(dump: &Value, name: &str) -> Value {
    wanted(dump, name).iter().map(camel).collect()
}
