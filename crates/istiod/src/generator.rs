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
    /// What was translated before.
    pub(crate) translated: Translated,
}

impl Generator for Translator {
    type Proxy = Proxy;

    fn admit(
        &self,
        node: &Node,
        metadata: &tonic::metadata::MetadataMap,
        extensions: &tonic::Extensions,
    ) -> Result<Proxy, Status> {
        let proxy = Proxy::from_node(node).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if extensions.get::<Secure>().is_some() {
            let caller = citadel::caller(metadata, extensions, &self.tokens, &self.trust_domain)?;
            if caller.namespace != proxy.namespace || caller.service_account != proxy.service_account {
                let says = format!("{}/{}", proxy.namespace, proxy.service_account);
                return Err(Status::permission_denied(format!("{caller} may not connect as a proxy of {says}")));
            }
        }
        Ok(proxy)
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

    fn generate(&self, proxy: &Proxy, kind: &str, wanted: &Wanted) -> Vec<Resource> {
        let snapshot = self.snapshot.read().clone();
        match kind {
            types::CLUSTER | types::ENDPOINT | types::ROUTE => {
                let question = (kind.to_owned(), wanted.clone(), Outlook::of(&snapshot, proxy));
                self.translated.answer(&snapshot, question, || translate(&snapshot, proxy, kind, wanted))
            }
            _ => translate(&snapshot, proxy, kind, wanted),
        }
    }
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
    made.into_iter().map(|r| Resource { name: r.name, version: r.version, body: r.body }).collect()
}
