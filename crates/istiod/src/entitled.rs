//! Who may be sent the private keys of Secrets: a proxy that has proved its service account, of the Secret's own namespace,
//! and in a cluster only when that account may list Secrets there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kubernetes::Cluster;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long a yes counts; there is no hurry to take a right away from who had it (Istio's figure).
const YES: Duration = Duration::from_secs(300);
/// How long a no counts (Istio's figure).
const NO: Duration = Duration::from_secs(60);
/// How long after no answer the server is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// Accounts that are remembered; the mesh knows fewer.
const MOST: usize = 50_000;

/// Namespace and service account.
type Account = (String, String);

/// What is known of an account, and until when.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    allowed: bool,
    until: Instant,
}

/// What a cluster says of accounts; without a cluster each may have the keys of its namespace.
#[derive(Clone, Debug)]
pub(crate) struct Entitled {
    cluster: Option<Cluster>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    verdicts: HashMap<Account, Verdict>,
    asked: BTreeSet<Account>,
}

impl Entitled {
    pub(crate) fn new(cluster: Option<Cluster>) -> Self {
        Self { cluster, known: Arc::default() }
    }

    /// Whether an account may have the private keys of its namespace's Secrets. What is not known yet is a no; `changed` is
    /// called when it turns out otherwise. A verdict that is too old counts until it is known anew.
    pub(crate) fn is(&self, namespace: &str, account: &str, changed: impl Fn() + Send + 'static) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        let key = (namespace.to_owned(), account.to_owned());
        let now = Instant::now();
        let mut known = self.known.lock();
        let verdict = known.verdicts.get(&key).copied();
        let fresh = verdict.is_some_and(|verdict| verdict.until > now);
        if !fresh && known.asked.insert(key.clone()) {
            tokio::spawn(self.clone().ask(cluster.clone(), key, changed));
        }
        verdict.is_some_and(|verdict| verdict.allowed)
    }

    async fn ask(self, cluster: Cluster, key: Account, changed: impl Fn() + Send + 'static) {
        let allowed = loop {
            match cluster.may_list_secrets(&key.0, &key.1).await {
                Ok(allowed) => break allowed,
                Err(error) => {
                    let account = format!("{}/{}", key.0, key.1);
                    tracing::warn!(account, %error, "whether it may read Secrets is not known yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        if !allowed {
            tracing::warn!(
                namespace = key.0,
                account = key.1,
                "may not list Secrets: its sidecars are sent no private key"
            );
        }
        let news = {
            let mut known = self.known.lock();
            known.asked.remove(&key);
            let now = Instant::now();
            if known.verdicts.len() >= MOST {
                known.verdicts.retain(|_, verdict| verdict.until > now);
            }
            let verdict = Verdict { allowed, until: now + if allowed { YES } else { NO } };
            // Where there is no room for more, nothing is remembered: a no.
            let room = known.verdicts.len() < MOST || known.verdicts.contains_key(&key);
            let before = if room { known.verdicts.insert(key, verdict) } else { None };
            room && before.is_some_and(|before| before.allowed) != allowed
        };
        if news {
            changed();
        }
    }
}
