//! `istioctl tag`: names of revisions that users may move.

use clap::{Args, Subcommand};
use kubernetes::{Cluster, Place};
use serde_json::{Value, json};

use crate::command::{Access, run};
use crate::injection::webhooks;
use crate::manifest::MANAGER;

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
    /// List tags.
    List,
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
                TagCommand::List => show(&cluster).await,
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

async fn set(cluster: &Cluster, tag: &str, revision: &str, overwrite: bool) -> Result<(), String> {
    let service = if revision == "default" { "istiod".to_owned() } else { format!("istiod-{revision}") };
    let services = Place::list("v1", "services", Some(&cluster.namespace));
    if cluster.read(&services.object(&service)).await.map_err(|e| e.to_string())?.is_none() {
        return Err(format!("there is no revision {revision} in namespace {}", cluster.namespace));
    }
    let place = list().object(&name(tag));
    let there = cluster.read(&place).await.map_err(|e| e.to_string())?;
    if there.is_some() && !overwrite {
        return Err(format!("the tag {tag} is there already; move it with --overwrite"));
    }
    let object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name(tag), "labels": {
            "app": "sidecar-injector", LABEL: tag, "istio.io/rev": revision, MANAGER.0: MANAGER.1}},
        "webhooks": webhooks(tag, &service, &cluster.namespace),
    });
    cluster.apply(&place, &object).await.map_err(|e| e.to_string())?;
    println!("Revision tag \"{tag}\" is set to revision \"{revision}\"; label namespaces with istio.io/rev={tag}");
    Ok(())
}

async fn show(cluster: &Cluster) -> Result<(), String> {
    let tags = cluster.all(&list(), Some(LABEL)).await.map_err(|e| e.to_string())?;
    let namespaces =
        cluster.all(&Place::list("v1", "namespaces", None), Some("istio.io/rev")).await.map_err(|e| e.to_string())?;
    let label = |object: &Value, key: &str| object["metadata"]["labels"][key].as_str().unwrap_or_default().to_owned();
    println!("{:<16} {:<16} NAMESPACES", "TAG", "REVISION");
    for tag in tags {
        let own = label(&tag, LABEL);
        let named = namespaces.iter().filter(|n| label(n, "istio.io/rev") == own);
        let names: Vec<&str> = named.filter_map(|n| n["metadata"]["name"].as_str()).collect();
        println!("{own:<16} {:<16} {}", label(&tag, "istio.io/rev"), names.join(","));
    }
    Ok(())
}
