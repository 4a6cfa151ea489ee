//! What has to be done now and then: logs kept short, tokens kept fresh, roots brought to pods.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Node;
use crate::sandbox;

/// How often logs are looked at for their size.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// A log that is longer is cut.
const MAX_LOG: u64 = 32 << 20;
impl Node {
    /// Keeps logs short, tokens fresh, and the mesh's roots in pods as they are.
    pub(super) async fn keep_house(self: Rc<Self>) {
        let mut renewed = Instant::now();
        let mut roots = self.identity.roots();
        loop {
            tokio::time::sleep(TRIM_EVERY).await;
            trim(&self.state.path().join("logs"), 0);
            trim(&self.state.istiod_log(), 0);
            if renewed.elapsed() > self.identity.renew_every() {
                renewed = Instant::now();
                self.renew_tokens();
            }
            let now = self.identity.roots();
            if let Ok(now) = &now
                && roots.as_ref() != Ok(now)
            {
                self.spread_roots(now);
            }
            roots = now.or(roots);
            if let Err(error) = self.inner.borrow().service_addresses.save(&self.state.vips()) {
                eprintln!("cannot remember cluster IPs: {error}");
            }
        }
    }

    fn spread_roots(&self, roots: &str) {
        let pods: Vec<_> = self.inner.borrow().pods.values().cloned().collect();
        for pod in pods {
            let folder = self.state.pod(&pod.namespace, &pod.name);
            if let Err(reason) = sandbox::write_roots(&folder, roots) {
                self.trouble(format!("cannot bring the roots to {}/{}: {reason}", pod.namespace, pod.name));
            }
        }
    }

    fn renew_tokens(&self) {
        let pods: Vec<_> = self.inner.borrow().pods.values().cloned().collect();
        for pod in pods {
            let folder = self.state.pod(&pod.namespace, &pod.name);
            let renewed = self
                .identity
                .credentials(&pod.namespace, &pod.template.service_account)
                .and_then(|(token, _)| sandbox::write_token(&folder, &token).map_err(|e| e.to_string()));
            if let Err(reason) = renewed {
                self.trouble(format!("cannot renew the token of {}/{}: {reason}", pod.namespace, pod.name));
            }
        }
    }
}

/// Cuts logs that have grown too long; their writers append, so they go on at the new end.
fn trim(path: &std::path::Path, depth: u8) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    if meta.is_dir() && depth < 4 {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            trim(&entry.path(), depth + 1);
        }
    } else if meta.is_file() && meta.len() > MAX_LOG {
        // A log that cannot be cut is tried again soon.
        let _ = std::fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    }
}
