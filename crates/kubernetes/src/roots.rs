//! The mesh's root certificate in every namespace, where sidecars mount it.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::select;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::json;
use tokio::sync::watch;

use crate::cache::data;
use crate::cluster::{Cluster, Place};
use crate::kind::Kind;
use crate::lease::Leading;

/// The ConfigMap's name.
pub(crate) const NAME: &str = "istio-ca-root-cert";
/// Its key.
pub(crate) const KEY: &str = "root-cert.pem";
/// Namespaces without workloads of the mesh, as Istio has them.
const LEFT_OUT: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

const NAMESPACES: Kind = Kind { group: "", versions: &["v1"], kind: "Namespace", plural: "namespaces" };
const CONFIG_MAPS: Kind = Kind { group: "", versions: &["v1"], kind: "ConfigMap", plural: "configmaps" };

/// Writes the roots into every namespace, and again when somebody changes or deletes them, while `leading`.
pub async fn keep_roots(cluster: Cluster, roots: watch::Receiver<String>, mut leading: Leading) {
    loop {
        if leading.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut stop = leading.clone();
        let mut renewed = roots.clone();
        renewed.mark_unchanged();
        tokio::select! {
            () = follow(&cluster, &roots) => {}
            ended = stop.wait_for(|leads| !*leads) => if ended.is_err() { return },
            ended = renewed.changed() => if ended.is_err() { return },
        }
    }
}

async fn follow(cluster: &Cluster, roots: &watch::Receiver<String>) {
    let wanted = roots.borrow().clone();
    let named = Config::default().fields(&format!("metadata.name={NAME}"));
    let maps: Api<DynamicObject> = Api::all_with(cluster.client(), &CONFIG_MAPS.resource(0));
    let namespaces: Api<DynamicObject> = Api::all_with(cluster.client(), &NAMESPACES.resource(0));
    // `true`: of a namespace.
    let mut events = pin!(select(
        watcher(maps, named).map(|event| (false, event)),
        watcher(namespaces, Config::default()).map(|event| (true, event)),
    ));
    // Namespaces, and whether each has the right roots; nothing is written before both lists are known.
    let mut right: HashMap<String, bool> = HashMap::new();
    let mut present: HashMap<String, bool> = HashMap::new();
    let (mut maps_known, mut namespaces_known) = (false, false);
    while let Some((of_namespace, event)) = events.next().await {
        match event {
            Ok(Event::InitDone) if of_namespace => namespaces_known = true,
            Ok(Event::InitDone) => maps_known = true,
            Ok(Event::Init) => {}
            Ok(Event::Apply(object) | Event::InitApply(object)) if of_namespace => {
                let ends = object.metadata.deletion_timestamp.is_some();
                present.insert(object.metadata.name.unwrap_or_default(), !ends);
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let namespace = object.metadata.namespace.clone().unwrap_or_default();
                right.insert(namespace, data(&object.data, KEY) == Some(&wanted));
            }
            Ok(Event::Delete(object)) if of_namespace => {
                present.remove(&object.metadata.name.unwrap_or_default());
            }
            Ok(Event::Delete(object)) => {
                right.remove(&object.metadata.namespace.unwrap_or_default());
            }
            Err(error) => {
                tracing::debug!(%error, "roots are not watched for the moment");
                tokio::time::sleep(PAUSE).await;
            }
        }
        if maps_known && namespaces_known {
            write(cluster, &wanted, &present, &mut right).await;
        }
    }
}

async fn write(cluster: &Cluster, wanted: &str, present: &HashMap<String, bool>, right: &mut HashMap<String, bool>) {
    let lacking = |name: &String| !LEFT_OUT.contains(&name.as_str()) && right.get(name) != Some(&true);
    let names: Vec<String> =
        present.iter().filter(|(n, alive)| **alive && lacking(n)).map(|(n, _)| n.clone()).collect();
    for namespace in names {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace, "labels": {"istio.io/config": "true"}},
            "data": {KEY: wanted},
        });
        let place = Place::list("v1", "configmaps", Some(&namespace)).object(NAME);
        match cluster.apply(&place, &map).await {
            Ok(_) => {
                right.insert(namespace, true);
            }
            Err(error) => tracing::warn!(namespace, %error, "the mesh's root is not written here yet"),
        }
    }
}
