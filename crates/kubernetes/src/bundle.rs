//! Webhook configurations: the API server must trust our certificate before it asks us.

use std::pin::pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use futures_util::stream::select;
use kube::Api;
use kube::core::DynamicObject;
use kube::runtime::watcher::{Config, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cluster::{Cluster, Place};
use crate::kind::Kind;

const GROUP: &str = "admissionregistration.k8s.io";
const MUTATING: Kind = Kind {
    group: GROUP,
    versions: &["v1"],
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
};
const VALIDATING: Kind = Kind {
    group: GROUP,
    versions: &["v1"],
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
};
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps `caBundle` of this revision's webhooks (label `istio.io/rev`) at `roots` (PEM). Every replica may: all write
/// the same. A validating webhook that asks nobody yet (failurePolicy Ignore) is made to count.
pub async fn keep_bundles(cluster: Cluster, revision: String, mut roots: watch::Receiver<String>) {
    loop {
        let bundle = STANDARD.encode(roots.borrow_and_update().as_bytes());
        tokio::select! {
            () = follow(&cluster, &revision, &bundle) => {}
            ended = roots.changed() => if ended.is_err() { return },
        }
    }
}

async fn follow(cluster: &Cluster, revision: &str, bundle: &str) {
    let ours = Config::default().labels(&format!("istio.io/rev={revision}"));
    let watched = |kind: Kind| {
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &kind.resource(0));
        watcher(api, ours.clone()).map(move |event| (kind, event))
    };
    let mut events = pin!(select(watched(MUTATING), watched(VALIDATING)));
    while let Some((kind, event)) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let Some(operations) = correction(&object.data, bundle, kind == VALIDATING) else { continue };
                let name = object.metadata.name.unwrap_or_default();
                let place = Place::list("admissionregistration.k8s.io/v1", kind.plural, None).object(&name);
                match cluster.patch(&place, &operations).await {
                    Ok(_) => tracing::info!(name, "the webhook's caBundle is set"),
                    Err(error) => {
                        tracing::warn!(name, %error, "the webhook's caBundle is not right yet");
                        tokio::time::sleep(PAUSE).await;
                        // A new list brings the object again.
                        return;
                    }
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "webhook configurations are not watched for the moment");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What must be changed; `None` when all is right.
fn correction(configuration: &Value, bundle: &str, validating: bool) -> Option<Value> {
    let mut operations = Vec::new();
    for (index, webhook) in configuration["webhooks"].as_array().into_iter().flatten().enumerate() {
        let at = format!("/webhooks/{index}");
        let wrong = webhook["clientConfig"]["caBundle"] != bundle;
        let open = validating && webhook["failurePolicy"] != "Fail";
        if wrong || open {
            // Whoever has reordered the list meanwhile must not get our values at another place.
            operations.push(json!({"op": "test", "path": format!("{at}/name"), "value": webhook["name"]}));
        }
        if wrong {
            operations.push(json!({"op": "add", "path": format!("{at}/clientConfig/caBundle"), "value": bundle}));
        }
        if open {
            operations.push(json!({"op": "replace", "path": format!("{at}/failurePolicy"), "value": "Fail"}));
        }
    }
    (!operations.is_empty()).then_some(Value::Array(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_corrected() {
        let hooks = json!({"webhooks": [
            {"name": "a", "clientConfig": {"caBundle": "good"}, "failurePolicy": "Fail"},
            {"name": "b", "clientConfig": {}, "failurePolicy": "Ignore"},
        ]});
        let found = correction(&hooks, "good", true).unwrap();
        let paths: Vec<&str> = found.as_array().unwrap().iter().map(|o| o["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/webhooks/1/name", "/webhooks/1/clientConfig/caBundle", "/webhooks/1/failurePolicy"]);
        assert_eq!(correction(&hooks, "good", false).unwrap().as_array().unwrap().len(), 2);
        let right = json!({"webhooks": [hooks["webhooks"][0].clone()]});
        assert_eq!(correction(&right, "good", true), None);
    }
}
