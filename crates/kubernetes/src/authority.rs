//! Where the certificate authority's key is kept: Secrets under Istio's names.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::select;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{Config, watcher};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::cache::data;
use crate::cluster::{Cluster, ClusterError, Place};
use crate::kind::Kind;
use crate::lease::Leading;
use crate::roots;

/// A plugged-in authority.
const PLUGGED: &str = "cacerts";
/// Our own, self-signed.
const OWN: &str = "istio-ca-secret";
const SECRETS: Kind = Kind { group: "", versions: &["v1"], kind: "Secret", plural: "secrets" };
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// An authority's files by their name in the Secret: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CaSecret(BTreeMap<String, String>);

impl std::fmt::Debug for CaSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'a> FromIterator<(&'a str, String)> for CaSecret {
    fn from_iter<I: IntoIterator<Item = (&'a str, String)>>(files: I) -> Self {
        Self(files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect())
    }
}

impl CaSecret {
    /// One of the files; empty when it is missing.
    pub fn file(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn read(secret: &Value) -> Self {
        let entries = secret["data"].as_object().into_iter().flatten().filter_map(|(name, value)| {
            let bytes = STANDARD.decode(value.as_str()?).ok()?;
            Some((name.clone(), String::from_utf8(bytes).ok()?))
        });
        Self(entries.collect())
    }
}

/// The authority of the cluster: the Secret `cacerts`, else `istio-ca-secret`, which is made of `create` (certificate
/// and key, PEM) when it is missing. Of two that make it at once, one wins and both have the same.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn ca_secret<E>(
    cluster: &Cluster,
    create: impl FnOnce() -> Result<(String, String), E>,
) -> Result<Result<CaSecret, E>, ClusterError> {
    let list = secrets(cluster);
    if let Some(found) = present(cluster).await? {
        return Ok(Ok(found));
    }
    let (cert, key) = match create() {
        Ok(made) => made,
        Err(error) => return Ok(Err(error)),
    };
    let mut data = Map::new();
    for (name, text) in [("ca-cert.pem", &cert), ("ca-key.pem", &key), ("root-cert.pem", &cert)] {
        data.insert(name.to_owned(), STANDARD.encode(text).into());
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root",
        "metadata": {"name": OWN, "namespace": cluster.namespace}, "data": data,
    });
    match cluster.create(&list, &secret).await {
        Ok(made) => Ok(Ok(CaSecret::read(&made))),
        Err(error) if error.is_conflict() => {
            let found = cluster.read(&list.object(OWN)).await?.unwrap_or_default();
            Ok(Ok(CaSecret::read(&found)))
        }
        Err(error) => Err(error),
    }
}

fn secrets(cluster: &Cluster) -> Place {
    Place::list("v1", "secrets", Some(&cluster.namespace))
}

/// The authority that is there.
async fn present(cluster: &Cluster) -> Result<Option<CaSecret>, ClusterError> {
    for name in [PLUGGED, OWN] {
        if let Some(found) = cluster.read(&secrets(cluster).object(name)).await? {
            return Ok(Some(CaSecret::read(&found)));
        }
    }
    Ok(None)
}

/// Follows the authority's Secret from `first` on: each other one that comes into force there. One that is deleted
/// changes nothing.
pub fn follow_ca(cluster: Cluster, first: CaSecret) -> watch::Receiver<CaSecret> {
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), &cluster.namespace, &SECRETS.resource(0));
        // Single objects by name: that is all that istiod may read.
        let named = |name| watcher(api.clone(), Config::default().fields(&format!("metadata.name={name}")));
        let mut events = pin!(select(named(PLUGGED), named(OWN)));
        while let Some(event) = events.next().await {
            let found = match event {
                Ok(_) => present(&cluster).await,
                Err(error) => {
                    tracing::debug!(%error, "the authority is not followed for the moment");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if let Ok(Some(found)) = found {
                sender.send_if_modified(|now| std::mem::replace(now, found.clone()) != found);
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

/// Looks at our own authority's Secret now and every `check`, while `leading`: `renew` makes the self-signed certificate
/// that takes the place of the one there, over the same key, when it is time. One that people plugged in is theirs.
pub async fn renew_ca(
    cluster: Cluster,
    mut leading: Leading,
    check: Duration,
    renew: impl Fn(&CaSecret) -> Option<String>,
) {
    loop {
        if leading.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let pause = match renew_once(&cluster, &renew).await {
            Ok(()) => check,
            // Whoever was faster has done it.
            Err(error) if error.is_conflict() => check,
            Err(error) => {
                tracing::warn!(%error, "the root was not looked at; it is tried again");
                check.min(PAUSE * 10)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn renew_once(cluster: &Cluster, renew: &impl Fn(&CaSecret) -> Option<String>) -> Result<(), ClusterError> {
    let place = |name: &str| secrets(cluster).object(name);
    if cluster.read(&place(PLUGGED)).await?.is_some() {
        return Ok(());
    }
    let Some(mut secret) = cluster.read(&place(OWN)).await? else { return Ok(()) };
    let Some(cert) = renew(&CaSecret::read(&secret)) else { return Ok(()) };
    for name in ["ca-cert.pem", "root-cert.pem"] {
        secret["data"][name] = STANDARD.encode(&cert).into();
    }
    // With the version that was read: of two at once, one wins.
    cluster.replace(&place(OWN), &secret).await.map(drop)
}

/// The roots that were last given to the workloads of the control plane's own namespace (PEM), if any were.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn given_roots(cluster: &Cluster) -> Result<Option<String>, ClusterError> {
    let place = Place::list("v1", "configmaps", Some(&cluster.namespace)).object(roots::NAME);
    let map = cluster.read(&place).await?;
    Ok(map.and_then(|map| data(&map, roots::KEY).map(str::to_owned)))
}
