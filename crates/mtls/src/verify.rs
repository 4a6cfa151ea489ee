//! The check of a peer's certificate: chain to our roots, validity, usage, names. Reads the slots at handshake time.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
};

use crate::peer::Peer;
use crate::san::{SanKind, SanMatch};
use crate::slots::RootSlot;

/// The one verifier, for both directions.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// `None`: the chain is not checked (`insecureSkipVerify`), signatures still are.
    pub(crate) roots: Option<Arc<RootSlot>>,
    /// Accepted names; none means any.
    pub(crate) sans: Vec<SanMatch>,
    /// Lists of revoked certificates.
    pub(crate) revoked: Vec<Arc<CertRevocationList<'static>>>,
    /// Whether a client must show a certificate.
    pub(crate) mandatory: bool,
}

#[derive(thiserror::Error)]
enum Refusal {
    #[error("no trusted roots have arrived yet")]
    NoRoots,
    #[error("the peer's certificate names {got:?}, wanted one of {wanted:?}")]
    San { got: Vec<String>, wanted: Vec<String> },
}

/// rustls prints what is inside an error by `Debug`; a person reads it.
impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn refuse(why: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

impl Verifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if let Some(slot) = &self.roots {
            let roots = slot.load().ok_or_else(|| refuse(Refusal::NoRoots))?;
            let certificate = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
            let algorithms = crate::provider().signature_verification_algorithms.all;
            let lists: Vec<&CertRevocationList<'_>> =
                self.revoked.iter().chain(&roots.revoked).map(|list| &**list).collect();
            // Without a list nothing is asked; an empty builder is an error.
            let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            certificate
                .verify_for_usage(algorithms, &roots.anchors, intermediates, now, usage, revocation, None)
                .map_err(certificate_error)?;
        }
        if self.sans.is_empty() {
            return Ok(());
        }
        let peer = Peer::from_certs(std::slice::from_ref(leaf))
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let uris = peer.uri_sans.iter().map(|name| (SanKind::Uri, name));
        let mut names = uris.chain(peer.dns_sans.iter().map(|name| (SanKind::Dns, name)));
        if names.any(|(kind, name)| self.sans.iter().any(|wanted| wanted.is_match(kind, name))) {
            return Ok(());
        }
        let wanted = self.sans.iter().take(8).map(SanMatch::to_string).collect();
        Err(refuse(Refusal::San { got: peer.uri_sans.iter().chain(&peer.dns_sans).cloned().collect(), wanted }))
    }
}

/// webpki's verdict in rustls' words, so that the peer gets the right alert.
fn certificate_error(error: webpki::Error) -> Error {
    let why = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(why)
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = crate::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = crate::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            crate::provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}
