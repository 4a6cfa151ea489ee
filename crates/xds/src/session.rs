//! One ADS stream at the server: requests in, answers out, without the wire.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use envoy_api::envoy::config::core::v3::{ControlPlane, Node};
use envoy_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_api::google::protobuf::value::Kind;
use envoy_api::google::rpc::Status as RpcStatus;
use tonic::{Request, Status};

use crate::pieces::Outgoing;
use crate::server::{AdsServer, Answer, Generator, Resource};
use crate::status::ConnectionStatus;
use crate::subscription::{Difference, Subscription};
use crate::types;

/// Types for which a first request without names means everything.
const WILDCARD: [&str; 3] = [types::CLUSTER, types::LISTENER, types::NAME_TABLE];

/// A page of the server itself: the answer's nonce, and its parts.
type Page = (String, Vec<Arc<Resource>>);

/// One stream, delta or state of the world.
pub(crate) struct Session<G: Generator> {
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
    pub(crate) fn new<T>(server: &AdsServer<G>, request: Request<T>) -> (Self, T) {
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

    fn resources(&mut self, kind: &str) -> Option<Answer> {
        let wanted = self.subscriptions.get(kind)?.wanted();
        Some(self.server.0.generator.generate(self.proxy.as_ref()?, kind, &wanted))
    }

    fn counted(&self, kind: &str) {
        *self.server.0.pushes.lock().entry(kind.to_owned()).or_default() += 1;
    }

    fn control_plane(&self) -> Option<ControlPlane> {
        let identifier = self.server.0.generator.identifier();
        (!identifier.is_empty()).then_some(ControlPlane { identifier })
    }

    /// Whether a nonce is of an answer on this stream. Istio's own tools put the time of day into their first question.
    fn is_ours(&self, nonce: &str) -> bool {
        nonce.split_once('-').is_some_and(|(stream, _)| stream.parse() == Ok(self.id))
    }

    /// What a tool asks, with the nonce of the answer; nothing for its acknowledgement. It is no proxy, and is not listed
    /// as one.
    fn debug(&mut self, type_url: &str, acknowledged: &str, names: &[String]) -> Result<Option<Page>, Status> {
        if self.is_ours(acknowledged) {
            return Ok(None);
        }
        let made = self.server.0.generator.debug(&self.metadata, &self.extensions, type_url, names)?;
        let part = |(name, body)| Arc::new(Resource { name, version: String::new(), body });
        Ok(Some((self.next_nonce(), made.into_iter().map(part).collect())))
    }

    /// Notes a request; whether it is the first of its type, and whether a change waited for its acknowledgement.
    fn received(
        &mut self,
        kind: &str,
        nonce: &str,
        error: Option<RpcStatus>,
        open: impl FnOnce() -> Subscription,
    ) -> (bool, bool) {
        let error = error.map(|e| e.message);
        self.note_error(kind, error.as_ref());
        let fresh = !self.subscriptions.contains_key(kind);
        let subscription = self.subscriptions.entry(kind.to_owned()).or_insert_with(open);
        (fresh, subscription.acknowledge(nonce, error))
    }

    /// What must go out of one type now: its nonce, what has changed, and all there is; noted as sent.
    fn due(&mut self, kind: &str, asked: bool) -> Option<(String, Difference, Answer)> {
        if !self.subscriptions.get_mut(kind)?.may_send() && !asked {
            return None;
        }
        let resources = self.resources(kind)?;
        let difference = self.subscriptions.get_mut(kind)?.difference(&resources);
        self.warm_endpoints(kind, &difference.changed);
        if !asked && difference.changed.is_empty() && difference.removed.is_empty() {
            return None;
        }
        let nonce = self.next_nonce();
        self.subscriptions.get_mut(kind)?.sent(nonce.clone());
        self.publish(kind);
        self.counted(kind);
        Some((nonce, difference, resources))
    }

    /// Answers of one delta request.
    pub(crate) fn delta(
        &mut self,
        request: DeltaDiscoveryRequest,
    ) -> Result<Vec<Outgoing<DeltaDiscoveryResponse>>, Status> {
        if types::is_debug(&request.type_url) {
            let page = self.debug(&request.type_url, &request.response_nonce, &request.resource_names_subscribe)?;
            let answer = page.map(|(nonce, parts)| self.delta_answer(request.type_url, nonce, parts, Vec::new()));
            return Ok(answer.into_iter().collect());
        }
        self.admit(request.node.as_ref())?;
        let kind = types::bare(&request.type_url).to_owned();
        let wildcard = WILDCARD.contains(&kind.as_str()) && request.resource_names_subscribe.is_empty();
        let open = || Subscription::open(wildcard, request.initial_resource_versions);
        let (fresh, waiting) = self.received(&kind, &request.response_nonce, request.error_detail, open);
        let added = self.subscriptions.get_mut(&kind).is_some_and(|subscription| {
            let renames =
                !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
            let added = subscription.change(request.resource_names_subscribe, &request.resource_names_unsubscribe);
            if renames {
                subscription.share(&self.server.0.lists);
            }
            added
        });
        self.publish(&kind);
        let mut answers = Vec::new();
        if fresh || added || waiting {
            answers.extend(self.push(&kind, fresh || added));
            if kind == types::CLUSTER {
                answers.extend(self.push(types::ENDPOINT, false));
            }
        }
        Ok(answers)
    }

    /// An answer of one type, when there is something to say (or something was asked).
    fn push(&mut self, kind: &str, asked: bool) -> Option<Outgoing<DeltaDiscoveryResponse>> {
        let (nonce, difference, _) = self.due(kind, asked)?;
        Some(self.delta_answer(types::url(kind), nonce, difference.changed, difference.removed))
    }

    fn delta_answer(
        &self,
        type_url: String,
        nonce: String,
        resources: Vec<Arc<Resource>>,
        removed_resources: Vec<String>,
    ) -> Outgoing<DeltaDiscoveryResponse> {
        let message = DeltaDiscoveryResponse {
            system_version_info: nonce.clone(),
            type_url,
            removed_resources,
            nonce,
            control_plane: self.control_plane(),
            ..DeltaDiscoveryResponse::default()
        };
        Outgoing { message, resources }
    }

    /// Answers of one state-of-the-world request.
    pub(crate) fn world(&mut self, request: DiscoveryRequest) -> Result<Vec<Outgoing<DiscoveryResponse>>, Status> {
        if types::is_debug(&request.type_url) {
            let page = self.debug(&request.type_url, &request.response_nonce, &request.resource_names)?;
            let answer = page.map(|(nonce, parts)| self.world_answer(request.type_url, nonce, parts));
            return Ok(answer.into_iter().collect());
        }
        self.admit(request.node.as_ref())?;
        let kind = types::bare(&request.type_url).to_owned();
        let wildcard = WILDCARD.contains(&kind.as_str()) && request.resource_names.is_empty();
        let open = || Subscription::open(wildcard, HashMap::new());
        let (fresh, waiting) = self.received(&kind, &request.response_nonce, request.error_detail, open);
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return Ok(Vec::new()) };
        let acknowledges = !fresh && !request.response_nonce.is_empty();
        let stale = acknowledges && request.response_nonce != subscription.status.sent;
        if stale {
            return Ok(Vec::new());
        }
        let changed = subscription.replace(request.resource_names);
        if changed {
            subscription.share(&self.server.0.lists);
        }
        self.publish(&kind);
        let mut answers = Vec::new();
        if fresh || changed || waiting {
            answers.extend(self.push_world(&kind, fresh || changed));
            if kind == types::CLUSTER {
                answers.extend(self.push_world(types::ENDPOINT, false));
            }
        }
        Ok(answers)
    }

    /// Everything of one type, when any of it has changed.
    fn push_world(&mut self, kind: &str, asked: bool) -> Option<Outgoing<DiscoveryResponse>> {
        let (nonce, _, resources) = self.due(kind, asked)?;
        Some(self.world_answer(types::url(kind), nonce, resources.to_vec()))
    }

    fn world_answer(
        &self,
        type_url: String,
        nonce: String,
        resources: Vec<Arc<Resource>>,
    ) -> Outgoing<DiscoveryResponse> {
        let message = DiscoveryResponse {
            version_info: nonce.clone(),
            type_url,
            nonce,
            control_plane: self.control_plane(),
            ..DiscoveryResponse::default()
        };
        Outgoing { message, resources }
    }

    /// A changed cluster warms in Envoy until endpoints come, and Envoy does not ask for those it already follows: they
    /// are sent again with the next answer of their type. Whoever pushes clusters pushes endpoints right after.
    fn warm_endpoints(&mut self, kind: &str, changed: &[Arc<Resource>]) {
        if kind == types::CLUSTER
            && let Some(endpoints) = self.subscriptions.get_mut(types::ENDPOINT)
        {
            changed.iter().for_each(|cluster| endpoints.forget(&cluster.name));
        }
    }

    /// What has changed for the stream, delta.
    pub(crate) fn changed(&mut self) -> Vec<Outgoing<DeltaDiscoveryResponse>> {
        self.order().into_iter().filter_map(|kind| self.push(kind, false)).collect()
    }

    /// What has changed for the stream, state of the world.
    pub(crate) fn changed_world(&mut self) -> Vec<Outgoing<DiscoveryResponse>> {
        self.order().into_iter().filter_map(|kind| self.push_world(kind, false)).collect()
    }

    /// Subscribed types in the order of pushes.
    fn order(&self) -> Vec<&'static str> {
        types::ORDER.into_iter().filter(|kind| self.subscriptions.contains_key(*kind)).collect()
    }
}

#[cfg(test)]
mod tests;
