//! Certificates in files. Istio names them as secrets, `file-cert:CHAIN~KEY` and `file-root:PATH`, which its agent serves;
//! here they are read by whoever uses them.

use std::fs::read_to_string;
use std::sync::Arc;

use mtls::{CertSlot, RootSlot, SecretStore};

const CERT: &str = "file-cert:";
const ROOT: &str = "file-root:";
/// Where systems keep the roots they trust.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The slot of a certificate, read from its files when its name tells them.
pub(crate) fn certificate(store: &SecretStore, name: &str) -> Arc<CertSlot> {
    let slot = store.certificate(name);
    if let Some((chain, key)) = name.strip_prefix(CERT).and_then(|files| files.split_once('~')) {
        let read = || -> Result<(), String> {
            let text = |path: &str| read_to_string(path).map_err(|e| format!("{path}: {e}"));
            slot.set(&text(chain)?, &text(key)?).map_err(|e| e.to_string())
        };
        if let Err(why) = read() {
            tracing::warn!(secret = name, why, "a certificate cannot be read");
        }
    }
    slot
}

/// The slot of roots, read from their file when their name tells it.
pub(crate) fn roots(store: &SecretStore, name: &str) -> Arc<RootSlot> {
    let slot = store.roots(name);
    if let Some(path) = name.strip_prefix(ROOT) {
        let path = match path {
            "system" => SYSTEM.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap_or(path),
            path => path,
        };
        let read = || {
            let pem = read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
            slot.set_pem(&pem).map_err(|e| e.to_string())
        };
        if let Err(why) = read() {
            tracing::warn!(secret = name, why, "roots cannot be read");
        }
    }
    slot
}

/// Reads all files again, for those that were renewed.
pub fn refresh_files(store: &SecretStore) {
    store
        .certificate_names()
        .iter()
        .filter(|name| name.starts_with(CERT))
        .for_each(|name| drop(certificate(store, name)));
    store.root_names().iter().filter(|name| name.starts_with(ROOT)).for_each(|name| drop(roots(store, name)));
}
