//! The workload's certificate: asked for, put in force, renewed in time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use envoy_api::istio::v1::auth::IstioCertificateRequest;
use envoy_api::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use mtls::{CertSlot, SecretStore};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tonic::Request;
use tonic::transport::Channel;

/// The first pause after a refused or lost request; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause: short, since a certificate that is not renewed ends the workload's traffic.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps the workload's certificate in force.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) channel: Channel,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) token: PathBuf,
    /// The identity, for the request.
    pub(crate) uri: String,
    /// Life to ask for; 0 leaves it to istiod.
    pub(crate) seconds: i64,
    /// Told when a certificate has come into force.
    pub(crate) progress: Arc<Notify>,
    /// Told what istiod has issued, for a proxy in another process.
    pub(crate) issued: Option<watch::Sender<Option<Issued>>>,
}

/// A certificate as istiod has issued it, PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    /// Leaf first, without the root.
    pub(crate) chain: String,
    /// Its key.
    pub(crate) key: String,
    /// The mesh's root.
    pub(crate) root: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Identity {
    /// Renews for ever. The certificate in force stays while renewals fail.
    pub(crate) async fn keep(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.renew().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(until_renewal(&self.slot())).await;
                }
                Err(reason) => {
                    let valid = self.slot().info().first().map(|c| c.not_after.to_string());
                    tracing::warn!(%reason, in_force_until = ?valid, "no new certificate; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn slot(&self) -> Arc<CertSlot> {
        self.secrets.certificate("default")
    }

    async fn renew(&self) -> Result<(), String> {
        let (csr, key) = request(&self.uri)?;
        let token = std::fs::read_to_string(&self.token)
            .map_err(|e| format!("the service account token cannot be read from {}: {e}", self.token.display()))?;
        let body =
            IstioCertificateRequest { csr, validity_duration: self.seconds, ..IstioCertificateRequest::default() };
        let mut request = Request::new(body);
        let bearer =
            format!("Bearer {}", token.trim()).parse().map_err(|_| "the token holds odd characters".to_owned())?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client
            .create_certificate(request)
            .await
            .map_err(|s| format!("istiod says {}: {}", s.code(), s.message()))?;
        let chain = answer.into_inner().cert_chain;
        let root = chain.last().ok_or("istiod sent no certificate")?;
        self.secrets.roots("ROOTCA").set_pem(root).map_err(|e| e.to_string())?;
        self.slot().set(&chain.join("\n"), &key).map_err(|e| e.to_string())?;
        self.progress.notify_one();
        let serial = self.slot().info().first().map(|c| c.serial.clone()).unwrap_or_default();
        tracing::info!(%serial, "certificate in force");
        if let Some(told) = &self.issued {
            let without_root = chain.len().saturating_sub(1).max(1);
            let chain_only = chain.get(..without_root).unwrap_or_default().join("\n");
            told.send_replace(Some(Issued { chain: chain_only, key, root: root.clone() }));
        }
        Ok(())
    }
}

/// A request for an identity, and the key that goes with it.
fn request(uri: &str) -> Result<(String, String), String> {
    let wrong = |e: rcgen::Error| e.to_string();
    let key = KeyPair::generate().map_err(wrong)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(wrong)?)];
    let csr = params.serialize_request(&key).map_err(wrong)?.pem().map_err(wrong)?;
    Ok((csr, key.serialize_pem()))
}

/// Half of what is left of the certificate's life, less some jitter, so that not all workloads ask at once.
fn until_renewal(slot: &CertSlot) -> Duration {
    let Some(certificate) = slot.info().into_iter().next() else { return FIRST_PAUSE };
    let left = certificate.not_after - OffsetDateTime::now_utc();
    let left = Duration::try_from(left).unwrap_or_default();
    left.mul_f64(0.45 + fastrand::f64() * 0.04).max(FIRST_PAUSE)
}
