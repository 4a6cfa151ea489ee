//! Istio's certificate service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use envoy_api::istio::v1::auth::istio_certificate_service_server::IstioCertificateService;
use envoy_api::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use mtls::{Peer, SpiffeId};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

use crate::authority::{Authority, AuthorityError};
use crate::token::Tokens;

/// The verified certificate of a caller, put among a request's extensions by whoever accepted the connection.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Arc<Peer>);

/// What somebody else has found about the token of a request (in a cluster: its API server), put among the request's
/// extensions before it is served: who the caller is, or why it is nobody.
#[derive(Clone, Debug)]
pub struct Judged(pub Result<SpiffeId, String>);

/// How long certificates live.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When nothing is asked.
    pub default: Duration,
    /// At the most.
    pub max: Duration,
}

/// Signs certificates for callers who have proved who they are.
#[derive(Clone, Debug)]
pub struct CsrService {
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    trust_domain: String,
    limits: Limits,
    /// Requests so far.
    pub asked: Arc<AtomicU64>,
    /// Certificates signed so far.
    pub signed: Arc<AtomicU64>,
}

impl CsrService {
    /// A service over an authority.
    pub fn new(authority: Arc<Authority>, tokens: Arc<Tokens>, trust_domain: &str, limits: Limits) -> Self {
        let trust_domain = trust_domain.to_owned();
        Self { authority, tokens, trust_domain, limits, asked: Arc::default(), signed: Arc::default() }
    }
}

/// Who calls: by its workload certificate, or by its service account token.
///
/// # Errors
/// UNAUTHENTICATED when it proves nothing.
#[allow(clippy::result_large_err, reason = "tonic's own type")]
pub fn caller(
    metadata: &MetadataMap,
    extensions: &Extensions,
    tokens: &Tokens,
    trust_domain: &str,
) -> Result<SpiffeId, Status> {
    if let Some(id) = extensions.get::<PeerCertificate>().and_then(|p| p.0.id.clone()) {
        return Ok(id);
    }
    if let Some(Judged(judged)) = extensions.get::<Judged>() {
        return judged.clone().map_err(Status::unauthenticated);
    }
    let header = metadata.get("authorization").and_then(|v| v.to_str().ok());
    let token = header.and_then(|h| h.strip_prefix("Bearer ")).ok_or_else(|| {
        Status::unauthenticated("show a service account token (authorization: Bearer ...) or a workload certificate")
    })?;
    let (namespace, account) = tokens.verify(token.trim()).map_err(|e| Status::unauthenticated(e.to_string()))?;
    Ok(SpiffeId::new(trust_domain, &namespace, &account))
}

#[tonic::async_trait]
impl IstioCertificateService for CsrService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.asked.fetch_add(1, Relaxed);
        let caller = caller(request.metadata(), request.extensions(), &self.tokens, &self.trust_domain)?;
        let asked = request.into_inner();
        let life = match u64::try_from(asked.validity_duration) {
            Ok(0) | Err(_) => self.limits.default,
            Ok(seconds) => Duration::from_secs(seconds).min(self.limits.max),
        };
        let cert_chain = self.authority.sign(&asked.csr, &caller, life).map_err(|error| {
            tracing::warn!(%caller, %error, "certificate refused");
            match error {
                AuthorityError::Identity { .. } => Status::permission_denied(error.to_string()),
                AuthorityError::Request(_) => Status::invalid_argument(error.to_string()),
                _ => Status::internal(error.to_string()),
            }
        })?;
        self.signed.fetch_add(1, Relaxed);
        tracing::info!(%caller, seconds = life.as_secs(), "certificate signed");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
