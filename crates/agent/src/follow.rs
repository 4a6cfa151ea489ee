//! What xDS brings, handed to the data plane and to DNS.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use envoy_api::Any;
use envoy_api::istio::networking::nds::v1::NameTable;
use proxy::Proxy;
use tokio::sync::Notify;
use xds::{Applied, Apply, Want, types};

use crate::dns::Names;

/// Hands configuration on.
pub(crate) struct Follower {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) names: Arc<Names>,
    pub(crate) token: PathBuf,
    /// Turns true when everything the first configuration refers to is in force.
    pub(crate) complete: Arc<AtomicBool>,
    /// Told when something has come into force.
    pub(crate) progress: Arc<Notify>,
    pub(crate) listeners_seen: bool,
}

impl Apply for Follower {
    fn apply(&mut self, kind: &str, added: &[(String, Any)], removed: &[String]) -> Applied {
        let result = if kind == types::NAME_TABLE {
            self.name_table(added)
        } else {
            let refused = self.proxy.apply(kind, added, removed);
            refused.map_err(|all| all.into_iter().map(|r| (r.name, r.reason)).collect())
        };
        self.listeners_seen |= kind == types::LISTENER;
        if self.listeners_seen && self.proxy.is_complete() {
            self.complete.store(true, Relaxed);
        }
        self.progress.notify_one();
        result
    }

    fn wanted(&self) -> Vec<(&'static str, Want)> {
        let wanted = self.proxy.wanted();
        vec![
            (types::CLUSTER, Want::All),
            (types::ENDPOINT, Want::Names(wanted.endpoints.into_iter().collect())),
            (types::LISTENER, Want::All),
            (types::ROUTE, Want::Names(wanted.routes.into_iter().collect())),
            (types::SECRET, Want::Names(wanted.secrets.into_iter().collect())),
            (types::NAME_TABLE, Want::All),
        ]
    }

    fn token(&self) -> Option<String> {
        std::fs::read_to_string(&self.token).ok()
    }
}

impl Follower {
    fn name_table(&self, added: &[(String, Any)]) -> Applied {
        for (name, any) in added {
            let table: NameTable = envoy_api::unpack(any).map_err(|e| vec![(name.clone(), e.to_string())])?;
            self.names.replace(&table);
        }
        Ok(())
    }
}
