//! The server's end.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use envoy_api::envoy::config::core::v3::{ControlPlane, Node};
use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as WireResource,
};
use envoy_api::{Any, google::protobuf::value::Kind};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::status::ConnectionStatus;
use crate::subscription::Subscription;
use crate::types;

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

/// What a stream wants of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// These.
    Names(Vec<String>),
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

    /// What a tool asks about the server itself: a type URL that [`types::is_debug`] and the names with it.
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
    fn generate(&self, proxy: &Self::Proxy, kind: &str, wanted: &Wanted) -> Vec<Resource>;
}

/// Types for which a first request without names means everything.
const WILDCARD: [&str; 3] = [types::CLUSTER, types::LISTENER, types::NAME_TABLE];

struct Inner<G> {
    generator: G,
    changes: watch::Sender<u64>,
    connections: Mutex<BTreeMap<u64, ConnectionStatus>>,
    next: AtomicU64,
    pushes: Mutex<BTreeMap<String, u64>>,
    rejects: AtomicU64,
}

/// Serves ADS; cheap to clone.
pub struct AdsServer<G>(Arc<Inner<G>>);

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

/// One stream, delta or state of the world.
struct Session<G: Generator> {
    server: AdsServer<G>,
    id: u64,
    proxy: Option<G::Proxy>,
    metadata: tonic::metadata::MetadataMap,
    extensions: tonic::Extensions,
    subscriptions: HashMap<String, Subscription>,
    nonce: u64,
}

impl<G: Generator> Drop for Session<G> {
    fn drop(&mut self) {
        self.server.0.connections.lock().remove(&self.id);
    }
}

#[allow(clippy::result_large_err, reason = "tonic's own type")]
impl<G: Generator> Session<G> {
    fn new<T>(server: &AdsServer<G>, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, body) = request.into_parts();
        let id = server.0.next.fetch_add(1, Relaxed);
        let session = Self {
            server: server.clone(),
            id,
            proxy: None,
            metadata,
            extensions,
            subscriptions: HashMap::new(),
            nonce: 0,
        };
        (session, body)
    }

    /// The first request says who asks.
    fn admit(&mut self, node: Option<&Node>) -> Result<(), Status> {
        if self.proxy.is_some() {
            return Ok(());
        }
        let node = node.ok_or_else(|| Status::invalid_argument("the first request must carry a node"))?;
        self.proxy = Some(self.server.0.generator.admit(node, &self.metadata, &self.extensions)?);
        let text = |key: &str| match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        };
        let status = ConnectionStatus {
            node: node.id.clone(),
            about: node.clone(),
            cluster: text("CLUSTER_ID").unwrap_or_else(|| "Kubernetes".to_owned()),
            version: text("ISTIO_VERSION").unwrap_or_default(),
            connected: SystemTime::now(),
            types: BTreeMap::new(),
        };
        self.server.0.connections.lock().insert(self.id, status);
        Ok(())
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        format!("{}-{}", self.id, self.nonce)
    }

    fn publish(&self, kind: &str) {
        let Some(subscription) = self.subscriptions.get(kind) else { return };
        if let Some(status) = self.server.0.connections.lock().get_mut(&self.id) {
            status.types.insert(kind.to_owned(), subscription.status.clone());
        }
    }

    fn note_error(&self, kind: &str, error: Option<&String>) {
        if let Some(error) = error {
            self.server.0.rejects.fetch_add(1, Relaxed);
            let node = self.server.0.connections.lock().get(&self.id).map(|c| c.node.clone()).unwrap_or_default();
            tracing::warn!(%node, kind, %error, "the proxy refused the configuration and keeps its last good one");
        }
    }

    fn resources(&self, kind: &str) -> Option<Vec<Resource>> {
        let (proxy, subscription) = (self.proxy.as_ref()?, self.subscriptions.get(kind)?);
        Some(self.server.0.generator.generate(proxy, kind, &subscription.wanted()))
    }

    fn counted(&self, kind: &str) {
        *self.server.0.pushes.lock().entry(kind.to_owned()).or_default() += 1;
    }

    fn control_plane(&self) -> Option<ControlPlane> {
        let identifier = self.server.0.generator.identifier();
        (!identifier.is_empty()).then_some(ControlPlane { identifier })
    }

    /// What a tool asks; it is no proxy, and is not listed as one.
    fn debug(&self, type_url: &str, names: &[String]) -> Result<Vec<(String, Any)>, Status> {
        self.server.0.generator.debug(&self.metadata, &self.extensions, type_url, names)
    }

    /// Answers of one delta request.
    fn delta(&mut self, request: DeltaDiscoveryRequest) -> Result<Vec<DeltaDiscoveryResponse>, Status> {
        if types::is_debug(&request.type_url) {
            if !request.response_nonce.is_empty() {
                return Ok(Vec::new());
            }
            let made = self.debug(&request.type_url, &request.resource_names_subscribe)?;
            let nonce = self.next_nonce();
            let wire = |(name, body)| WireResource { name, resource: Some(body), ..WireResource::default() };
            return Ok(vec![DeltaDiscoveryResponse {
                system_version_info: nonce.clone(),
                resources: made.into_iter().map(wire).collect(),
                type_url: request.type_url,
                nonce,
                control_plane: self.control_plane(),
                ..DeltaDiscoveryResponse::default()
            }]);
        }
        self.admit(request.node.as_ref())?;
        let kind = types::bare(&request.type_url).to_owned();
        let error = request.error_detail.map(|e| e.message);
        self.note_error(&kind, error.as_ref());
        let fresh = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind.clone()).or_insert_with(|| {
            let wildcard = WILDCARD.contains(&kind.as_str()) && request.resource_names_subscribe.is_empty();
            Subscription::open(wildcard, request.initial_resource_versions)
        });
        let waiting = subscription.acknowledge(&request.response_nonce, error);
        let added = subscription.change(request.resource_names_subscribe, &request.resource_names_unsubscribe);
        self.publish(&kind);
        let mut answers = Vec::new();
        if fresh || added || waiting {
            answers.extend(self.push(&kind, fresh || added));
            // Envoy waits for the endpoints of clusters it was sent anew, also of those it already had.
            if fresh && kind == types::CLUSTER {
                answers.extend(self.push(types::ENDPOINT, false));
            }
        }
        Ok(answers)
    }

    /// An answer of one type, when there is something to say (or something was asked).
    fn push(&mut self, kind: &str, asked: bool) -> Option<DeltaDiscoveryResponse> {
        if !self.subscriptions.get_mut(kind)?.may_send() && !asked {
            return None;
        }
        let resources = self.resources(kind)?;
        let difference = self.subscriptions.get_mut(kind)?.difference(resources);
        self.warm_endpoints(kind, &difference.changed);
        if !asked && difference.changed.is_empty() && difference.removed.is_empty() {
            return None;
        }
        let nonce = self.next_nonce();
        self.subscriptions.get_mut(kind)?.sent(nonce.clone());
        self.publish(kind);
        self.counted(kind);
        let wire = |r: Resource| WireResource {
            name: r.name,
            version: r.version,
            resource: Some(r.body),
            ..WireResource::default()
        };
        Some(DeltaDiscoveryResponse {
            system_version_info: nonce.clone(),
            resources: difference.changed.into_iter().map(wire).collect(),
            type_url: types::url(kind),
            removed_resources: difference.removed,
            nonce,
            control_plane: self.control_plane(),
            ..DeltaDiscoveryResponse::default()
        })
    }

    /// Answers of one state-of-the-world request.
    fn world(&mut self, request: DiscoveryRequest) -> Result<Option<DiscoveryResponse>, Status> {
        if types::is_debug(&request.type_url) {
            if !request.response_nonce.is_empty() {
                return Ok(None);
            }
            let made = self.debug(&request.type_url, &request.resource_names)?;
            let nonce = self.next_nonce();
            return Ok(Some(DiscoveryResponse {
                version_info: nonce.clone(),
                resources: made.into_iter().map(|(_, body)| body).collect(),
                type_url: request.type_url,
                nonce,
                control_plane: self.control_plane(),
                ..DiscoveryResponse::default()
            }));
        }
        self.admit(request.node.as_ref())?;
        let kind = types::bare(&request.type_url).to_owned();
        let error = request.error_detail.map(|e| e.message);
        self.note_error(&kind, error.as_ref());
        let fresh = !self.subscriptions.contains_key(&kind);
        let subscription = self.subscriptions.entry(kind.clone()).or_insert_with(|| {
            Subscription::open(WILDCARD.contains(&kind.as_str()) && request.resource_names.is_empty(), HashMap::new())
        });
        let waiting = subscription.acknowledge(&request.response_nonce, error);
        let stale = !request.response_nonce.is_empty() && request.response_nonce != subscription.status.sent;
        if stale {
            return Ok(None);
        }
        let changed = subscription.replace(request.resource_names);
        self.publish(&kind);
        Ok(if fresh || changed || waiting { self.push_world(&kind, fresh || changed) } else { None })
    }

    /// Everything of one type, when any of it has changed.
    fn push_world(&mut self, kind: &str, asked: bool) -> Option<DiscoveryResponse> {
        if !self.subscriptions.get_mut(kind)?.may_send() && !asked {
            return None;
        }
        let resources = self.resources(kind)?;
        let difference = self.subscriptions.get_mut(kind)?.difference(resources.clone());
        self.warm_endpoints(kind, &difference.changed);
        if !asked && difference.changed.is_empty() && difference.removed.is_empty() {
            return None;
        }
        let nonce = self.next_nonce();
        self.subscriptions.get_mut(kind)?.sent(nonce.clone());
        self.publish(kind);
        self.counted(kind);
        Some(DiscoveryResponse {
            version_info: nonce.clone(),
            resources: resources.into_iter().map(|r| r.body).collect(),
            type_url: types::url(kind),
            nonce,
            control_plane: self.control_plane(),
            ..DiscoveryResponse::default()
        })
    }

    /// A changed cluster warms in Envoy until endpoints come, and Envoy does not ask for those it already follows: they
    /// are sent again with the next answer of their type, which follows the clusters'.
    fn warm_endpoints(&mut self, kind: &str, changed: &[Resource]) {
        if kind == types::CLUSTER
            && let Some(endpoints) = self.subscriptions.get_mut(types::ENDPOINT)
        {
            changed.iter().for_each(|cluster| endpoints.forget(&cluster.name));
        }
    }

    /// Subscribed types in the order of pushes.
    fn order(&self) -> Vec<&'static str> {
        types::ORDER.into_iter().filter(|kind| self.subscriptions.contains_key(*kind)).collect()
    }
}

/// Answers waiting for a slow reader; it then holds up only itself.
const QUEUE: usize = 16;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<G: Generator> AggregatedDiscoveryService for AdsServer<G> {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (mut session, mut requests) = Session::new(self, request);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut changes = self.0.changes.subscribe();
        tokio::spawn(async move {
            loop {
                let answers: Vec<Result<DiscoveryResponse, Status>> = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => match session.world(request) {
                            Ok(answer) => answer.into_iter().map(Ok).collect(),
                            Err(status) => vec![Err(status)],
                        },
                        _ => return,
                    },
                    changed = changes.changed() => match changed {
                        Ok(()) => session.order().into_iter().filter_map(|k| session.push_world(k, false)).map(Ok).collect(),
                        Err(_) => return,
                    },
                };
                for answer in answers {
                    let last = answer.is_err();
                    if sender.send(answer).await.is_err() || last {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (mut session, mut requests) = Session::new(self, request);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut changes = self.0.changes.subscribe();
        tokio::spawn(async move {
            loop {
                let answers: Vec<Result<DeltaDiscoveryResponse, Status>> = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => match session.delta(request) {
                            Ok(answers) => answers.into_iter().map(Ok).collect(),
                            Err(status) => vec![Err(status)],
                        },
                        _ => return,
                    },
                    changed = changes.changed() => match changed {
                        Ok(()) => session.order().into_iter().filter_map(|k| session.push(k, false)).map(Ok).collect(),
                        Err(_) => return,
                    },
                };
                for answer in answers {
                    let last = answer.is_err();
                    if sender.send(answer).await.is_err() || last {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
