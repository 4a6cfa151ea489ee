//! The certificate authority: a root on disk, leaves for workloads.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mtls::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

/// Life of a self-signed root, as Istio's.
pub(crate) const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of two machines differ: a leaf is valid from a little before it was signed.
pub(crate) const SKEW: Duration = Duration::from_secs(120);

/// Why the authority cannot work, or did not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Certificate or key are unusable.
    #[error("the certificate authority is unusable: {0}")]
    Unusable(String),
    /// The request is malformed, or its signature is wrong.
    #[error("the certificate request is invalid: {0}")]
    Request(String),
    /// The request names somebody else.
    #[error("the certificate request asks for {asked}, but the caller is {caller}")]
    Identity {
        /// Who was asked for.
        asked: String,
        /// Who asked.
        caller: String,
    },
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Issued {
    /// PEM, leaf first, root last.
    pub chain: String,
    /// PEM.
    pub key: String,
}

/// The certificate authority. What signs, and what is trusted, may be replaced while it is used.
pub struct Authority {
    signer: ArcSwap<Signer>,
    /// All roots that are trusted, PEM.
    roots: ArcSwap<String>,
}

/// What signs.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    cert: String,
    /// What stands between a leaf and the root: nothing for a self-signed root.
    intermediates: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Uses the root in `folder`, under Istio's file names, or makes a new one there.
    ///
    /// # Errors
    /// When files cannot be read or written, or do not fit together.
    pub fn load_or_create(folder: &Path, trust_domain: &str) -> Result<Self, AuthorityError> {
        let (cert, key) = (folder.join("ca-cert.pem"), folder.join("ca-key.pem"));
        if !cert.exists() {
            create(folder, trust_domain)?;
        }
        let read = |path: PathBuf| fs::read_to_string(&path).map_err(|e| AuthorityError::File(path, e));
        let root = if folder.join("root-cert.pem").exists() { folder.join("root-cert.pem") } else { cert.clone() };
        let cert_pem = read(cert)?;
        let root_pem = read(root)?;
        let chain = folder.join("cert-chain.pem");
        let chain_pem = if chain.exists() { read(chain)? } else { String::new() };
        Self::from_pem(&cert_pem, &read(key)?, &root_pem, &chain_pem)
    }

    /// An authority of its certificate and key; `root` vouches for it (empty: itself), over `chain` (may be empty).
    ///
    /// # Errors
    /// When they do not fit together.
    pub fn from_pem(cert: &str, key: &str, root: &str, chain: &str) -> Result<Self, AuthorityError> {
        let unusable = |e: rcgen::Error| AuthorityError::Unusable(e.to_string());
        let key = KeyPair::from_pem(key).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(cert, key).map_err(unusable)?;
        let root = if root.trim().is_empty() { cert } else { root };
        // Other roots may be trusted beside it: those of an authority that is being replaced.
        let self_signed = crate::contains(root, cert);
        let intermediates = if self_signed { String::new() } else { format!("{}\n{}", cert.trim(), chain.trim()) };
        let signer = Signer { issuer, cert: cert.trim().to_owned(), intermediates };
        Ok(Self { signer: ArcSwap::from_pointee(signer), roots: ArcSwap::from_pointee(root.to_owned()) })
    }

    /// Whether both sign as the same.
    pub fn signs_as(&self, other: &Self) -> bool {
        self.signer.load().cert == other.signer.load().cert
    }

    /// Signs as `other` from now on. What is trusted stays.
    pub fn sign_as(&self, other: &Self) {
        self.signer.store(other.signer.load_full());
    }

    /// Trusts these roots (PEM) from now on: those who are signed for get them with their certificate.
    pub fn trust(&self, roots: String) {
        self.roots.store(Arc::new(roots));
    }

    /// A new self-signed root and its key, PEM.
    ///
    /// # Errors
    /// When the machine cannot make keys.
    pub fn new_root(trust_domain: &str) -> Result<(String, String), AuthorityError> {
        let unusable = |e: rcgen::Error| AuthorityError::Unusable(e.to_string());
        let key = KeyPair::generate().map_err(unusable)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + ROOT_LIFE;
        let cert = params.self_signed(&key).map_err(unusable)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// All roots that are trusted, PEM.
    pub fn root_pem(&self) -> Arc<String> {
        self.roots.load_full()
    }

    /// Signs a request (PEM) for the identity its caller has proved.
    ///
    /// # Errors
    /// When the request is malformed, wrongly signed, or names somebody else.
    pub fn sign(&self, request: &str, caller: &SpiffeId, life: Duration) -> Result<Vec<String>, AuthorityError> {
        let invalid = |e: rcgen::Error| AuthorityError::Request(e.to_string());
        // Reading it checks its signature: the caller holds the key.
        let mut request = CertificateSigningRequestParams::from_pem(request).map_err(invalid)?;
        for name in &request.params.subject_alt_names {
            let asked = match name {
                SanType::URI(uri) => uri.to_string(),
                other => format!("{other:?}"),
            };
            // Istio's agents put their own identity, or a host name of theirs, into the request.
            if asked != caller.to_string() {
                return Err(AuthorityError::Identity { asked, caller: caller.to_string() });
            }
        }
        request.params = leaf(vec![uri(caller)?], life);
        let signer = self.signer.load();
        let signed = request.signed_by(&signer.issuer).map_err(invalid)?;
        Ok(self.chain(signed.pem(), &signer))
    }

    /// A key and certificate of our own, for a server of the control plane.
    ///
    /// # Errors
    /// When a name is not a DNS name.
    pub fn issue(&self, id: &SpiffeId, hosts: &[&str], life: Duration) -> Result<Issued, AuthorityError> {
        let unusable = |e: rcgen::Error| AuthorityError::Unusable(e.to_string());
        let mut names = vec![uri(id)?];
        for host in hosts {
            names.push(SanType::DnsName(Ia5String::try_from(*host).map_err(unusable)?));
        }
        let key = KeyPair::generate().map_err(unusable)?;
        let signer = self.signer.load();
        let signed = leaf(names, life).signed_by(&key, &signer.issuer).map_err(unusable)?;
        Ok(Issued { chain: self.chain(signed.pem(), &signer).join("\n"), key: key.serialize_pem() })
    }

    /// Leaf first, the roots last.
    fn chain(&self, leaf: String, signer: &Signer) -> Vec<String> {
        let all = [leaf, signer.intermediates.clone(), self.root_pem().to_string()];
        all.into_iter().filter(|pem| !pem.trim().is_empty()).collect()
    }
}

fn uri(id: &SpiffeId) -> Result<SanType, AuthorityError> {
    let text = Ia5String::try_from(id.to_string()).map_err(|e| AuthorityError::Request(e.to_string()))?;
    Ok(SanType::URI(text))
}

/// A workload's certificate: no subject, its names, both ends of TLS.
fn leaf(names: Vec<SanType>, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    let now = OffsetDateTime::now_utc();
    // A very short life must not begin before it could be used for its half.
    params.not_before = now - SKEW;
    params.not_after = now + life;
    params
}

fn create(folder: &Path, trust_domain: &str) -> Result<(), AuthorityError> {
    fs::create_dir_all(folder).map_err(|e| AuthorityError::File(folder.to_owned(), e))?;
    let (cert, key) = Authority::new_root(trust_domain)?;
    write(&folder.join("ca-key.pem"), &key, 0o600)?;
    write(&folder.join("root-cert.pem"), &cert, 0o644)?;
    write(&folder.join("ca-cert.pem"), &cert, 0o644)
}

/// Writes a file that all may read, whole or not at all.
///
/// # Errors
/// What the file system says.
pub fn write_file(path: &Path, text: &str) -> Result<(), AuthorityError> {
    write(path, text, 0o644)
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let fail = |e| AuthorityError::File(path.to_owned(), e);
    let part = path.with_extension("part");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&part, path).map_err(fail)
}
