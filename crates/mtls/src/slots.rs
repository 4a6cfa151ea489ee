//! The certificates and roots in use now, each behind a slot that a rotation swaps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use webpki::CertRevocationList;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{TlsError, read_revoked};
use crate::peer::{Peer, hex};

/// What `/certs` and `proxy-config secret` show of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertInfo {
    /// Serial number in hex.
    pub serial: String,
    /// Names: URI first, then DNS.
    pub sans: Vec<String>,
    /// Not valid before.
    pub not_before: OffsetDateTime,
    /// Not valid after.
    pub not_after: OffsetDateTime,
}

impl CertInfo {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let peer = Peer::from_certs(std::slice::from_ref(der))?;
        Some(Self {
            serial: hex(certificate.raw_serial()),
            sans: peer.uri_sans.into_iter().chain(peer.dns_sans).collect(),
            not_before: certificate.validity().not_before.to_datetime(),
            not_after: certificate.validity().not_after.to_datetime(),
        })
    }
}

/// A certificate with its key, replaceable while in use.
#[derive(Default)]
pub struct CertSlot {
    current: ArcSwapOption<(Arc<CertifiedKey>, Vec<CertInfo>)>,
}

impl CertSlot {
    /// Puts a chain (leaf first) and its key in force for every handshake from now on.
    ///
    /// # Errors
    /// When either is not valid PEM, the chain is empty, or the key does not belong to the leaf; the former one stays.
    pub fn set(&self, chain_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let chain = read_chain(chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| TlsError::Key(format!("the private key is not PEM: {e}")))?;
        let info = chain.iter().filter_map(CertInfo::read).collect();
        let certified =
            CertifiedKey::from_der(chain, key, &crate::provider()).map_err(|e| TlsError::Key(e.to_string()))?;
        self.current.store(Some(Arc::new((Arc::new(certified), info))));
        Ok(())
    }

    /// Whether a certificate is there.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// The chain in force, leaf first; empty while there is none.
    pub fn info(&self) -> Vec<CertInfo> {
        self.current.load().as_ref().map(|c| c.1.clone()).unwrap_or_default()
    }

    /// The chain in force as PEM, leaf first; never the key.
    pub fn pem(&self) -> Option<String> {
        self.key().map(|key| pem(&key.cert))
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|c| c.0.clone())
    }
}

impl fmt::Debug for CertSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertSlot").field("chain", &self.info()).finish()
    }
}

impl ResolvesServerCert for CertSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for CertSlot {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.is_set()
    }
}

/// Trusted roots, replaceable while in use.
#[derive(Default)]
pub struct RootSlot {
    current: ArcSwapOption<Roots>,
}

pub(crate) struct Roots {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// Lists of revoked certificates that came with them.
    pub(crate) revoked: Vec<Arc<CertRevocationList<'static>>>,
    info: Vec<CertInfo>,
    chain: Vec<CertificateDer<'static>>,
}

impl RootSlot {
    /// Trusts exactly these roots from the next handshake on.
    ///
    /// # Errors
    /// When the text is not PEM, holds no certificate, or one cannot be a root; the former ones stay.
    pub fn set_pem(&self, pem: &str) -> Result<(), TlsError> {
        self.set_with_revoked(pem, "")
    }

    /// As [`Self::set_pem`], with the lists of what those below the roots have revoked; with any, each certificate of a
    /// chain must be told of by one.
    ///
    /// # Errors
    /// As [`Self::set_pem`], or when a list cannot be used; the former roots and lists stay.
    pub fn set_with_revoked(&self, pem: &str, revoked_pem: &str) -> Result<(), TlsError> {
        let revoked = read_revoked(revoked_pem)?;
        let chain = read_chain(pem)?;
        let anchors = chain
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|a| a.to_owned()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| TlsError::Certificate(format!("a root cannot be used: {e}")))?;
        let info = chain.iter().filter_map(CertInfo::read).collect();
        self.current.store(Some(Arc::new(Roots { anchors, revoked, info, chain })));
        Ok(())
    }

    /// Whether roots are there.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// The roots in force.
    pub fn info(&self) -> Vec<CertInfo> {
        self.current.load().as_ref().map(|r| r.info.clone()).unwrap_or_default()
    }

    /// The roots in force as PEM.
    pub fn pem(&self) -> Option<String> {
        self.current.load().as_ref().map(|r| pem(&r.chain))
    }

    pub(crate) fn load(&self) -> Option<Arc<Roots>> {
        self.current.load_full()
    }
}

impl fmt::Debug for RootSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootSlot").field("roots", &self.info()).finish()
    }
}

/// All slots by secret name (`default`, `ROOTCA`, ...); a slot exists from its first mention on.
#[derive(Debug, Default)]
pub struct SecretStore {
    certificates: Mutex<BTreeMap<String, Arc<CertSlot>>>,
    roots: Mutex<BTreeMap<String, Arc<RootSlot>>>,
}

impl SecretStore {
    /// The certificate slot of a name.
    pub fn certificate(&self, name: &str) -> Arc<CertSlot> {
        self.certificates.lock().entry(name.to_owned()).or_default().clone()
    }

    /// The root slot of a name.
    pub fn roots(&self, name: &str) -> Arc<RootSlot> {
        self.roots.lock().entry(name.to_owned()).or_default().clone()
    }

    /// Lets go of every slot of which `of` says so by its name and that nobody else holds: what is not referred to any
    /// more is not kept.
    pub fn forget(&self, of: impl Fn(&str) -> bool) {
        self.certificates.lock().retain(|name, slot| !of(name) || Arc::strong_count(slot) > 1);
        self.roots.lock().retain(|name, slot| !of(name) || Arc::strong_count(slot) > 1);
    }

    /// Names of the certificates mentioned so far.
    pub fn certificate_names(&self) -> Vec<String> {
        self.certificates.lock().keys().cloned().collect()
    }

    /// Names of the roots mentioned so far.
    pub fn root_names(&self) -> Vec<String> {
        self.roots.lock().keys().cloned().collect()
    }
}

/// Certificates as text (RFC 7468: 64 letters a line).
fn pem(chain: &[CertificateDer<'_>]) -> String {
    let mut out = String::new();
    for der in chain {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            out.push_str(line);
            out.push('\n');
            rest = more;
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| TlsError::Certificate(format!("not PEM: {e}")))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("the text holds no certificate".to_owned()));
    }
    Ok(chain)
}
