//! `istioctl tag`: names of revisions that users may move.

use clap::{Args, Subcommand};
use kubernetes::{Cluster, Place};
use serde_json::{Value, json};

use crate::command::{Access, run};
use crate::injection::webhooks;
use crate::manifest::{MANAGER, to_yaml};
use crate::output::Format;

const LABEL: &str = "istio.io/tag";

/// Command group used to interact with revision tags.
#[derive(Debug, Args)]
pub struct Tag {
    #[command(subcommand)]
    command: TagCommand,
}

#[derive(Debug, Subcommand)]
enum TagCommand {
    /// Create or modify a tag: namespaces that name it are injected by the revision.
    Set {
        /// The tag.
        tag: String,
        /// The revision.
        #[arg(short, long)]
        revision: String,
        /// Move a tag that is there already.
        #[arg(long)]
        overwrite: bool,
        /// No question is asked in any case.
        #[arg(short = 'y', long)]
        skip_confirmation: bool,
    },
    /// Print what a tag would be made of, as YAML.
    Generate {
        /// The tag.
        tag: String,
        /// The revision.
        #[arg(short, long)]
        revision: String,
        /// Taken as Istio's; nothing is overwritten by printing.
        #[arg(long)]
        overwrite: bool,
    },
    /// List tags.
    List {
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Remove a tag.
    Remove {
        /// The tag.
        tag: String,
        /// No question is asked in any case.
        #[arg(short = 'y', long)]
        skip_confirmation: bool,
    },
}

fn list() -> Place {
    Place::list("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", None)
}

fn name(tag: &str) -> String {
    format!("istio-revision-tag-{tag}")
}

impl Tag {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self, access: &Access) -> Result<(), String> {
        run(async {
            let cluster = access.connect().await?;
            match self.command {
                TagCommand::Set { tag, revision, overwrite, .. } => set(&cluster, &tag, &revision, overwrite).await,
                TagCommand::Generate { tag, revision, .. } => {
                    let object = object(&cluster.namespace, &tag, &revision);
                    print!("{}", to_yaml(&[object]).map_err(|e| e.to_string())?);
                    Ok(())
                }
                TagCommand::List { output } => show(&cluster, output).await,
                TagCommand::Remove { tag, .. } => {
                    let gone = cluster.delete(&list().object(&name(&tag))).await.map_err(|e| e.to_string())?;
                    if gone {
                        println!("Revision tag {tag} removed");
                        Ok(())
                    } else {
                        Err(format!("there is no tag {tag}"))
                    }
                }
            }
        })
    }
}

fn service(revision: &str) -> String {
    if revision == "default" { "istiod".to_owned() } else { format!("istiod-{revision}") }
}

/// The webhooks by which namespaces that name the tag are injected.
fn object(namespace: &str, tag: &str, revision: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name(tag), "labels": {
            "app": "sidecar-injector", LABEL: tag, "istio.io/rev": revision, MANAGER.0: MANAGER.1}},
        "webhooks": webhooks(tag, &service(revision), namespace),
    })
}

async fn set(cluster: &Cluster, tag: &str, revision: &str, overwrite: bool) -> Result<(), String> {
    let service = service(revision);
    let services = Place::list("v1", "services", Some(&cluster.namespace));
    if cluster.read(&services.object(&service)).await.map_err(|e| e.to_string())?.is_none() {
        return Err(format!("there is no revision {revision} in namespace {}", cluster.namespace));
    }
    let place = list().object(&name(tag));
    let there = cluster.read(&place).await.map_err(|e| e.to_string())?;
    if there.is_some() && !overwrite {
        return Err(format!("the tag {tag} is there already; move it with --overwrite"));
    }
    let object = object(&cluster.namespace, tag, revision);
    cluster.apply(&place, &object).await.map_err(|e| e.to_string())?;
    println!("Revision tag \"{tag}\" is set to revision \"{revision}\"; label namespaces with istio.io/rev={tag}");
    Ok(())
}

/// Tags with their revisions and the namespaces that name them.
fn rows(tags: &[Value], namespaces: &[Value]) -> Vec<(String, String, Vec<String>)> {
    let label = |object: &Value, key: &str| object["metadata"]["labels"][key].as_str().unwrap_or_default().to_owned();
    let row = |tag: &Value| {
        let own = label(tag, LABEL);
        let named = namespaces.iter().filter(|n| label(n, "istio.io/rev") == own);
        let names = named.filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned)).collect();
        (own, label(tag, "istio.io/rev"), names)
    };
    tags.iter().map(row).collect()
}

async fn show(cluster: &Cluster, output: Format) -> Result<(), String> {
    let tags = cluster.all(&list(), Some(LABEL)).await.map_err(|e| e.to_string())?;
    let namespaces =
        cluster.all(&Place::list("v1", "namespaces", None), Some("istio.io/rev")).await.map_err(|e| e.to_string())?;
    let rows = rows(&tags, &namespaces);
    let one = |(tag, revision, names): &(String, String, Vec<String>)| json!({"tag": tag, "revision": revision, "namespaces": names});
    if output.print(&rows.iter().map(one).collect())? {
        return Ok(());
    }
    println!("{:<16} {:<16} NAMESPACES", "TAG", "REVISION");
    for (tag, revision, names) in rows {
        println!("{tag:<16} {revision:<16} {}", names.join(","));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_leads_to_its_revision_and_is_listed_with_its_namespaces() {
        let made = object("istio-system", "prod", "1-31");
        assert_eq!(made["metadata"]["name"], "istio-revision-tag-prod");
        assert_eq!(made["webhooks"][0]["clientConfig"]["service"]["name"], "istiod-1-31", "{made:#}");
        let space = |name: &str, tag: &str| json!({"metadata": {"name": name, "labels": {"istio.io/rev": tag}}});
        let rows = rows(&[made], &[space("a", "prod"), space("b", "other")]);
        assert_eq!(rows, [("prod".to_owned(), "1-31".to_owned(), vec!["a".to_owned()])]);
    }
}
