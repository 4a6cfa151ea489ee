//! Envoy's SDS: the workload's certificate, the mesh's roots, and certificates in files, each sent again when it changes.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use envoy_api::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_api::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_api::envoy::extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate};
use envoy_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_api::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use xds::types;

use crate::identity::Issued;

/// How often files are looked at for news.
const LOOK: Duration = Duration::from_secs(2);
/// Names on one stream; Envoy asks for one at a time.
const MAX_NAMES: usize = 100;
/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Where Debian keeps the roots that `file-root:system` means.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Serves secrets.
#[derive(Clone, Debug)]
pub(super) struct Secrets {
    /// What istiod has issued last.
    pub(super) certificates: watch::Receiver<Option<Issued>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Answers<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Answers<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("Istio's configuration asks for secrets by the state of the world"))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(request.into_inner(), self.certificates.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are served by stream"))
    }
}

/// One stream to its end.
async fn follow(
    mut requests: Streaming<DiscoveryRequest>,
    mut certificates: watch::Receiver<Option<Issued>>,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut names: Vec<String> = Vec::new();
    let mut sent: Vec<Secret> = Vec::new();
    let mut nonce = 0_u64;
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        let asked = tokio::select! {
            request = requests.next() => {
                let Some(Ok(request)) = request else { return };
                if let Some(error) = request.error_detail {
                    tracing::error!(reason = error.message, "Envoy refused a secret and keeps its last good one");
                }
                let differs = names != request.resource_names;
                names = request.resource_names;
                names.truncate(MAX_NAMES);
                differs
            }
            // Without an issuer the process ends.
            changed = certificates.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
            _ = ticks.tick() => false,
        };
        let now: Vec<Secret> = {
            let issued = certificates.borrow_and_update();
            names.iter().filter_map(|name| secret(name, issued.as_ref())).collect()
        };
        // What is not there yet is waited for: Envoy's clusters and listeners warm until it comes.
        if now.is_empty() || (now == sent && !asked) {
            continue;
        }
        nonce += 1;
        let answer = DiscoveryResponse {
            version_info: nonce.to_string(),
            resources: now.iter().map(envoy_api::pack).collect(),
            type_url: types::url(types::SECRET),
            nonce: nonce.to_string(),
            ..DiscoveryResponse::default()
        };
        sent = now;
        if sender.send(Ok(answer)).await.is_err() {
            return;
        }
    }
}

/// A secret by its name, when it is there.
fn secret(name: &str, issued: Option<&Issued>) -> Option<Secret> {
    let content = match name {
        "default" => {
            let issued = issued?;
            certificate(issued.chain.as_bytes().to_vec(), issued.key.as_bytes().to_vec())
        }
        "ROOTCA" => roots(issued?.root.as_bytes().to_vec()),
        _ => from_file(name)?,
    };
    Some(Secret { name: name.to_owned(), r#type: Some(content) })
}

/// `file-cert:CERTIFICATE~KEY` and `file-root:PATH`, as a DestinationRule's paths become names.
fn from_file(name: &str) -> Option<Type> {
    if let Some((chain, key)) = name.strip_prefix("file-cert:").and_then(|paths| paths.split_once('~')) {
        return Some(certificate(read(chain)?, read(key)?));
    }
    match name.strip_prefix("file-root:")? {
        "system" => Some(roots(read(SYSTEM_ROOTS)?)),
        path => Some(roots(read(path)?)),
    }
}

fn read(path: &str) -> Option<Vec<u8>> {
    let path = Path::new(path);
    let small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_FILE);
    small.then(|| std::fs::read(path).ok()).flatten()
}

fn certificate(chain: Vec<u8>, key: Vec<u8>) -> Type {
    Type::TlsCertificate(TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ..TlsCertificate::default()
    })
}

fn roots(pem: Vec<u8>) -> Type {
    Type::ValidationContext(CertificateValidationContext {
        trusted_ca: Some(inline(pem)),
        ..CertificateValidationContext::default()
    })
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..DataSource::default() }
}
