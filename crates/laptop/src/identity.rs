//! What proves who a pod is before it has a certificate: its service account's token, and the roots it trusts.
//!
//! The laptop plays the part of the API server's token issuer. Who issues is given by the binary, so that this crate does
//! not depend on the certificate authority.

use std::sync::Arc;

/// Issues tokens and tells the roots.
pub trait Issuer: Send + Sync {
    /// A token for a service account (audience `istio-ca`), and the roots of the mesh as PEM.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    fn credentials(&self, namespace: &str, service_account: &str) -> Result<(String, String), String>;

    /// The roots of the mesh as PEM; they may change.
    ///
    /// # Errors
    /// A sentence that says why they are not known.
    fn roots(&self) -> Result<String, String>;

    /// The mesh's trust domain.
    fn trust_domain(&self) -> &str;

    /// Tokens are to be renewed this often.
    fn renew_every(&self) -> std::time::Duration;
}

/// The issuer in use.
#[derive(Clone)]
pub struct Identity(Arc<dyn Issuer>);

impl Identity {
    /// Uses this issuer.
    pub fn new(issuer: Arc<dyn Issuer>) -> Self {
        Self(issuer)
    }

    pub(crate) fn credentials(&self, namespace: &str, service_account: &str) -> Result<(String, String), String> {
        self.0.credentials(namespace, service_account)
    }

    pub(crate) fn roots(&self) -> Result<String, String> {
        self.0.roots()
    }

    pub(crate) fn trust_domain(&self) -> &str {
        self.0.trust_domain()
    }

    pub(crate) fn renew_every(&self) -> std::time::Duration {
        self.0.renew_every()
    }
}

/// Issues nothing: for meshes in which no pod has a sidecar, and for tests of the network alone.
#[derive(Debug)]
pub struct NoIssuer;

impl Issuer for NoIssuer {
    fn credentials(&self, _: &str, _: &str) -> Result<(String, String), String> {
        Ok((String::new(), String::new()))
    }

    fn roots(&self) -> Result<String, String> {
        Ok(String::new())
    }

    fn trust_domain(&self) -> &'static str {
        "cluster.local"
    }

    fn renew_every(&self) -> std::time::Duration {
        std::time::Duration::from_secs(3600)
    }
}
