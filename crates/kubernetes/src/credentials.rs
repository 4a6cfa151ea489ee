//! Secrets that the mesh names: each is followed by its name, no other is read, and of each only what TLS needs is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use istio_api::secret::Credential;
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{Config, Event, watcher};
use mesh::Credentials;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::cluster::{Cluster, ClusterError, Place};

/// The first pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause: a right that is missing is not given in seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Namespace and name.
type Key = (String, String);

impl Cluster {
    /// Whether a service account may list the Secrets of its namespace: who may do that knows them anyway (Istio's rule).
    ///
    /// # Errors
    /// When the server does not answer: then nothing is known.
    pub async fn may_list_secrets(&self, namespace: &str, account: &str) -> Result<bool, ClusterError> {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}"), "system:authenticated"];
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups,
                "resourceAttributes": {"namespace": namespace, "verb": "list", "resource": "secrets"}},
        });
        let list = Place::list("authorization.k8s.io/v1", "subjectaccessreviews", None);
        let answer = self.create(&list, &review).await?;
        Ok(answer["status"]["allowed"] == true && answer["status"]["denied"] != true)
    }
}

/// Follows the Secrets that are wanted now, until nobody says what is wanted any more. A Secret that cannot be read for a
/// while stays as it was.
pub fn follow_secrets(
    cluster: Cluster,
    mut wanted: watch::Receiver<BTreeSet<Key>>,
) -> watch::Receiver<Arc<Credentials>> {
    let (sender, receiver) = watch::channel(Arc::default());
    let sender = Arc::new(sender);
    tokio::spawn(async move {
        let mut followed: BTreeMap<Key, AbortHandle> = BTreeMap::new();
        loop {
            let now = wanted.borrow_and_update().clone();
            followed.retain(|key, task| {
                let kept = now.contains(key);
                if !kept {
                    task.abort();
                    put(&sender, key, None);
                }
                kept
            });
            for key in now {
                let new = || tokio::spawn(follow(cluster.clone(), key.clone(), sender.clone())).abort_handle();
                followed.entry(key.clone()).or_insert_with(new);
            }
            if wanted.changed().await.is_err() {
                break;
            }
        }
        followed.values().for_each(AbortHandle::abort);
    });
    receiver
}

/// Puts a Secret in force, or takes it away; tells nobody when it is as it was.
fn put(sender: &watch::Sender<Arc<Credentials>>, key: &Key, now: Option<Credential>) {
    sender.send_if_modified(|all| {
        if all.get(key).map(|found| &**found) == now.as_ref() {
            return false;
        }
        let all = Arc::make_mut(all);
        match now {
            Some(now) => drop(all.insert(key.clone(), Arc::new(now))),
            None => drop(all.remove(key)),
        }
        true
    });
}

async fn follow(cluster: Cluster, key: Key, sender: Arc<watch::Sender<Arc<Credentials>>>) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), &key.0, &resource);
    let mut events = pin!(watcher(api, Config::default().fields(&format!("metadata.name={}", key.1))));
    let mut pause = FIRST_PAUSE;
    let mut listed = None;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                pause = FIRST_PAUSE;
                match event {
                    Event::Init => listed = None,
                    Event::InitApply(object) => listed = read(&key, &object.data),
                    Event::InitDone => put(&sender, &key, listed.take()),
                    Event::Apply(object) => put(&sender, &key, read(&key, &object.data)),
                    Event::Delete(_) => put(&sender, &key, None),
                }
            }
            Err(error) => {
                tracing::warn!(namespace = key.0, secret = key.1, %error, "the Secret is not followed for the moment");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn read(key: &Key, secret: &Value) -> Option<Credential> {
    match Credential::read(secret) {
        Ok(found) => found,
        Err(errors) => {
            let why: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.pointer, e.message)).collect();
            tracing::warn!(namespace = key.0, secret = key.1, why = why.join("; "), "the Secret cannot be used");
            None
        }
    }
}
