//! What a verified certificate says of its owner.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::spiffe::SpiffeId;

/// The verified other end of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The first URI name that is a workload identity.
    pub id: Option<SpiffeId>,
    /// All URI names.
    pub uri_sans: Vec<String>,
    /// All DNS names.
    pub dns_sans: Vec<String>,
    /// Distinguished name in RFC 2253 order; empty for mesh certificates.
    pub subject: String,
    /// SHA-256 of the certificate, in lower-case hex (the `Hash` of x-forwarded-client-cert).
    pub sha256: String,
    /// Serial number in hex.
    pub serial: String,
}

impl Peer {
    /// Reads the leaf of a chain that rustls has verified.
    pub fn from_certs(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let (mut uri_sans, mut dns_sans) = (Vec::new(), Vec::new());
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uri_sans.push((*uri).to_owned()),
                    GeneralName::DNSName(dns) => dns_sans.push((*dns).to_owned()),
                    _ => {}
                }
            }
        }
        Some(Self {
            id: uri_sans.iter().find_map(|uri| uri.parse().ok()),
            uri_sans,
            dns_sans,
            subject: certificate.subject().to_string(),
            sha256: fingerprint(leaf),
            serial: hex(certificate.raw_serial()),
        })
    }

    /// `TRUST_DOMAIN/ns/NS/sa/SA`, when the peer is a workload.
    pub fn principal(&self) -> Option<String> {
        self.id.as_ref().map(SpiffeId::principal)
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    let provider = crate::provider();
    let hash = provider.cipher_suites.iter().find_map(|suite| match suite {
        rustls::SupportedCipherSuite::Tls13(s) if s.common.hash_provider.output_len() == 32 => {
            Some(s.common.hash_provider.hash(certificate))
        }
        _ => None,
    });
    hash.map(|h| hex(h.as_ref())).unwrap_or_default()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
