//! Envoy's ADS stream, carried on to istiod over the agent's own channel, which shows the workload's certificate and token.
//!
//! Nothing in it is changed. On the same stream the agent asks for the name table, so that one connection is one proxy to
//! istiod, and keeps the answers to itself.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_api::google::rpc::Status as RpcStatus;
use envoy_api::istio::networking::nds::v1::NameTable;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use xds::types;

use crate::dns::Names;

/// One answer at the most.
pub(super) const MAX_MESSAGE: usize = 256 << 20;
/// Messages on their way in one direction; a slow reader then holds up its writer.
const QUEUE: usize = 16;

/// Stands between Envoy and istiod.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    pub(super) channel: Channel,
    pub(super) token: PathBuf,
    pub(super) names: Arc<Names>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the bootstrap asks for delta xDS; the state of the world is not carried on"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (to_istiod, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(carry(request.into_inner(), to_istiod.clone()));
        let mut upstream = Request::new(ReceiverStream::new(receiver));
        if let Ok(token) = std::fs::read_to_string(&self.token)
            && let Ok(value) = MetadataValue::try_from(format!("Bearer {}", token.trim()))
        {
            upstream.metadata_mut().insert("authorization", value);
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let mut answers = client.delta_aggregated_resources(upstream).await?.into_inner();
        let (to_envoy, receiver) = mpsc::channel(QUEUE);
        let names = self.names.clone();
        tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(answer) if types::bare(&answer.type_url) == types::NAME_TABLE => {
                        // A closed stream ends the loop below.
                        let _ = to_istiod.send(take_names(&names, answer)).await;
                    }
                    answer => {
                        if to_envoy.send(answer).await.is_err() {
                            return;
                        }
                    }
                }
                if to_envoy.is_closed() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Carries Envoy's requests on. After the first, which says who asks, comes our own for the name table.
async fn carry(mut requests: Streaming<DeltaDiscoveryRequest>, to_istiod: mpsc::Sender<DeltaDiscoveryRequest>) {
    let mut names =
        Some(DeltaDiscoveryRequest { type_url: types::url(types::NAME_TABLE), ..DeltaDiscoveryRequest::default() });
    while let Some(Ok(request)) = requests.next().await {
        for message in std::iter::once(request).chain(names.take()) {
            if to_istiod.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// Puts a name table in force; the acknowledgement or refusal.
fn take_names(names: &Names, answer: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    /// gRPC's INVALID_ARGUMENT.
    const INVALID: i32 = 3;
    let mut refused = None;
    for body in answer.resources.iter().filter_map(|r| r.resource.as_ref()) {
        match envoy_api::unpack::<NameTable>(body) {
            Ok(table) => names.replace(&table),
            Err(error) => refused = Some(RpcStatus { code: INVALID, message: error.to_string(), details: Vec::new() }),
        }
    }
    DeltaDiscoveryRequest {
        type_url: answer.type_url,
        response_nonce: answer.nonce,
        error_detail: refused,
        ..DeltaDiscoveryRequest::default()
    }
}
