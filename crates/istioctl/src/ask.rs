//! Questions to istiod over xDS, as Istio's own commands ask them: on 15012 with a token or a certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use envoy_api::envoy::config::core::v3::Node;
use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_api::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_api::message_from_json;
use hyper_util::rt::TokioIo;
use mtls::{CertSlot, ClientTls, RootSlot, SanMatch};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::session::Session;

/// Where a pod keeps the roots of its mesh.
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
/// Where a pod keeps its token for istiod.
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// Whose token is asked for where there is no pod, and for whom: as Istio's own tool does.
const ACCOUNT: &str = "default";
const AUDIENCE: &str = "istio-ca";
/// The name in istiod's certificate.
const NAME: &str = "istiod.istio-system.svc";
/// One answer at the most.
const MAX_MESSAGE: usize = 256 << 20;

/// How istiod is reached directly.
#[derive(Clone, Debug, Args)]
pub(crate) struct Xds {
    /// istiod's xDS address, HOST:PORT; asked directly instead of through the mesh.
    #[arg(long)]
    xds_address: Option<String>,
    /// The name istiod's certificate must have.
    #[arg(long, default_value = NAME)]
    authority: String,
    /// Folder with cert-chain.pem, key.pem and root-cert.pem to connect with; a pod's token and roots otherwise.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// Believe whoever answers. Not secure.
    #[arg(long)]
    insecure: bool,
    /// Without TLS. istiod answers questions about itself over TLS only.
    #[arg(long)]
    plaintext: bool,
    /// How long to wait, such as 30s.
    #[arg(long, default_value = "30s", value_parser = span)]
    timeout: Duration,
}

fn span(text: &str) -> Result<Duration, String> {
    istio_api::duration::parse(text).ok_or_else(|| format!("\"{text}\" is no duration; write it like 30s or 1m"))
}

impl Xds {
    /// Whether istiod is to be asked directly.
    pub(crate) fn wanted(&self) -> bool {
        self.xds_address.is_some()
    }

    /// One question, one answer.
    ///
    /// # Errors
    /// A sentence, when istiod cannot be reached or refuses.
    pub(crate) fn ask(&self, type_url: &str, names: &[&str], session: &Session) -> Result<DiscoveryResponse, String> {
        let token = self.token(session)?;
        let namespace = &session.global.istio_namespace;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let address = self.xds_address.clone().unwrap_or_default();
        runtime.block_on(async {
            let question = self.exchange(&address, type_url, names, namespace, token);
            match tokio::time::timeout(self.timeout, question).await {
                Ok(answer) => answer.map_err(|reason| format!("istiod at {address}: {reason}")),
                Err(_) => Err(format!("istiod at {address} did not answer within {:?}", self.timeout)),
            }
        })
    }

    /// The bearer token to show: a pod's own, else one of the account `default` beside istiod, which the API server that
    /// kubectl would ask makes; none where a certificate is shown, or no cluster is known.
    fn token(&self, session: &Session) -> Result<Option<String>, String> {
        if self.plaintext || self.cert_dir.is_some() {
            return Ok(None);
        }
        if let Ok(token) = std::fs::read_to_string(TOKEN) {
            return Ok(Some(token));
        }
        let Ok(cluster) = session.cluster() else { return Ok(None) };
        let namespace = &session.global.istio_namespace;
        let made = cluster.ask(async |cluster| cluster.token_of(namespace, ACCOUNT, AUDIENCE).await);
        made.map(Some).map_err(|reason| format!("no token of service account {namespace}/{ACCOUNT} to show: {reason}"))
    }

    async fn exchange(
        &self,
        address: &str,
        type_url: &str,
        names: &[&str],
        namespace: &str,
        token: Option<String>,
    ) -> Result<DiscoveryResponse, String> {
        let channel = self.channel(address).await?;
        // Istio's own tool has no address in the mesh either.
        let node: Node = message_from_json(json!({
            "id": format!("sidecar~0.0.0.0~istioctl.{namespace}~{namespace}.svc.cluster.local"),
            "metadata": {"NAMESPACE": namespace, "SERVICE_ACCOUNT": "default", "GENERATOR": "event"},
        }))
        .map_err(|e| e.to_string())?;
        let first = DiscoveryRequest {
            node: Some(node),
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..DiscoveryRequest::default()
        };
        // The stream stays open until the answer is there.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(first).await.map_err(|e| e.to_string())?;
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {}", token.trim())).map_err(|e| e.to_string())?;
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let said = |status: tonic::Status| status.message().to_owned();
        let mut answers = client.stream_aggregated_resources(request).await.map_err(said)?.into_inner();
        answers.message().await.map_err(said)?.ok_or_else(|| "it closed the stream without an answer".to_owned())
    }

    async fn channel(&self, address: &str) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
        if self.plaintext {
            return endpoint.connect().await.map_err(|e| explain(&e));
        }
        let tls = self.tls()?;
        let config = tls.build().map_err(|e| e.to_string())?;
        let server = tls.server_name().map_err(|e| e.to_string())?;
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (target, config, server) = (target.clone(), config.clone(), server.clone());
            async move {
                let tcp = TcpStream::connect(target).await?;
                let stream = TlsConnector::from(config).connect(server, tcp).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        endpoint.connect_with_connector(connector).await.map_err(|e| explain(&e))
    }

    fn tls(&self) -> Result<ClientTls, String> {
        let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let mut tls = ClientTls {
            cert: None,
            roots: None,
            sans: vec![SanMatch::Exact(self.authority.clone())],
            sni: Some(self.authority.clone()),
            alpn: vec![b"h2".to_vec()],
            revoked: Vec::new(),
        };
        if let Some(folder) = &self.cert_dir {
            let slot = Arc::new(CertSlot::default());
            slot.set(&read(&folder.join("cert-chain.pem"))?, &read(&folder.join("key.pem"))?)
                .map_err(|e| e.to_string())?;
            tls.cert = Some(slot);
        }
        if self.insecure {
            tls.sans.clear();
            return Ok(tls);
        }
        let roots = self.cert_dir.as_ref().map_or_else(|| PathBuf::from(ROOTS), |f| f.join("root-cert.pem"));
        let slot = Arc::new(RootSlot::default());
        slot.set_pem(&read(&roots)?).map_err(|e| format!("{}: {e}", roots.display()))?;
        tls.roots = Some(slot);
        Ok(tls)
    }
}

/// The innermost reason.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}
