//! Where the certificate authority's key is kept: Secrets under Istio's names.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::cluster::{Cluster, ClusterError, Place};

/// A plugged-in authority.
const PLUGGED: &str = "cacerts";
/// Our own, self-signed.
const OWN: &str = "istio-ca-secret";

/// An authority's files by their name in the Secret: `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, `cert-chain.pem`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CaSecret(BTreeMap<String, String>);

impl std::fmt::Debug for CaSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
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
    let list = Place::list("v1", "secrets", Some(&cluster.namespace));
    for name in [PLUGGED, OWN] {
        if let Some(found) = cluster.read(&list.object(name)).await? {
            return Ok(Ok(CaSecret::read(&found)));
        }
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
