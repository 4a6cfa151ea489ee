//! `istioctl precheck`: whether an installation or an upgrade will go well.

use clap::Args;
use kubernetes::{CRDS, Cluster, Place};
use serde_json::{Value, json};

use crate::command::{Access, Wanted, run};
use crate::manifest::{MANAGER, manifest};
use crate::objects::place;
use crate::output::Format;

/// The oldest minor version of Kubernetes 1.x: sidecars are native ones, which it starts by default since then.
const OLDEST: u32 = 29;

/// Inspect the cluster for reasons why an installation or an upgrade would fail.
#[derive(Debug, Args)]
pub struct Precheck {
    #[command(flatten)]
    wanted: Wanted,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

/// One finding.
enum Finding {
    /// It would fail.
    Error(String),
    /// It may not do what is meant.
    Warning(String),
}

impl Finding {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Error(text) => ("Error", text),
            Self::Warning(text) => ("Warning", text),
        }
    }

    fn say(&self) {
        let (level, message) = self.parts();
        println!("{level}: {message}");
    }

    fn value(&self) -> Value {
        let (level, message) = self.parts();
        json!({"level": level, "message": message})
    }
}

impl Precheck {
    /// Runs the command.
    ///
    /// # Errors
    /// What would fail, or went wrong.
    pub fn run(self, access: &Access) -> Result<(), String> {
        let objects = manifest(&self.wanted.values(&access.namespace)?).map_err(|e| e.to_string())?;
        let findings = run(async {
            let cluster = access.connect().await?;
            let mut findings = version(&cluster).await?;
            findings.extend(permissions(&cluster, &objects).await?);
            findings.extend(present(&cluster, &objects).await?);
            findings.extend(stored_versions(&cluster).await?);
            Ok(findings)
        })?;
        let errors = findings.iter().filter(|f| matches!(f, Finding::Error(_))).count();
        if !self.output.print(&findings.iter().map(Finding::value).collect())? {
            findings.iter().for_each(Finding::say);
            if findings.is_empty() {
                println!("✔ No issues found when checking the cluster. Istio is safe to install or upgrade!");
            }
        }
        if errors > 0 {
            return Err(format!("{errors} of the checks failed: the installation would not succeed"));
        }
        Ok(())
    }
}

async fn version(cluster: &Cluster) -> Result<Vec<Finding>, String> {
    let version = cluster.version().await.map_err(|e| e.to_string())?;
    let minor = version["minor"].as_str().unwrap_or_default();
    let minor: u32 = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_default();
    Ok(too_old(minor).into_iter().collect())
}

fn too_old(minor: u32) -> Option<Finding> {
    (minor < OLDEST).then(|| {
        Finding::Error(format!(
            "the cluster runs Kubernetes 1.{minor}; 1.{OLDEST} is the oldest that starts native sidecars"
        ))
    })
}

/// Whether the user may make every kind of object of the manifest.
async fn permissions(cluster: &Cluster, objects: &[Value]) -> Result<Vec<Finding>, String> {
    let list = Place::list("authorization.k8s.io/v1", "selfsubjectaccessreviews", None);
    let mut findings = Vec::new();
    for attributes in asked(objects) {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let answer = cluster.create(&list, &review).await.map_err(|e| e.to_string())?;
        if answer["status"]["allowed"] != true {
            let text = |key: &str| attributes[key].as_str().unwrap_or_default();
            let reason = answer["status"]["reason"].as_str().unwrap_or("no rule allows it");
            findings.push(Finding::Error(format!("you may not {} {}: {reason}", text("verb"), text("resource"))));
        }
    }
    Ok(findings)
}

/// What the API server is asked: each kind once.
fn asked(objects: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for object in objects {
        let group = object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map_or("", |(group, _)| group);
        let resource = format!("{}s", object["kind"].as_str().unwrap_or_default().to_lowercase());
        for verb in ["create", "patch"] {
            let mut attributes = json!({"group": group, "resource": resource, "verb": verb});
            if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                attributes["namespace"] = namespace.into();
            }
            if !all.contains(&attributes) {
                all.push(attributes);
            }
        }
    }
    all
}

/// A control plane of somebody else's making under the same names would be overwritten.
async fn present(cluster: &Cluster, objects: &[Value]) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for object in objects.iter().filter(|o| o["kind"] == "Deployment") {
        let Some(now) = cluster.read(&place(object)).await.map_err(|e| e.to_string())? else { continue };
        if now["metadata"]["labels"][MANAGER.0] != MANAGER.1 {
            let image = now.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str).unwrap_or("?");
            findings.push(Finding::Warning(format!(
                "Deployment {} of image {image} is there already and would be taken over; install beside it with --revision",
                now["metadata"]["name"].as_str().unwrap_or_default()
            )));
        }
    }
    Ok(findings)
}

/// Objects stored in a version that is not served any more could not be read after the upgrade.
async fn stored_versions(cluster: &Cluster) -> Result<Vec<Finding>, String> {
    let list = Place::list("apiextensions.k8s.io/v1", "customresourcedefinitions", None);
    let mut findings = Vec::new();
    for kind in &CRDS {
        let name = format!("{}.{}", kind.plural, kind.group);
        let Some(crd) = cluster.read(&list.object(&name)).await.map_err(|e| e.to_string())? else { continue };
        let stored = crd["status"]["storedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for version in stored.filter(|v| !kind.versions.contains(v)) {
            findings.push(Finding::Error(format!(
                "{name} may hold objects stored as {version}, which is not served any more"
            )));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Values;

    #[test]
    fn each_kind_is_asked_once_in_its_namespace() {
        let objects = manifest(&Values::default()).unwrap();
        let asked = asked(&objects);
        let of = |resource: &str| asked.iter().filter(|a| a["resource"] == resource).collect::<Vec<_>>();
        assert_eq!(of("customresourcedefinitions").len(), 2, "create and patch");
        assert_eq!(of("deployments")[0]["namespace"], "istio-system");
        assert_eq!(of("deployments")[0]["group"], "apps");
        assert!(of("clusterroles")[0]["namespace"].is_null());
        assert!(too_old(28).is_some() && too_old(29).is_none());
    }
}
