//! The client's end: delta ADS, for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use envoy_api::Any;
use envoy_api::envoy::config::core::v3::Node;
use envoy_api::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_api::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::codegen::http::HeaderValue;
use tonic::transport::Channel;

use crate::incoming::Incoming;
use crate::types;

/// What a client wants of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Everything.
    All,
    /// These.
    Names(BTreeSet<String>),
}

/// What became of an answer: the refused resources, by name and reason.
pub type Applied = Result<(), Vec<(String, String)>>;

/// Takes what the server sends.
pub trait Apply {
    /// Puts resources of a bare type name in force.
    ///
    /// # Errors
    /// The refused ones; the server is told.
    fn apply(&mut self, kind: &str, added: &[(String, Any)], removed: &[String]) -> Applied;

    /// What is wanted now, by bare type name, in order of subscription.
    fn wanted(&self) -> Vec<(&'static str, Want)>;

    /// The bearer token to show, when there is one.
    fn token(&self) -> Option<String> {
        None
    }
}

/// A delta ADS client.
#[derive(Clone, Debug)]
pub struct Client {
    /// How to reach the server; connects lazily.
    pub channel: Channel,
    /// Who we are.
    pub node: Node,
}

/// The first pause after a lost connection; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

impl Client {
    /// Follows the server for ever: what it sends is applied, a lost connection is made again, and what is in force
    /// stays in force meanwhile.
    pub async fn run(&self, handler: &mut impl Apply) {
        let mut versions: BTreeMap<String, HashMap<String, String>> = BTreeMap::new();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.follow(handler, &mut versions).await {
                Ok(true) => pause = FIRST_PAUSE,
                Ok(false) => {}
                Err(status) => {
                    tracing::warn!(code = ?status.code(), reason = status.message(), "xDS stream ended; trying again")
                }
            }
            // Many proxies must not come back in the same moment.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream to its end; `true` when something arrived on it.
    async fn follow(
        &self,
        handler: &mut impl Apply,
        versions: &mut BTreeMap<String, HashMap<String, String>>,
    ) -> Result<bool, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut stream = Stream { sender, asked: BTreeMap::new(), node: Some(self.node.clone()) };
        stream.subscribe(handler, versions);
        let bearer = handler.token().and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.trim())).ok());
        let requests = UnboundedReceiverStream::new(receiver);
        let mut answers = Incoming::open(self.channel.clone(), requests, bearer).await?;
        let mut heard = false;
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    heard = true;
                    stream.take(answer, handler, versions);
                }
                Ok(None) => return Ok(heard),
                Err(status) if heard => {
                    tracing::info!(code = ?status.code(), reason = status.message(), "the control plane is gone; its configuration stays in force");
                    return Ok(true);
                }
                Err(status) => return Err(status),
            }
        }
    }
}

struct Stream {
    sender: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    asked: BTreeMap<&'static str, Want>,
    /// Only the first request carries it.
    node: Option<Node>,
}

impl Stream {
    /// Brings what was asked for in line with what is wanted.
    fn subscribe(&mut self, handler: &impl Apply, versions: &mut BTreeMap<String, HashMap<String, String>>) {
        for (kind, want) in handler.wanted() {
            let former = self.asked.insert(kind, want.clone());
            let mut request = DeltaDiscoveryRequest { type_url: types::url(kind), ..DeltaDiscoveryRequest::default() };
            match (&former, &want) {
                (None, Want::All) => {}
                (None, Want::Names(names)) if names.is_empty() => {
                    self.asked.remove(kind);
                    continue;
                }
                (None, Want::Names(names)) => request.resource_names_subscribe = names.iter().cloned().collect(),
                (Some(Want::Names(old)), Want::Names(new)) if old != new => {
                    request.resource_names_subscribe = new.difference(old).cloned().collect();
                    request.resource_names_unsubscribe = old.difference(new).cloned().collect();
                    // What is let go may not be there any more when it is asked for again.
                    if let Some(known) = versions.get_mut(kind) {
                        known.retain(|name, _| new.contains(name));
                    }
                }
                _ => continue,
            }
            if former.is_none() {
                let known = versions.get(kind).cloned().unwrap_or_default();
                request.initial_resource_versions = match &want {
                    Want::All => known,
                    Want::Names(names) => known.into_iter().filter(|(n, _)| names.contains(n)).collect(),
                };
            }
            self.send(request);
        }
    }

    fn send(&mut self, mut request: DeltaDiscoveryRequest) {
        request.node = self.node.take();
        // A closed channel is a stream that has ended: the reader will see it.
        let _ = self.sender.send(request);
    }

    /// Applies an answer, acknowledges or refuses it, and asks for what it refers to.
    fn take(
        &mut self,
        answer: DeltaDiscoveryResponse,
        handler: &mut impl Apply,
        versions: &mut BTreeMap<String, HashMap<String, String>>,
    ) {
        let kind = types::bare(&answer.type_url).to_owned();
        let mut added = Vec::with_capacity(answer.resources.len());
        let mut new_versions = Vec::with_capacity(answer.resources.len());
        for resource in answer.resources {
            if let Some(body) = resource.resource {
                new_versions.push((resource.name.clone(), resource.version));
                added.push((resource.name, body));
            }
        }
        let result = handler.apply(&kind, &added, &answer.removed_resources);
        let mut request = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let known = versions.entry(kind).or_default();
        for name in &answer.removed_resources {
            known.remove(name);
        }
        let refused = result.err().unwrap_or_default();
        known.extend(new_versions.into_iter().filter(|(name, _)| !refused.iter().any(|(r, _)| r == name)));
        if !refused.is_empty() {
            let message = refused.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ");
            tracing::error!(reason = %message, "configuration refused; the last good one stays in force");
            /// gRPC's INVALID_ARGUMENT.
            const INVALID: i32 = 3;
            request.error_detail = Some(RpcStatus { code: INVALID, message, details: Vec::new() });
        }
        self.send(request);
        self.subscribe(handler, versions);
    }
}
