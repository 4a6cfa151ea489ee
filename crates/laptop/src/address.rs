//! The mesh's address plan: who gets which IP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;

use crate::paths::write_atomic;

/// The bridge: every pod's gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// Prefix length of the pods' network 10.244.0.0/16.
pub const POD_PREFIX: u8 = 16;
/// Where cluster DNS answers, as on most clusters.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Where istiod answers.
pub const ISTIOD: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 15);
/// Pods are numbered from here on in 10.244.0.0/16.
const FIRST_POD: u16 = 10;
const LAST_POD: u16 = 0xFFFE;

/// Gives addresses to pods; one is used again only after all others.
#[derive(Debug)]
pub struct PodAddresses {
    next: u16,
    taken: BTreeSet<u16>,
}

impl Default for PodAddresses {
    fn default() -> Self {
        Self { next: FIRST_POD, taken: BTreeSet::new() }
    }
}

impl PodAddresses {
    /// A free address; `None` when all 65,000 are in use.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        for _ in FIRST_POD..=LAST_POD {
            let number = self.next;
            self.next = if number == LAST_POD { FIRST_POD } else { number + 1 };
            if self.taken.insert(number) {
                let [high, low] = number.to_be_bytes();
                return Some(Ipv4Addr::new(10, 244, high, low));
            }
        }
        None
    }

    /// Gives one back.
    pub fn free(&mut self, address: Ipv4Addr) {
        let [_, _, high, low] = address.octets();
        self.taken.remove(&u16::from_be_bytes([high, low]));
    }
}

/// Gives cluster IPs to services: the same name gets the same address, in this run and in later ones.
#[derive(Debug, Default)]
pub struct ServiceAddresses {
    by_name: BTreeMap<String, Ipv4Addr>,
}

impl ServiceAddresses {
    /// As a former run left them; nothing when there was none.
    pub fn load(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        Self { by_name: serde_json::from_slice(&text).unwrap_or_default() }
    }

    /// Remembers for the next run.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        write_atomic(path, &serde_json::to_vec_pretty(&self.by_name).unwrap_or_default())
    }

    /// The address of `namespace/name`; `asked` is one the user chose.
    pub fn of(&mut self, namespace: &str, name: &str, asked: Option<Ipv4Addr>) -> Ipv4Addr {
        let key = format!("{namespace}/{name}");
        if let Some(asked) = asked {
            self.by_name.insert(key, asked);
            return asked;
        }
        if let Some(known) = self.by_name.get(&key) {
            return *known;
        }
        let taken: BTreeSet<Ipv4Addr> = self.by_name.values().copied().collect();
        // 10.96.1.0 to 10.96.255.255; the first 256 are for DNS, istiod and addresses that people choose.
        let mut number = 256 + u32::try_from(xxhash_rust::xxh64::xxh64(key.as_bytes(), 0) % 65_280).unwrap_or(0);
        let mut address = address_of(number);
        for _ in 0..65_280 {
            if !taken.contains(&address) {
                break;
            }
            number = if number == 65_535 { 256 } else { number + 1 };
            address = address_of(number);
        }
        self.by_name.insert(key, address);
        address
    }
}

fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_fresh_addresses_before_used_ones() {
        let mut addresses = PodAddresses::default();
        let first = addresses.take().expect("free");
        assert_eq!(first, Ipv4Addr::new(10, 244, 0, 10));
        addresses.free(first);
        assert_eq!(addresses.take(), Some(Ipv4Addr::new(10, 244, 0, 11)));
    }

    #[test]
    fn services_keep_their_addresses_over_runs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("vips.json");
        let mut addresses = ServiceAddresses::default();
        let mine = addresses.of("production", "payment-api", None);
        let all: BTreeSet<_> = (0..500).map(|i| addresses.of("production", &format!("s{i}"), None)).collect();
        assert_eq!(all.len(), 500);
        addresses.save(&file).expect("saved");
        let mut later = ServiceAddresses::load(&file);
        assert_eq!(later.of("production", "payment-api", None), mine);
        let chosen = Ipv4Addr::new(10, 96, 0, 77);
        assert_eq!(later.of("a", "b", Some(chosen)), chosen);
    }
}
