//! A cluster's authority while it changes: new roots are trusted everywhere before anything is signed below them, and
//! old ones for as long as what was signed below them may live.

use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, AuthorityError, Renewal, contains, union};
use kubernetes::CaSecret;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// The authority of a Secret.
///
/// # Errors
/// When a file is missing, or they do not fit together.
pub(crate) fn read(secret: &CaSecret) -> Result<Authority, AuthorityError> {
    let file = |name| secret.file(name);
    for name in ["ca-cert.pem", "ca-key.pem"] {
        if file(name).is_empty() {
            return Err(AuthorityError::Unusable(format!("the Secret of the authority has no {name}")));
        }
    }
    Authority::from_pem(file("ca-cert.pem"), file("ca-key.pem"), file("root-cert.pem"), file("cert-chain.pem"))
}

/// The certificate that takes the place of a self-signed root whose end is near.
pub(crate) fn renewed(renewal: &Renewal, secret: &CaSecret) -> Option<String> {
    match renewal.renewed(secret.file("ca-cert.pem"), secret.file("ca-key.pem"), OffsetDateTime::now_utc()) {
        Ok(Some(cert)) => {
            tracing::info!("the self-signed root nears its end: it is renewed with the same key");
            Some(cert)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::error!(%error, "the root cannot be renewed");
            None
        }
    }
}

/// What follows the authority's Secret.
pub(crate) struct Rotation {
    pub(crate) authority: Arc<Authority>,
    /// The roots that workloads are given.
    pub(crate) given: watch::Sender<String>,
    /// Told when another authority signs.
    pub(crate) signs: Arc<Notify>,
    /// How long new roots are spread before anything is signed below them.
    pub(crate) spread: Duration,
    /// How long a certificate lives.
    pub(crate) life: Duration,
}

impl Rotation {
    /// Follows until the Secret is not followed any more.
    pub(crate) async fn keep(self, mut secrets: watch::Receiver<CaSecret>) {
        // When what is given has been spread, and when the roots of the Secret are the only ones again.
        let (mut spread, mut alone) = (Instant::now(), None);
        loop {
            let secret = secrets.borrow_and_update().clone();
            match read(&secret) {
                Ok(next) => {
                    if self.widen(&next) {
                        spread = Instant::now() + self.spread;
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(spread) => {}
                        changed = secrets.changed() => if changed.is_ok() { continue } else { return },
                    }
                    alone = self.turn(&next);
                }
                Err(error) => tracing::error!(%error, "the authority stays as it is"),
            }
            tokio::select! {
                changed = secrets.changed() => if changed.is_err() { return },
                () = until(alone) => {
                    alone = None;
                    if let Ok(now) = read(&secret) {
                        tracing::info!("former roots are not trusted any more");
                        self.give(now.root_pem().to_string());
                    }
                }
            }
        }
    }

    /// Gives the roots of `next` besides those that are given; whether there are new ones.
    fn widen(&self, next: &Authority) -> bool {
        let (own, given) = (next.root_pem(), self.given.borrow().clone());
        let new = !contains(&given, &own);
        if new {
            tracing::info!(seconds = self.spread.as_secs(), "new roots are spread; then the new authority signs");
            self.give(union(&own, &given));
        }
        new
    }

    /// Lets `next` sign; until when others than its roots are trusted.
    fn turn(&self, next: &Authority) -> Option<Instant> {
        if !self.authority.signs_as(next) {
            self.authority.sign_as(next);
            self.signs.notify_one();
            tracing::info!("another authority signs");
        }
        let given = self.given.borrow().clone();
        (!contains(&next.root_pem(), &given)).then(|| Instant::now() + self.life)
    }

    fn give(&self, roots: String) {
        self.authority.trust(roots.clone());
        self.given.send_replace(roots);
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn secret() -> CaSecret {
        let (cert, key) = Authority::new_root("cluster.local").unwrap();
        [("ca-cert.pem", cert.clone()), ("ca-key.pem", key), ("root-cert.pem", cert)].into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn both_roots_are_trusted_before_the_new_one_signs_and_for_a_certificates_life_after() {
        let (first, second) = (secret(), secret());
        let authority = Arc::new(read(&first).unwrap());
        let (one, two) = (authority.root_pem().to_string(), read(&second).unwrap().root_pem().to_string());
        let (given, mut roots) = watch::channel(one.clone());
        let rotation =
            Rotation { authority: authority.clone(), given, signs: Arc::default(), spread: MINUTE, life: MINUTE * 60 };
        let (sender, secrets) = watch::channel(first);
        tokio::spawn(rotation.keep(secrets));

        sender.send_replace(second.clone());
        roots.wait_for(|r| contains(r, &two)).await.unwrap();
        assert!(contains(&roots.borrow(), &one), "both");
        let new = read(&second).unwrap();
        tokio::time::sleep(MINUTE / 2).await;
        assert!(!authority.signs_as(&new), "not everybody trusts it yet");
        tokio::time::sleep(MINUTE).await;
        assert!(authority.signs_as(&new));
        assert!(contains(&authority.root_pem(), &one), "who is signed for now still trusts the others");
        roots.wait_for(|r| !contains(r, &one)).await.unwrap();
        assert!(contains(&roots.borrow(), &two));
        assert!(!contains(&authority.root_pem(), &one));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unusable_secret_changes_nothing() {
        let first = secret();
        let authority = Arc::new(read(&first).unwrap());
        let (given, roots) = watch::channel(authority.root_pem().to_string());
        let rotation =
            Rotation { authority: authority.clone(), given, signs: Arc::default(), spread: MINUTE, life: MINUTE };
        let (sender, secrets) = watch::channel(first.clone());
        tokio::spawn(rotation.keep(secrets));
        sender.send_replace([("ca-cert.pem", "nonsense".to_owned())].into_iter().collect());
        tokio::time::sleep(MINUTE * 5).await;
        assert!(authority.signs_as(&read(&first).unwrap()) && !roots.has_changed().unwrap());
    }
}
