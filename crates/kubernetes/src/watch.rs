//! Following the cluster.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Config, watcher};
use parking_lot::Mutex;
use sources::Loaded;
use tokio::sync::{Notify, watch as channel};

use crate::cache::{Objects, assemble};
use crate::cluster::Cluster;
use crate::kind::{CRDS, KUBERNETES, Kind};

/// The first pause after a failure; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: short, since what changes meanwhile is not seen.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks for a kind that is not installed.
const ABSENT_PAUSE: Duration = Duration::from_secs(2);
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// What of the cluster is read.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The ConfigMap of the mesh configuration, in the control plane's namespace.
    pub mesh_config: String,
}

/// The cluster, followed until nobody listens any more.
#[derive(Clone, Debug)]
pub struct Source {
    loaded: channel::Receiver<Option<Loaded>>,
}

impl Source {
    /// Whether every kind was read completely once.
    pub fn is_synced(&self) -> bool {
        self.loaded.borrow().is_some()
    }

    /// Waits until every kind was read completely once; then everything, and every change of it.
    pub async fn synced(mut self) -> channel::Receiver<Loaded> {
        let first = self.loaded.wait_for(Option::is_some).await.ok().and_then(|l| l.clone()).unwrap_or_default();
        let (sender, receiver) = channel::channel(first);
        tokio::spawn(async move {
            while self.loaded.changed().await.is_ok() {
                let next = self.loaded.borrow_and_update().clone();
                if next.is_some_and(|next| sender.send(next).is_err()) {
                    return;
                }
            }
        });
        receiver
    }
}

struct Known {
    kinds: Mutex<Vec<Objects>>,
    news: Notify,
}

/// Follows everything a mesh is made of.
pub fn watch(cluster: &Cluster, scope: &Scope) -> Source {
    let kinds: Vec<Kind> = KUBERNETES.into_iter().chain(CRDS).collect();
    let known =
        Arc::new(Known { kinds: Mutex::new(kinds.iter().map(|_| Objects::default()).collect()), news: Notify::new() });
    let tasks: Vec<_> = kinds
        .into_iter()
        .enumerate()
        .map(|(index, kind)| tokio::spawn(follow(cluster.clone(), scope.clone(), kind, index, known.clone())))
        .collect();
    let (sender, loaded) = channel::channel(None);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = known.news.notified() => {}
                () = sender.closed() => break,
            }
            let begun = Instant::now();
            let now = {
                let kinds = known.kinds.lock();
                kinds.iter().all(|k| k.synced).then(|| assemble(kinds.iter()))
            };
            if let Some(now) = now {
                if sender.send(Some(now)).is_err() {
                    break;
                }
                // A single change is passed on at once; of many, half of the time is left for reading them.
                tokio::time::sleep(begun.elapsed()).await;
            }
        }
        for task in tasks {
            task.abort();
        }
    });
    Source { loaded }
}

fn api(cluster: &Cluster, scope: &Scope, kind: &Kind, version: usize) -> (Api<DynamicObject>, Config) {
    let resource = kind.resource(version);
    let config = Config::default().page_size(PAGE);
    if kind.kind == "ConfigMap" {
        let only = format!("metadata.name={}", scope.mesh_config);
        return (Api::namespaced_with(cluster.client(), &cluster.namespace, &resource), config.fields(&only));
    }
    (Api::all_with(cluster.client(), &resource), config)
}

async fn follow(cluster: Cluster, scope: Scope, kind: Kind, index: usize, known: Arc<Known>) {
    let mut version = 0_usize;
    loop {
        let (api, config) = api(&cluster, &scope, &kind, version);
        let mut events = pin!(watcher(api, config));
        let mut pause = FIRST_PAUSE;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    pause = FIRST_PAUSE;
                    let news = known.kinds.lock().get_mut(index).is_some_and(|k| k.take(&kind, event));
                    if news {
                        known.news.notify_one();
                    }
                }
                Err(error) if kind.is_istio() && absent(&error) => {
                    version += 1;
                    if version.is_multiple_of(kind.versions.len().max(1)) {
                        not_installed(&kind, index, &known);
                        tokio::time::sleep(ABSENT_PAUSE).await;
                    }
                    break;
                }
                Err(error) => {
                    tracing::warn!(kind = kind.kind, %error, "not followed for the moment; what is known stays");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// The kind is served in no version. Where it was, its objects have been deleted one by one before.
fn not_installed(kind: &Kind, index: usize, known: &Known) {
    let mut kinds = known.kinds.lock();
    if let Some(objects) = kinds.get_mut(index).filter(|o| !o.synced) {
        tracing::info!(kind = kind.kind, "not installed in this cluster");
        objects.synced = true;
        known.news.notify_one();
    }
}

fn absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
