//! The server's end.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use envoy_api::Any;
use envoy_api::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

use crate::names::Lists;
use crate::status::ConnectionStatus;

/// One resource as it goes on the wire; its bytes are shared by all who are sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Hash of its content.
    pub version: String,
    /// The message.
    pub body: Any,
}

/// All resources of one type for one subscriber. Where nothing has changed the same ones are given again: they are told
/// apart by where they are first.
pub type Answer = Arc<[Arc<Resource>]>;

/// What a stream wants of a type. Streams that want the same names have one list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// These, in order.
    Names(Arc<[String]>),
}

/// By the length of a list and some of its names: of a mesh there may be thousands, and equal lists are mostly one.
impl Hash for Wanted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self::Names(names) = self else { return };
        names.len().hash(state);
        for quarter in 0..=4 {
            names.get(quarter * names.len().saturating_sub(1) / 4).hash(state);
        }
    }
}

/// Makes resources.
pub trait Generator: Send + Sync + 'static {
    /// What it needs to know of a connected proxy.
    type Proxy: Send + Sync + 'static;

    /// Admits a proxy.
    ///
    /// # Errors
    /// When its node is malformed, or it is not who it says it is.
    #[allow(clippy::result_large_err, reason = "tonic's own type")]
    fn admit(
        &self,
        node: &Node,
        metadata: &tonic::metadata::MetadataMap,
        extensions: &tonic::Extensions,
    ) -> Result<Self::Proxy, Status>;

    /// Who answers, for `ControlPlane.identifier`.
    fn identifier(&self) -> String {
        String::new()
    }

    /// What a tool asks about the server itself: a type URL that [`crate::types::is_debug`] and the names with it.
    ///
    /// # Errors
    /// When the caller may not know, or nothing is known.
    #[allow(clippy::result_large_err, reason = "tonic's own type")]
    fn debug(
        &self,
        _metadata: &tonic::metadata::MetadataMap,
        _extensions: &tonic::Extensions,
        type_url: &str,
        _names: &[String],
    ) -> Result<Vec<(String, Any)>, Status> {
        Err(Status::unimplemented(format!("{type_url} is not served here")))
    }

    /// All resources of a bare type name that the proxy wants.
    fn generate(&self, proxy: &Self::Proxy, kind: &str, wanted: &Wanted) -> Answer;
}

/// What all streams share.
pub(crate) struct Inner<G> {
    pub(crate) generator: G,
    changes: watch::Sender<u64>,
    pub(crate) lists: Lists,
    pub(crate) connections: Mutex<BTreeMap<u64, ConnectionStatus>>,
    pub(crate) next: AtomicU64,
    pub(crate) pushes: Mutex<BTreeMap<String, u64>>,
    pub(crate) rejects: AtomicU64,
}

/// Serves ADS; cheap to clone.
pub struct AdsServer<G>(pub(crate) Arc<Inner<G>>);

impl<G> Clone for AdsServer<G> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<G: Generator> AdsServer<G> {
    /// A server over a generator.
    pub fn new(generator: G) -> Self {
        Self(Arc::new(Inner {
            generator,
            changes: watch::Sender::new(0),
            lists: Lists::default(),
            connections: Mutex::default(),
            next: AtomicU64::new(1),
            pushes: Mutex::default(),
            rejects: AtomicU64::new(0),
        }))
    }

    /// The generator.
    pub fn generator(&self) -> &G {
        &self.0.generator
    }

    /// Tells of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Something changed: every stream looks what it must be sent. Several changes at once are one to a busy stream.
    pub fn notify(&self) {
        self.0.changes.send_modify(|n| *n += 1);
    }

    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.0.connections.lock().values().cloned().collect()
    }

    /// Answers sent so far, by bare type name.
    pub fn pushes(&self) -> BTreeMap<String, u64> {
        self.0.pushes.lock().clone()
    }

    /// Answers refused so far.
    pub fn rejects(&self) -> u64 {
        self.0.rejects.load(Relaxed)
    }
}
