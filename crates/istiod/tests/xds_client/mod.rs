//! A proxy that asks for secrets, and for nothing else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_api::envoy::config::core::v3::Node;
use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_api::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use hyper_util::rt::TokioIo;
use mtls::{ClientTls, RootSlot, SanMatch};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status, Streaming};

/// What stands in every private key here.
pub const KEY: &str = "the private key";
const PATIENCE: Duration = Duration::from_secs(60);

/// One stream.
pub struct Asking {
    answers: Result<Streaming<DeltaDiscoveryResponse>, Status>,
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
}

/// What an answer holds.
#[derive(Debug)]
pub struct Sent {
    /// Names of the secrets in it, in order.
    pub names: Vec<String>,
    bytes: Vec<u8>,
}

impl Sent {
    /// Whether a text stands anywhere in it.
    pub fn has(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|w| w == text.as_bytes())
    }
}

impl Asking {
    /// Over TLS, with a token when it is not empty.
    pub async fn over_tls(at: SocketAddr, roots: &str, namespace: &str, token: &str, names: &[&str]) -> Self {
        let slot = Arc::new(RootSlot::default());
        slot.set_pem(roots).unwrap();
        let tls = ClientTls {
            cert: None,
            roots: Some(slot),
            sans: vec![SanMatch::Exact("istiod.istio-system.svc".to_owned())],
            revoked: Vec::new(),
            sni: None,
            alpn: vec![b"h2".to_vec()],
        };
        let config = tls.build().unwrap();
        let connector = tower::service_fn(move |_: Uri| {
            let config = config.clone();
            async move {
                let tcp = connected(at).await;
                let stream = TlsConnector::from(config).connect("istiod".try_into().unwrap(), tcp).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let channel = Endpoint::from_static("http://istiod").connect_with_connector_lazy(connector);
        Self::open(channel, namespace, token, names).await
    }

    /// Without TLS.
    pub async fn in_plain_text(at: SocketAddr, namespace: &str, token: &str, names: &[&str]) -> Self {
        let channel = Endpoint::from_shared(format!("http://{at}")).unwrap().connect_lazy();
        Self::open(channel, namespace, token, names).await
    }

    async fn open(channel: Channel, namespace: &str, token: &str, names: &[&str]) -> Self {
        let metadata = json!({"NAMESPACE": namespace, "SERVICE_ACCOUNT": "pay", "LABELS": {"app": "pay"}});
        let node = Node {
            id: format!("sidecar~10.0.0.1~pay-1.{namespace}~{namespace}.svc.cluster.local"),
            metadata: envoy_api::struct_from_json(metadata),
            ..Node::default()
        };
        let (requests, receiver) = mpsc::unbounded_channel();
        requests
            .send(DeltaDiscoveryRequest {
                node: Some(node),
                type_url: xds::types::url(xds::types::SECRET),
                resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
                ..DeltaDiscoveryRequest::default()
            })
            .unwrap();
        let mut request = Request::new(UnboundedReceiverStream::new(receiver));
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let answers = client.delta_aggregated_resources(request).await.map(tonic::Response::into_inner);
        Self { answers, requests }
    }

    /// The next answer, acknowledged.
    pub async fn next(&mut self) -> Result<Sent, Status> {
        let answers = self.answers.as_mut().map_err(|status| status.clone())?;
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer in time")?;
        let answer = answer.ok_or_else(|| Status::cancelled("the stream has ended"))?;
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let _ = self.requests.send(acknowledgement);
        let mut sent: Vec<_> =
            answer.resources.into_iter().map(|r| (r.name, r.resource.unwrap_or_default().value)).collect();
        sent.sort();
        let names = sent.iter().map(|(name, _)| name.clone()).collect();
        Ok(Sent { names, bytes: sent.into_iter().flat_map(|(_, value)| value).collect() })
    }

    /// Whether nothing has come by now: to be asked once another has got what this one must not.
    pub async fn is_silent(&mut self) -> bool {
        let Ok(answers) = self.answers.as_mut() else { return true };
        tokio::time::timeout(Duration::from_millis(300), answers.message()).await.is_err()
    }
}

/// Connected as soon as it listens.
async fn connected(at: SocketAddr) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(at).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
