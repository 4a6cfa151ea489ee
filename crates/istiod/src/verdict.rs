//! What the leader writes into the status of Istio's resources: whether they are in force, and what is wrong with them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use galley::{Input, Level, Message, Scope};
use istio_api::Resource;
use istio_api::yaml::Document;
use kubernetes::{CRDS, Cluster, ClusterError, Leading, Place};
use mesh::Snapshot;
use serde_json::{Map, Value, json};
use sources::Loaded;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

/// Changes of this time are judged together.
const SETTLE: Duration = Duration::from_secs(1);
/// After each look there is rest, this many times as long as the look took: statuses never need more than a twentieth
/// of a processor.
const REST: u32 = 20;
/// Looks are never further apart than this.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two writes: 20 a second.
const WRITE: Duration = Duration::from_millis(50);
/// The longest message of a condition; the API server takes 32 KiB.
const MAX_MESSAGE: usize = 2048;
/// The most findings of one resource.
const MAX_FINDINGS: usize = 32;

/// Conditions that are ours, as Istio names them.
const RECONCILED: &str = "Reconciled";
const ANALYSIS: &str = "PassedAnalysis";

/// Analyzers that ask for what istiod may not read (Secrets, Deployments, webhooks), and the one that reads conditions:
/// it would find ours.
const LEFT_OUT: [&str; 5] = [
    "gateway.SecretAnalyzer",
    "webhook.Analyzer",
    "multicluster.MeshNetworksAnalyzer",
    "externalcontrolplane.ExternalControlPlaneAnalyzer",
    "conditions.ConditionAnalyzer",
];

/// Analyzers that look at one resource alone: what they find is said to whoever applies it.
const ALONE: [&str; 6] = [
    "schema.WarningAnalyzer",
    "deprecation.FieldAnalyzer",
    "virtualservice.UnreachableRuleAnalyzer",
    "destinationrule.CaCertificateAnalyzer",
    "envoyfilter.EnvoyPatchAnalyzer",
    "annotations.K8sAnalyzer",
];

/// What can be said of a resource by itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Why it cannot be in force.
    pub(crate) refused: Vec<String>,
    /// What of it has no effect, and why.
    pub(crate) unbuilt: Vec<String>,
}

/// Judges one resource as the source reads it.
pub(crate) fn judge(object: &Value, namespace: &str) -> Judgement {
    let document = Document::bare(object.clone());
    let words = |errors: Vec<istio_api::validate::FieldError>| -> Vec<String> {
        errors.into_iter().map(|e| sentence(&e.pointer, &e.message)).collect()
    };
    match istio_api::read(&document, namespace) {
        Ok(Some(resource)) => {
            let unbuilt = pilot::unsupported(&Snapshot::build([&resource]));
            let unbuilt = unbuilt.into_iter().map(|u| sentence(&u.pointer, &u.reason)).collect();
            Judgement { unbuilt, ..Judgement::default() }
        }
        Ok(None) => Judgement::default(),
        // The kind as a whole is not built: it is stored for the day it is, and its author is told.
        Err(errors) if errors.iter().all(|e| e.pointer == "/kind") => match istio_api::check(&document) {
            Ok(()) => Judgement { unbuilt: words(errors), ..Judgement::default() },
            Err(errors) => Judgement { refused: words(errors), ..Judgement::default() },
        },
        Err(errors) => Judgement { refused: words(errors), ..Judgement::default() },
    }
}

/// What of a resource that may be in force is probably not meant so.
pub(crate) fn warnings(object: &Value, namespace: &str) -> Vec<String> {
    let mut object = object.clone();
    object["metadata"]["namespace"] = namespace.into();
    let mut input = Input::new();
    input.add_object(object);
    let analyzers = ALONE.map(str::to_owned);
    let scope = Scope { analyzers: &analyzers, ..Scope::default() };
    let found = galley::analyze_scope(&input, &scope).unwrap_or_default();
    found.into_iter().map(|m| format!("{}: {}", m.code.code, m.text)).collect()
}

fn sentence(pointer: &str, message: &str) -> String {
    let field = pointer.trim_start_matches('/').replace('/', ".");
    if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") }
}

/// Keeps the statuses right while this replica leads.
pub(crate) async fn keep(cluster: Cluster, mut loaded: watch::Receiver<Loaded>, mut leading: Leading) {
    loop {
        if leading.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut stop = leading.clone();
        tokio::select! {
            () = follow(&cluster, &mut loaded) => return,
            ended = stop.wait_for(|leads| !*leads) => if ended.is_err() { return },
        }
    }
}

/// Until the source ends.
async fn follow(cluster: &Cluster, loaded: &mut watch::Receiver<Loaded>) {
    loop {
        let begun = Instant::now();
        let now = loaded.borrow_and_update().clone();
        match look(cluster, now).await {
            Ok(0) => {}
            Ok(written) => tracing::debug!(written, "statuses are written"),
            Err(error) => tracing::debug!(%error, "statuses are not written for the moment"),
        }
        tokio::time::sleep((begun.elapsed() * REST).clamp(SETTLE, LONGEST)).await;
        if let Ok(Err(_)) = tokio::time::timeout(LONGEST, loaded.changed()).await {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// Looks at all resources once; how many statuses were written.
async fn look(cluster: &Cluster, loaded: Loaded) -> Result<usize, ClusterError> {
    let mut objects = Vec::new();
    for kind in &CRDS {
        cluster.each(kind, |object| objects.push((kind, object))).await?;
    }
    let values: Vec<Value> = objects.iter().map(|(_, object)| object.clone()).collect();
    // Nothing to be judged needs no judge.
    let findings = match values.is_empty() {
        true => HashMap::new(),
        false => tokio::task::spawn_blocking(move || findings(values, &loaded)).await.unwrap_or_default(),
    };
    let mut written = 0;
    for (kind, object) in &objects {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let about = findings.get(&format!("{} {namespace}/{name}", kind.kind)).map(Vec::as_slice).unwrap_or_default();
        let status = status(object, &judge(object, namespace), about);
        if essence(&status) == essence(&object["status"]) {
            continue;
        }
        let place = Place::list(text("/apiVersion"), kind.plural, Some(namespace)).object(name).status();
        let part = json!({"metadata": {"resourceVersion": text("/metadata/resourceVersion")}, "status": status});
        match cluster.merge(&place, &part).await {
            Ok(_) => written += 1,
            // It is another one by now, or gone: the next look sees.
            Err(error) if error.is_conflict() || error.is_absent() => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(WRITE).await;
    }
    Ok(written)
}

/// What the analyzers say about Istio's resources, by `Kind namespace/name`.
fn findings(resources: Vec<Value>, loaded: &Loaded) -> HashMap<String, Vec<Message>> {
    let mut input = Input::new();
    for object in resources {
        input.add_object(object);
    }
    // Analyzers ask whether there are such pods; a thousand replicas say no more than one.
    let mut seen = HashSet::new();
    for (resource, _) in loaded.resources.iter() {
        let new = match resource {
            Resource::Pod(o, _) => seen.insert((&o.metadata.namespace, &o.metadata.labels)),
            _ => true,
        };
        if let Some(object) = new.then(|| around(resource)).flatten() {
            input.add_object(object);
        }
    }
    if let Ok(mesh) = serde_json::to_value(loaded.snapshot.mesh_config()) {
        input.set_mesh_config(mesh);
    }
    let analyzers: Vec<String> =
        galley::analyzers().map(|(name, _)| name).filter(|name| !LEFT_OUT.contains(name)).map(str::to_owned).collect();
    let scope = Scope { analyzers: &analyzers, ..Scope::default() };
    let mut by_object: HashMap<String, Vec<Message>> = HashMap::new();
    for message in galley::analyze_scope(&input, &scope).unwrap_or_default() {
        by_object.entry(message.resource.clone()).or_default().push(message);
    }
    by_object
}

/// What stands around Istio's resources in a cluster.
fn around(resource: &Resource) -> Option<Value> {
    let mut object = match resource {
        Resource::Namespace(o) => serde_json::to_value(&**o),
        Resource::Service(o) => serde_json::to_value(&**o),
        Resource::Pod(o, _) => serde_json::to_value(&**o),
        _ => return None,
    }
    .ok()?;
    // Absent and empty are the same to users, but not to analyzers.
    prune(&mut object);
    Some(object)
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !is_empty(v));
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The status that an object should have: our conditions, and those of others as they are.
fn status(object: &Value, judged: &Judgement, findings: &[Message]) -> Value {
    let former = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = |c: &Value| c["type"] == RECONCILED || c["type"] == ANALYSIS;
    let mut conditions: Vec<Value> = former.iter().filter(|c| !ours(c)).cloned().collect();
    conditions.push(condition(former, RECONCILED, &reconciled(judged)));
    conditions.push(condition(former, ANALYSIS, &analysis(findings)));
    let messages: Vec<Value> = findings.iter().take(MAX_FINDINGS).map(validation_message).collect();
    json!({
        "observedGeneration": object["metadata"]["generation"], "conditions": conditions,
        "validationMessages": messages,
    })
}

/// Status, reason and message of a condition.
type Words = (bool, &'static str, String);

fn reconciled(judged: &Judgement) -> Words {
    if !judged.refused.is_empty() {
        let message = format!("not in force; the last good version, if any, stays: {}", judged.refused.join("; "));
        return (false, "refused", message);
    }
    if !judged.unbuilt.is_empty() {
        return (false, "notBuilt", format!("without effect: {}", judged.unbuilt.join("; ")));
    }
    (true, "inForce", "in force".to_owned())
}

fn analysis(findings: &[Message]) -> Words {
    let count = |level: Level| findings.iter().filter(|m| m.code.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    if findings.is_empty() {
        return (true, "noErrors", "nothing was found".to_owned());
    }
    let texts: Vec<String> = findings.iter().map(|m| format!("{}: {}", m.code.code, m.text)).collect();
    let plural = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
    let message = format!("{}, {}: {}", plural(errors, "error"), plural(warnings, "warning"), texts.join("; "));
    let reason = if errors > 0 { "errorsFound" } else { "warningsFound" };
    (errors == 0, reason, message)
}

fn condition(former: &[Value], kind: &str, (good, reason, message): &Words) -> Value {
    let status = if *good { "True" } else { "False" };
    let same = former.iter().find(|c| c["type"] == kind && c["status"] == status);
    let since = same.and_then(|c| c["lastTransitionTime"].as_str()).map(str::to_owned);
    let since = since.unwrap_or_else(|| OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default());
    let message: String = message.chars().take(MAX_MESSAGE).collect();
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
}

fn validation_message(message: &Message) -> Value {
    let level = match message.code.level {
        Level::Error => "ERROR",
        Level::Warning => "WARNING",
        Level::Info => "INFO",
    };
    json!({
        "type": {"code": message.code.code, "name": message.code.name}, "level": level,
        "documentationUrl": format!("https://istio.io/latest/docs/reference/config/analysis/{}/", message.code.code.to_lowercase()),
    })
}

/// What of a status is ours and matters, to see whether it is right: times of others' making are left out.
fn essence(status: &Value) -> Value {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let ours = conditions.filter(|c| c["type"] == RECONCILED || c["type"] == ANALYSIS);
    let kept = |c: &Value| {
        let fields = ["type", "status", "reason", "message"].into_iter();
        fields.map(|key| (key.to_owned(), c[key].clone())).collect::<Map<String, Value>>()
    };
    let mut ours: Vec<Value> = ours.map(|c| Value::Object(kept(c))).collect();
    ours.sort_by_key(|c| c["type"].to_string());
    let messages = status["validationMessages"].as_array().into_iter().flatten();
    let messages: Vec<&Value> = messages.map(|m| &m["type"]["code"]).collect();
    json!({"generation": status["observedGeneration"], "conditions": ours, "messages": messages})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "pay", "namespace": "prod", "generation": 3},
            "spec": {"hosts": ["pay"], "http": [{"route": [{"destination": {"host": host}}]}]},
            "status": {"conditions": [{"type": "Other", "status": "True"}]},
        })
    }

    #[test]
    fn a_status_says_what_analyzers_say_and_keeps_the_rest() {
        let object = route("nowhere");
        let all = findings(vec![object.clone()], &Loaded::default());
        let about = &all["VirtualService prod/pay"];
        let status = status(&object, &judge(&object, "prod"), about);
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(status["conditions"][0]["type"], "Other");
        assert_eq!(
            (&status["conditions"][1]["type"], &status["conditions"][1]["status"]),
            (&json!(RECONCILED), &json!("True"))
        );
        let analysis = &status["conditions"][2];
        assert_eq!((&analysis["status"], &analysis["reason"]), (&json!("False"), &json!("errorsFound")));
        assert!(analysis["message"].as_str().unwrap().contains("IST0101"), "{analysis}");
        assert_eq!(status["validationMessages"][0]["type"]["name"], "ReferencedResourceNotFound");
    }

    #[test]
    fn every_analyzer_that_is_named_exists() {
        for name in LEFT_OUT.iter().chain(&ALONE) {
            assert!(galley::analyzers().any(|(known, _)| known == *name), "{name}");
        }
    }

    #[test]
    fn nothing_new_is_nothing_to_write_and_times_stay() {
        let mut object = route("pay");
        let first = status(&object, &judge(&object, "prod"), &[]);
        object["status"] = first.clone();
        object["status"]["conditions"][1]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        let again = status(&object, &judge(&object, "prod"), &[]);
        assert_eq!(essence(&again), essence(&first));
        assert_eq!(again["conditions"][1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        object["spec"]["http"][0]["timeout"] = "soon".into();
        let refused = status(&object, &judge(&object, "prod"), &[]);
        assert_ne!(essence(&refused), essence(&first));
        assert_eq!(
            (&refused["conditions"][1]["status"], &refused["conditions"][1]["reason"]),
            (&json!("False"), &json!("refused"))
        );
        assert_ne!(refused["conditions"][1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
