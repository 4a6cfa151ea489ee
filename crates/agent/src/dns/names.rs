//! The names of the mesh.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use envoy_api::istio::networking::nds::v1::NameTable;

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The full name with its last dot, where a resolver's search list was behind what was asked.
    pub(crate) alias: Option<String>,
    /// Its addresses, of either family.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Names and addresses of the mesh.
#[derive(Debug)]
pub(crate) struct Names {
    table: ArcSwap<HashMap<String, Arc<[IpAddr]>>>,
    namespace: String,
    /// What resolvers put behind a name that is not found, from `/etc/resolv.conf`.
    search: Vec<String>,
}

impl Names {
    /// No names yet, for a workload of a namespace.
    pub(crate) fn new(namespace: &str, search: Vec<String>) -> Self {
        let search = search.into_iter().map(|s| s.trim_matches('.').to_ascii_lowercase()).collect();
        Self { table: ArcSwap::default(), namespace: namespace.to_owned(), search }
    }

    /// Puts a new table in force.
    pub(crate) fn replace(&self, table: &NameTable) {
        let mut all = HashMap::new();
        for (host, info) in &table.table {
            let ips: Arc<[IpAddr]> = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            if !info.shortname.is_empty() {
                // What a resolver's search list may leave of the name.
                let (short, namespace) = (info.shortname.to_ascii_lowercase(), &info.namespace);
                all.insert(format!("{short}.{namespace}"), ips.clone());
                all.insert(format!("{short}.{namespace}.svc"), ips.clone());
                if *namespace == self.namespace {
                    all.insert(short, ips.clone());
                }
            }
            all.insert(host.trim_end_matches('.').to_ascii_lowercase(), ips);
        }
        self.table.store(Arc::new(all));
    }

    /// Looks a name up: as it is, below a wildcard, then without the domains of the search list.
    pub(crate) fn find(&self, name: &str) -> Option<Known> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let table = self.table.load();
        if let Some(addresses) = lookup(&table, &name) {
            return Some(Known { alias: None, addresses });
        }
        let shorter = self.search.iter().filter_map(|domain| name.strip_suffix(domain)?.strip_suffix('.'));
        shorter.filter(|rest| !rest.is_empty()).find_map(|rest| {
            let addresses = lookup(&table, rest)?;
            Some(Known { alias: Some(format!("{rest}.")), addresses })
        })
    }
}

fn lookup(table: &HashMap<String, Arc<[IpAddr]>>, name: &str) -> Option<Vec<IpAddr>> {
    if let Some(found) = table.get(name) {
        return Some(found.to_vec());
    }
    let mut rest = name;
    while let Some((_, parent)) = rest.split_once('.') {
        if let Some(found) = table.get(&format!("*.{parent}")) {
            return Some(found.to_vec());
        }
        rest = parent;
    }
    None
}
