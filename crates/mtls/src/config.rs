//! TLS contexts as configuration describes them, and the rustls configurations built of them.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::offer::Offer;
use crate::san::SanMatch;
use crate::slots::{CertSlot, RootSlot};
use crate::verify::Verifier;

/// Why TLS cannot be set up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A certificate is unusable.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A private key is unusable.
    #[error("private key: {0}")]
    Key(String),
    /// The wanted combination is not possible.
    #[error("TLS context: {0}")]
    Config(String),
}

/// The server's side of a TLS context.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// What we show.
    pub cert: Arc<CertSlot>,
    /// Whom we trust; `None` asks no certificate of clients.
    pub roots: Option<Arc<RootSlot>>,
    /// Refuse clients without a certificate.
    pub require_client_cert: bool,
    /// Names a client may have; none means any.
    pub sans: Vec<SanMatch>,
    /// Lists of revoked certificates; with any, each certificate of the chain must be told of by one.
    pub revoked: Vec<Arc<CertRevocationList<'static>>>,
    /// Protocols we take, in order of preference.
    pub alpn: Vec<Vec<u8>>,
}

impl ServerTls {
    /// The rustls configuration. Built once and shared by all connections; no session tickets, so each connection
    /// proves its identity.
    ///
    /// # Errors
    /// When a client certificate is required but no roots are named.
    pub fn build(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.build_within(&Offer::default())
    }

    /// As [`Self::build`], with limits to versions, suites and groups.
    ///
    /// # Errors
    /// As [`Self::build`], or when the limits leave nothing.
    pub fn build_within(&self, offer: &Offer) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(offer.provider()?)
            .with_protocol_versions(offer.versions())
            .map_err(|e| TlsError::Config(e.to_string()))?;
        let builder = match &self.roots {
            Some(roots) => builder.with_client_cert_verifier(Arc::new(Verifier {
                roots: Some(roots.clone()),
                sans: self.sans.clone(),
                revoked: self.revoked.clone(),
                mandatory: self.require_client_cert,
            })),
            None if self.require_client_cert => {
                return Err(TlsError::Config(
                    "require_client_certificate needs a validation context with trusted roots".to_owned(),
                ));
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.cert.clone());
        config.alpn_protocols.clone_from(&self.alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Reads lists of revoked certificates in PEM.
///
/// # Errors
/// When the text is not PEM, or one is no such list.
pub fn read_revoked(pem: &str) -> Result<Vec<Arc<CertRevocationList<'static>>>, TlsError> {
    let wrong = |e: String| TlsError::Certificate(format!("a revocation list cannot be used: {e}"));
    let ders = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes());
    let read = |der: CertificateRevocationListDer<'_>| {
        OwnedCertRevocationList::from_der(&der).map(|list| Arc::new(list.into())).map_err(|e| wrong(e.to_string()))
    };
    ders.map(|der| der.map_err(|e| wrong(e.to_string())).and_then(read)).collect()
}

/// The client's side of a TLS context.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// What we show when asked.
    pub cert: Option<Arc<CertSlot>>,
    /// Whom we trust; `None` checks no chain (Envoy's behaviour without a trusted CA).
    pub roots: Option<Arc<RootSlot>>,
    /// Names the server may have; none means any.
    pub sans: Vec<SanMatch>,
    /// Lists of revoked certificates; with any, each certificate of the chain must be told of by one.
    pub revoked: Vec<Arc<CertRevocationList<'static>>>,
    /// Server name to send.
    pub sni: Option<String>,
    /// Protocols we offer, in order of preference.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTls {
    /// The rustls configuration, built once and shared by all connections.
    ///
    /// # Errors
    /// When the crypto provider lacks the needed versions.
    pub fn build(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.build_within(&Offer::default())
    }

    /// As [`Self::build`], with limits to versions, suites and groups.
    ///
    /// # Errors
    /// As [`Self::build`], or when the limits leave nothing.
    pub fn build_within(&self, offer: &Offer) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = Verifier {
            roots: self.roots.clone(),
            sans: self.sans.clone(),
            revoked: self.revoked.clone(),
            mandatory: true,
        };
        let builder = ClientConfig::builder_with_provider(offer.provider()?)
            .with_protocol_versions(offer.versions())
            .map_err(|e| TlsError::Config(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.cert {
            Some(cert) => builder.with_client_cert_resolver(cert.clone()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sni.is_some();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The same context with other protocols offered (the `istio.alpn` filter's override).
    #[must_use]
    pub fn with_alpn(&self, alpn: Vec<Vec<u8>>) -> Self {
        Self { alpn, ..self.clone() }
    }

    /// The name given to rustls: the SNI, or a placeholder that is not sent.
    ///
    /// # Errors
    /// When the SNI is not a valid DNS name.
    pub fn server_name(&self) -> Result<rustls::pki_types::ServerName<'static>, TlsError> {
        let name = self.sni.clone().unwrap_or_else(|| "no-sni.invalid".to_owned());
        rustls::pki_types::ServerName::try_from(name).map_err(|e| TlsError::Config(format!("sni: {e}")))
    }
}
