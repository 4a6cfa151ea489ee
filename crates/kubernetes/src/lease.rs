//! Who of several replicas does what only one may do: a Lease, as Kubernetes' own controllers hold theirs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::watch;

use crate::cluster::{Cluster, ClusterError, Place};

/// Who does not renew for this long has lost the lease.
const LIFE: Duration = Duration::from_secs(15);
/// Who cannot renew for this long stops, well before another may begin.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Kubernetes' MicroTime.
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Whether this process leads at the moment.
pub type Leading = watch::Receiver<bool>;

/// A candidacy.
#[derive(Debug)]
pub struct Election {
    cluster: Cluster,
    name: String,
    holder: String,
    /// The lease as last seen, and when it was first seen so: clocks of other machines are not trusted.
    seen: Option<(Value, Instant)>,
}

impl Election {
    /// Stands for the lease `name` until nobody listens; `holder` must be this process' own.
    pub fn stand(cluster: Cluster, name: &str, holder: &str) -> Leading {
        let mut election = Self { cluster, name: name.to_owned(), holder: holder.to_owned(), seen: None };
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let mut renewed: Option<Instant> = None;
            while !sender.is_closed() {
                match election.look().await {
                    Ok(true) => renewed = Some(Instant::now()),
                    Ok(false) => renewed = None,
                    Err(error) => tracing::debug!(%error, "the lease was not renewed"),
                }
                let leads = renewed.is_some_and(|at| at.elapsed() < DEADLINE);
                sender.send_if_modified(|now| {
                    let changed = *now != leads;
                    if changed {
                        tracing::info!(lease = election.name, leads, "leadership");
                    }
                    *now = leads;
                    changed
                });
                // Replicas that started together do not collide each time.
                tokio::time::sleep(LOOK.mul_f64(0.9 + fastrand::f64() * 0.2)).await;
            }
        });
        receiver
    }

    /// Takes or renews the lease where that is possible; whether it is ours now.
    async fn look(&mut self) -> Result<bool, ClusterError> {
        let list = Place::list("coordination.k8s.io/v1", "leases", Some(&self.cluster.namespace));
        let place = list.object(&self.name);
        let Some(mut lease) = self.cluster.read(&place).await? else {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": self.name, "namespace": self.cluster.namespace}, "spec": self.claim(0),
            });
            return won(self.cluster.create(&list, &lease).await);
        };
        let held_by = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default();
        if held_by == self.holder {
            let acquired = lease["spec"]["acquireTime"].clone();
            lease["spec"] = self.claim(transitions);
            lease["spec"]["acquireTime"] = acquired;
            return won(self.cluster.replace(&place, &lease).await);
        }
        if self.seen.as_ref().is_none_or(|(spec, _)| *spec != lease["spec"]) {
            self.seen = Some((lease["spec"].clone(), Instant::now()));
        }
        let expired = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > LIFE);
        if !held_by.is_empty() && !expired {
            return Ok(false);
        }
        lease["spec"] = self.claim(transitions.saturating_add(1));
        won(self.cluster.replace(&place, &lease).await)
    }

    fn claim(&self, transitions: i64) -> Value {
        let now = OffsetDateTime::now_utc().format(STAMP).unwrap_or_default();
        json!({
            "holderIdentity": self.holder, "leaseDurationSeconds": LIFE.as_secs(),
            "acquireTime": now, "renewTime": now, "leaseTransitions": transitions,
        })
    }
}

fn won(answer: Result<Value, ClusterError>) -> Result<bool, ClusterError> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}
