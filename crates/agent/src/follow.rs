//! What xDS brings, handed to the data plane and to DNS.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

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
    /// Only secrets are missing, and somebody looks how long.
    pub(crate) waits: bool,
}

/// How long a secret is waited for before a sidecar is ready without it: a control plane may leave one that it does not give
/// unanswered (Envoy's `initial_fetch_timeout`).
const FIRST_FETCH: Duration = Duration::from_secs(15);

async fn go_without(proxy: Arc<Proxy>, complete: Arc<AtomicBool>, progress: Arc<Notify>) {
    tokio::time::sleep(FIRST_FETCH).await;
    if proxy.is_complete_but_for_secrets() && !complete.swap(true, Relaxed) {
        tracing::warn!("a secret has not come; calls that need it fail until it does");
        progress.notify_one();
    }
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
        // To look costs as much as there are clusters; what was complete once is not looked at again.
        if self.listeners_seen && !self.complete.load(Relaxed) {
            self.look();
        }
        self.progress.notify_one();
        result
    }

    fn wanted(&self) -> Vec<(&'static str, Want)> {
        let wanted = self.proxy.wanted();
        vec![
            (types::CLUSTER, Want::All),
            (types::ENDPOINT, Want::Names(wanted.endpoints.iter().map(ToString::to_string).collect())),
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
    /// Looks whether everything is there.
    fn look(&mut self) {
        if self.proxy.is_complete() {
            self.complete.store(true, Relaxed);
        } else if !self.waits && self.proxy.is_complete_but_for_secrets() {
            self.waits = true;
            tokio::spawn(go_without(self.proxy.clone(), self.complete.clone(), self.progress.clone()));
        }
    }

    fn name_table(&self, added: &[(String, Any)]) -> Applied {
        for (name, any) in added {
            let table: NameTable = envoy_api::unpack(any).map_err(|e| vec![(name.clone(), e.to_string())])?;
            self.names.replace(&table);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dns::Resolvers;

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_never_answered_does_not_hold_a_sidecar_for_ever() {
        let proxy = Proxy::start(proxy::ProxyOptions {
            workers: 1,
            node_id: "sidecar~127.0.0.1~pay-1.prod~prod.svc.cluster.local".to_owned(),
            telemetry: telemetry::Telemetry::new(telemetry::Workload::unknown()),
            secrets: Arc::default(),
            undecided: proxy::UNDECIDED,
        })
        .unwrap();
        let complete: Arc<AtomicBool> = Arc::default();
        let mut follower = Follower {
            proxy,
            names: Arc::new(Names::new("prod", Resolvers::of_pod().search)),
            token: PathBuf::new(),
            complete: complete.clone(),
            progress: Arc::default(),
            listeners_seen: false,
            waits: false,
        };
        let secret = json!({"name": "kubernetes://own-cacert", "sds_config": {"ads": {}}});
        let tls = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context_sds_secret_config": secret},
        });
        let cluster = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c", "type": "STATIC",
            "transport_socket": {"name": "tls", "typed_config": tls},
        });
        let cluster = [("c".to_owned(), envoy_api::any_from_json(cluster).unwrap())];
        follower.apply(types::CLUSTER, &cluster, &[]).unwrap();
        follower.apply(types::LISTENER, &[], &[]).unwrap();
        let asked = follower.wanted().into_iter().find(|(kind, _)| *kind == types::SECRET).map(|(_, want)| want);
        assert_eq!(asked, Some(Want::Names(["kubernetes://own-cacert".to_owned()].into())));
        assert!(!complete.load(Relaxed), "it is waited for");
        tokio::time::sleep(FIRST_FETCH * 2).await;
        assert!(complete.load(Relaxed));

        // Told that there is none, nobody waits.
        complete.store(false, Relaxed);
        follower.apply(types::SECRET, &[], &["kubernetes://own-cacert".to_owned()]).unwrap();
        assert!(complete.load(Relaxed));
    }
}
