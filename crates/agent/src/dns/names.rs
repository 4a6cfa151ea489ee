//! The names of the mesh.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::ops::Range;
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

/// Addresses by name. A mesh has tens of thousands of names, of which a pod asks for a few: they are kept by their hash,
/// whose key is the table's own and random, so that nobody can look for a name that is taken for another.
#[derive(Debug, Default)]
struct Table {
    places: HashMap<u64, Range<u32>>,
    addresses: Vec<IpAddr>,
    hasher: RandomState,
}

impl Table {
    /// Names with the same addresses.
    fn insert(&mut self, names: impl IntoIterator<Item = String>, ips: impl IntoIterator<Item = IpAddr>) {
        let length = |all: &Vec<IpAddr>| u32::try_from(all.len()).unwrap_or(u32::MAX);
        let start = length(&self.addresses);
        self.addresses.extend(ips);
        let place = start..length(&self.addresses);
        self.places.extend(names.into_iter().map(|name| (self.hasher.hash_one(name), place.clone())));
    }

    fn find(&self, name: &str) -> Option<&[IpAddr]> {
        let place = self.places.get(&self.hasher.hash_one(name))?;
        self.addresses.get(usize::try_from(place.start).ok()?..usize::try_from(place.end).ok()?)
    }

    /// A name as it is, or below a wildcard.
    fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Some(found) = self.find(name) {
            return Some(found.to_vec());
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.find(&format!("*.{parent}")) {
                return Some(found.to_vec());
            }
            rest = parent;
        }
        None
    }
}

/// Names and addresses of the mesh.
#[derive(Debug)]
pub(crate) struct Names {
    table: ArcSwap<Table>,
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
        let mut all = Table::default();
        for (host, info) in &table.table {
            let mut names = vec![host.trim_end_matches('.').to_ascii_lowercase()];
            if !info.shortname.is_empty() {
                // What a resolver's search list may leave of the name.
                let (short, namespace) = (info.shortname.to_ascii_lowercase(), &info.namespace);
                names.extend([format!("{short}.{namespace}"), format!("{short}.{namespace}.svc")]);
                names.extend((*namespace == self.namespace).then_some(short));
            }
            all.insert(names, info.ips.iter().filter_map(|ip| ip.parse().ok()));
        }
        all.addresses.shrink_to_fit();
        all.places.shrink_to_fit();
        self.table.store(Arc::new(all));
    }

    /// Looks a name up: as it is or below a wildcard, then without the domains of the search list.
    pub(crate) fn find(&self, name: &str) -> Option<Known> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let table = self.table.load();
        if let Some(addresses) = table.lookup(&name) {
            return Some(Known { alias: None, addresses });
        }
        let shorter = self.search.iter().filter_map(|domain| name.strip_suffix(domain)?.strip_suffix('.'));
        shorter.filter(|rest| !rest.is_empty()).find_map(|rest| {
            let addresses = table.lookup(rest)?;
            Some(Known { alias: Some(format!("{rest}.")), addresses })
        })
    }
}
