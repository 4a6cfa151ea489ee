//! What a proxy is sent: the snapshot in force, translated.

use std::sync::{Arc, OnceLock, Weak};

use citadel::Tokens;
use envoy_api::Any;
use envoy_api::envoy::config::core::v3::Node;
use mesh::Snapshot;
use parking_lot::RwLock;
use pilot::{Part, Proxy};
use tonic::Status;
use xds::{Answer, Generator, Wanted, types};

use crate::debug;
use crate::entitled::Entitled;
use crate::server::State;
use crate::translated::{self, Translated};

/// Marks a request that came over TLS; only those must prove who they are, as with Istio's two ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secure;

/// Translates the snapshot in force.
pub(crate) struct Translator {
    pub(crate) snapshot: RwLock<Snapshot>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) trust_domain: String,
    /// What tools ask about.
    pub(crate) state: OnceLock<Weak<State>>,
    /// Who may have private keys.
    pub(crate) entitled: Entitled,
    /// What was translated before.
    pub(crate) translated: Translated,
}

/// A connected proxy.
#[derive(Debug)]
pub(crate) struct Client {
    proxy: Arc<Proxy>,
    /// It has proved to be what its node says.
    proved: bool,
}

impl Generator for Translator {
    type Proxy = Client;

    fn admit(
        &self,
        node: &Node,
        metadata: &tonic::metadata::MetadataMap,
        extensions: &tonic::Extensions,
    ) -> Result<Client, Status> {
        let proxy = Proxy::from_node(node).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let proved = extensions.get::<Secure>().is_some();
        if proved {
            let caller = citadel::caller(metadata, extensions, &self.tokens, &self.trust_domain)?;
            if caller.namespace != proxy.namespace || caller.service_account != proxy.service_account {
                let says = format!("{}/{}", proxy.namespace, proxy.service_account);
                return Err(Status::permission_denied(format!("{caller} may not connect as a proxy of {says}")));
            }
        }
        let client = Client { proxy: Arc::new(proxy), proved };
        if self.snapshot.read().named_secrets().iter().any(|(namespace, _)| *namespace == client.proxy.namespace) {
            // The answer is there when the proxy asks for the first of them.
            self.may_have_keys(&client);
        }
        Ok(client)
    }

    fn identifier(&self) -> String {
        debug::identifier()
    }

    fn debug(
        &self,
        metadata: &tonic::metadata::MetadataMap,
        extensions: &tonic::Extensions,
        type_url: &str,
        names: &[String],
    ) -> Result<Vec<(String, Any)>, Status> {
        if extensions.get::<Secure>().is_none() {
            return Err(Status::unauthenticated(format!("{type_url} is served over TLS only, on port 15012")));
        }
        let caller = citadel::caller(metadata, extensions, &self.tokens, &self.trust_domain)?;
        let state =
            self.state.get().and_then(Weak::upgrade).ok_or_else(|| Status::unavailable("istiod is starting"))?;
        debug::resources(&state, &caller, type_url, names)
    }

    fn generate(&self, client: &Client, kind: &str, wanted: &Wanted) -> Answer {
        let snapshot = self.snapshot.read().clone();
        let replicas =
            || matches!(wanted, Wanted::Names(names) if names.iter().any(|name| name == pilot::names::LOCAL_CLUSTER));
        let parts: &[Part] = match kind {
            types::CLUSTER => &[Part::CalledClusters, Part::OwnClusters],
            types::ENDPOINT if replicas() => &[Part::CalledEndpoints, Part::Replicas],
            types::ENDPOINT => &[Part::CalledEndpoints],
            types::LISTENER => &[Part::Listeners],
            types::ROUTE => &[Part::CalledRoutes],
            types::NAME_TABLE => &[Part::CalledNames],
            types::SECRET => return self.secrets(&snapshot, client, wanted),
            _ => return Answer::default(),
        };
        self.translated.answer(&snapshot, &client.proxy, parts, wanted)
    }
}

impl Translator {
    /// Secrets of Kubernetes that a proxy asks for by name, as far as it may have them.
    fn secrets(&self, snapshot: &Snapshot, client: &Client, wanted: &Wanted) -> Answer {
        let Wanted::Names(names) = wanted else { return Answer::default() };
        if names.is_empty() || !client.proved {
            return Answer::default();
        }
        let keys = self.may_have_keys(client);
        let namespace = &client.proxy.namespace;
        let made = names.iter().filter_map(|name| pilot::secret(snapshot, namespace, name, keys));
        made.map(|made| Arc::new(translated::resource(made))).collect()
    }

    fn may_have_keys(&self, client: &Client) -> bool {
        let state = self.state.get().cloned();
        let changed = move || {
            if let Some(state) = state.as_ref().and_then(Weak::upgrade) {
                state.ads.notify();
            }
        };
        client.proved && self.entitled.is(&client.proxy.namespace, &client.proxy.service_account, changed)
    }
}
