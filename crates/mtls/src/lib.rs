//! Who is at the other end: SPIFFE identities, the certificates in use, and the TLS configurations made of them.
//!
//! Promise: every peer is verified against the trusted roots, for validity, usage and name, with what is current at
//! the moment of the handshake; a rotated certificate or root needs no new configuration and cuts no connection. This
//! crate knows nothing of xDS, of files or of how a certificate is obtained.

mod config;
mod offer;
mod peer;
mod san;
mod slots;
pub mod sniff;
mod spiffe;
mod verify;

pub use config::{ClientTls, ServerTls, TlsError, read_revoked};
pub use offer::Offer;
pub use peer::Peer;
pub use san::{SanKind, SanMatch};
pub use slots::{CertInfo, CertSlot, RootSlot, SecretStore};
pub use spiffe::{SpiffeError, SpiffeId};
pub use webpki::CertRevocationList;

/// The one crypto provider: aws-lc, with the X25519MLKEM768 hybrid first.
pub(crate) fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<std::sync::Arc<rustls::crypto::CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}
