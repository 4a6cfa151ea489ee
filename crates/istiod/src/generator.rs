//! What a proxy is sent: the snapshot in force, translated.

use std::sync::{Arc, OnceLock, Weak};

use citadel::Tokens;
use envoy_api::Any;
use envoy_api::envoy::config::core::v3::Node;
use mesh::Snapshot;
use parking_lot::RwLock;
use pilot::{Outlook, Proxy};
use tonic::Status;
use xds::{Generator, Resource, Wanted, types};

use crate::debug;
use crate::entitled::Entitled;
use crate::server::State;
use crate::translated::Translated;

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
    proxy: Proxy,
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
        let client = Client { proxy, proved };
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

    fn generate(&self, client: &Client, kind: &str, wanted: &Wanted) -> Vec<Resource> {
        let snapshot = self.snapshot.read().clone();
        let proxy = &client.proxy;
        match kind {
            types::SECRET => self.secrets(&snapshot, client, wanted),
            types::CLUSTER | types::ENDPOINT | types::ROUTE => {
                let question = (kind.to_owned(), wanted.clone(), Outlook::of(&snapshot, proxy));
                self.translated.answer(&snapshot, question, || translate(&snapshot, proxy, kind, wanted))
            }
            _ => translate(&snapshot, proxy, kind, wanted),
        }
    }
}

impl Translator {
    /// Secrets of Kubernetes that a proxy asks for by name, as far as it may have them.
    fn secrets(&self, snapshot: &Snapshot, client: &Client, wanted: &Wanted) -> Vec<Resource> {
        let Wanted::Names(names) = wanted else { return Vec::new() };
        if names.is_empty() || !client.proved {
            return Vec::new();
        }
        let keys = self.may_have_keys(client);
        let namespace = &client.proxy.namespace;
        let made = names.iter().filter_map(|name| pilot::secret(snapshot, namespace, name, keys));
        made.map(resource).collect()
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

fn resource(made: pilot::Resource) -> Resource {
    Resource { name: made.name, version: made.version, body: made.body }
}

fn translate(snapshot: &Snapshot, proxy: &Proxy, kind: &str, wanted: &Wanted) -> Vec<Resource> {
    let names = match wanted {
        Wanted::Names(names) => names.as_slice(),
        Wanted::All => &[],
    };
    let made = match kind {
        types::CLUSTER => pilot::clusters(snapshot, proxy),
        types::ENDPOINT => pilot::endpoints(snapshot, proxy, names),
        types::LISTENER => pilot::listeners(snapshot, proxy),
        types::ROUTE => pilot::routes(snapshot, proxy, names),
        types::NAME_TABLE => pilot::name_table(snapshot, proxy),
        _ => Vec::new(),
    };
    made.into_iter().map(resource).collect()
}
