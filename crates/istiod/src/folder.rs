//! The authority of a directory: its self-signed root is renewed there, and `root-cert.pem` holds all that is trusted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, Renewal, contains, union, write_file};
use kubernetes::CaSecret;
use tokio::sync::{Notify, watch};

use crate::rotation::{self, Rotation};

/// What a directory's authority is kept with.
pub(crate) struct Folder {
    pub(crate) authority: Arc<Authority>,
    /// Told when another certificate signs.
    pub(crate) signs: Arc<Notify>,
    /// How long new roots are spread before anything is signed below them.
    pub(crate) spread: Duration,
    /// How long a certificate lives.
    pub(crate) life: Duration,
    /// When the root is renewed.
    pub(crate) renewal: Renewal,
}

/// Keeps the authority in `path`; the roots that workloads are given, whenever they change.
pub(crate) fn keep(path: PathBuf, folder: Folder) -> watch::Receiver<String> {
    let Folder { authority, signs, spread, life, renewal } = folder;
    let (given, roots) = watch::channel(authority.root_pem().to_string());
    let (sender, secrets) = watch::channel(read(&path));
    tokio::spawn(Rotation { authority, given, signs, spread, life }.keep(secrets));
    tokio::spawn(publish(path.clone(), roots.clone()));
    tokio::spawn(async move {
        while !sender.is_closed() {
            renew(&path, &renewal, &sender);
            tokio::time::sleep(renewal.check).await;
        }
    });
    roots
}

/// The files of the authority; a self-signed one is its own root, whatever else is trusted beside it.
fn read(path: &Path) -> CaSecret {
    let file = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    let (cert, mut root) = (file("ca-cert.pem"), file("root-cert.pem"));
    if contains(&root, &cert) {
        root.clone_from(&cert);
    }
    let (key, chain) = (file("ca-key.pem"), file("cert-chain.pem"));
    let files = [("ca-cert.pem", cert), ("ca-key.pem", key), ("root-cert.pem", root), ("cert-chain.pem", chain)];
    files.into_iter().collect()
}

fn renew(path: &Path, renewal: &Renewal, sender: &watch::Sender<CaSecret>) {
    let Some(cert) = rotation::renewed(renewal, &read(path)) else { return };
    let trusted = std::fs::read_to_string(path.join("root-cert.pem")).unwrap_or_default();
    // Trusted before it signs, also when we are killed in between.
    let written = write_file(&path.join("root-cert.pem"), &union(&cert, &trusted))
        .and_then(|()| write_file(&path.join("ca-cert.pem"), &cert));
    match written {
        Ok(()) => drop(sender.send_replace(read(path))),
        Err(error) => tracing::error!(%error, "the renewed root cannot be kept; the old one stays"),
    }
}

/// Writes what is trusted where pods are given it from.
async fn publish(path: PathBuf, mut roots: watch::Receiver<String>) {
    while roots.changed().await.is_ok() {
        let now = roots.borrow_and_update().clone();
        if let Err(error) = write_file(&path.join("root-cert.pem"), &now) {
            tracing::error!(%error, "the roots of the mesh cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use mtls::SpiffeId;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_root_near_its_end_is_renewed_and_both_are_trusted_until_the_old_leaves_are_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let authority = Arc::new(Authority::load_or_create(&path, "cluster.local").unwrap());
        let first = authority.root_pem().to_string();
        // All of its life is the last part: it is due at once, and the next one too.
        let renewal = Renewal { check: HOUR * 24, grace_percent: 100, ..Renewal::default() };
        let signs = Arc::new(Notify::new());
        let kept = Folder { authority: authority.clone(), signs: signs.clone(), spread: HOUR, life: HOUR * 2, renewal };
        let mut roots = keep(path.clone(), kept);

        let both = roots.wait_for(|r| contains(r, &first) && *r != first).await.unwrap().clone();
        let second = std::fs::read_to_string(path.join("ca-cert.pem")).unwrap();
        assert!(contains(&both, &second) && !contains(&first, &second));
        assert!(contains(&std::fs::read_to_string(path.join("root-cert.pem")).unwrap(), &both));
        // Found again after a restart, both still trusted.
        let again = Authority::load_or_create(&path, "cluster.local").unwrap();
        assert!(contains(&again.root_pem(), &both));
        let chain = again.issue(&SpiffeId::new("cluster.local", "prod", "pay"), &[], HOUR).unwrap().chain;
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 3, "the leaf and both roots, nothing in between");

        signs.notified().await;
        assert!(authority.signs_as(&again));
        roots.wait_for(|r| !contains(r, &first)).await.unwrap();
        assert!(contains(&authority.root_pem(), &second));
    }
}
