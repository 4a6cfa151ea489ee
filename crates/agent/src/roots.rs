//! The roots of the mesh as they are mounted. A rotation changes the file while the sidecar runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mtls::RootSlot;
use tokio::sync::watch;

use crate::identity::Issued;

/// Between two looks at the file; the kubelet itself needs a minute.
const LOOK: Duration = Duration::from_secs(5);

/// The roots in a file, for the way to istiod.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub(crate) fn read(path: &Path) -> io::Result<Arc<RootSlot>> {
    let pem = std::fs::read_to_string(path)
        .map_err(|e| io::Error::other(format!("the roots of the mesh cannot be read from {}: {e}", path.display())))?;
    let slot = Arc::new(RootSlot::default());
    slot.set_pem(&pem).map_err(io::Error::other)?;
    Ok(slot)
}

/// Puts what the file says into `slots` whenever it changes, and into what has been issued. A file that is gone or
/// unreadable changes nothing.
pub(crate) async fn keep(path: PathBuf, slots: Vec<Arc<RootSlot>>, issued: Option<watch::Sender<Option<Issued>>>) {
    let mut known = std::fs::read_to_string(&path).unwrap_or_default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(now) = tokio::fs::read_to_string(&path).await else { continue };
        if now == known {
            continue;
        }
        if let Err(error) = slots.iter().try_for_each(|slot| slot.set_pem(&now)) {
            tracing::warn!(%error, file = %path.display(), "the mesh's new roots are no certificates; the former stay");
            continue;
        }
        if let Some(issued) = &issued {
            issued.send_if_modified(|issued| issued.as_mut().map(|i| i.root.clone_from(&now)).is_some());
        }
        tracing::info!(file = %path.display(), "the mesh's roots have changed");
        known = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_changes_what_is_trusted() {
        let folder = std::env::temp_dir().join(format!("meltemi-roots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("root-cert.pem");
        let (one, two) = (root(), root());
        std::fs::write(&file, &one).unwrap();
        let slot = read(&file).unwrap();
        let task = tokio::spawn(keep(file.clone(), vec![slot.clone()], None));
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(slot.info().len(), 1);
        std::fs::write(&file, "nonsense").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(slot.info().len(), 1, "the former stay");
        std::fs::write(&file, format!("{one}{two}")).unwrap();
        while slot.info().len() != 2 {
            tokio::time::sleep(LOOK).await;
        }
        task.abort();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
