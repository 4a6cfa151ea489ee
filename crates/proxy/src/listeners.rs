//! The listeners in force, shared by all workers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_config::Listener;

/// All listeners at one moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Table {
    pub(crate) by_name: HashMap<Arc<str>, Arc<Listener>>,
    by_address: HashMap<SocketAddr, Arc<Listener>>,
}

impl Table {
    pub(crate) fn insert(&mut self, listener: Arc<Listener>) {
        self.remove(&listener.name);
        if let Some(at) = listener.address.ip() {
            self.by_address.insert(at, listener.clone());
        }
        self.by_name.insert(listener.name.clone(), listener);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(gone) = self.by_name.remove(name) {
            self.by_address.retain(|_, l| l.name != gone.name);
        }
    }

    /// The unbound listener for an original destination: the exact address, then any address on the port.
    fn for_destination(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), destination.port());
        self.by_address.get(&destination).or_else(|| self.by_address.get(&any)).filter(|l| !l.bound)
    }
}

/// The listeners in force.
#[derive(Debug, Default)]
pub(crate) struct Listeners(ArcSwap<Table>);

impl Listeners {
    pub(crate) fn load(&self) -> Arc<Table> {
        self.0.load_full()
    }

    pub(crate) fn store(&self, table: Table) {
        self.0.store(Arc::new(table));
    }

    /// The listener of a name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Listener>> {
        self.0.load().by_name.get(name).cloned()
    }

    /// Who takes a connection that `accepted` accepted.
    pub(crate) fn hand_over(&self, accepted: &Arc<Listener>, destination: SocketAddr) -> Arc<Listener> {
        if !accepted.hands_over {
            return accepted.clone();
        }
        self.0.load().for_destination(destination).unwrap_or(accepted).clone()
    }
}
