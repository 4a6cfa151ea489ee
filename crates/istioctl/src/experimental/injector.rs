//! `injector list`: namespaces with the revisions of their pods, and who injects.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::Session;
use crate::access::Pod;
use crate::output::{Format, print_machine};
use crate::table::{columns, row};

/// The injector and what it injects.
#[derive(Debug, Args)]
pub(crate) struct Injector {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List namespaces with the revisions of their pods, and the injectors.
    List {
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
}

impl Injector {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let Command::List { output } = self.command;
        let access = session.access()?;
        let page = access.istiod_page("/debug/configz?resource=Namespace")?;
        let spaces: Value = serde_json::from_slice(&page).map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
        let spaces = spaces.as_array().map(Vec::as_slice).unwrap_or_default();
        let pods = access.pods()?;
        // A laptop mesh injects without a webhook.
        let hooks =
            access.objects("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations").unwrap_or_default();
        let (namespaces, hooks) = (namespaces(spaces, &pods), injectors(&hooks, spaces));
        match output.machine() {
            None => print!("{}", tables(&namespaces, &hooks)),
            Some(format) => {
                let named = |all: &[Vec<String>], names: [&str; 3]| -> Value {
                    all.iter()
                        .map(|cells| {
                            names
                                .iter()
                                .zip(cells)
                                .map(|(n, c)| ((*n).to_owned(), Value::from(c.as_str())))
                                .collect::<Value>()
                        })
                        .collect()
                };
                let value = json!({
                    "namespaces": named(&namespaces, ["namespace", "revision", "podRevisions"]),
                    "injectors": named(&hooks, ["namespaces", "hook", "revision"]),
                });
                print_machine(format, &value)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The revision that a namespace's labels choose.
fn revision(labels: &Value) -> Option<String> {
    if labels["istio-injection"] == "disabled" {
        return None;
    }
    let named = labels["istio.io/rev"].as_str().map(str::to_owned);
    named
        .filter(|_| labels["istio-injection"].is_null())
        .or_else(|| (labels["istio-injection"] == "enabled").then(|| "default".to_owned()))
}

/// One row a namespace that is injected: its revision, and how many pods have which.
pub(super) fn namespaces(spaces: &[Value], pods: &[Pod]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for space in spaces {
        let name = space["metadata"]["name"].as_str().unwrap_or_default();
        let Some(revision) = revision(&space["metadata"]["labels"]) else { continue };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for pod in pods.iter().filter(|p| p.namespace == name) {
            let own = match pod.in_mesh() {
                true => pod.labels.get("istio.io/rev").cloned().unwrap_or_else(|| revision.clone()),
                false => "<non-Istio>".to_owned(),
            };
            *counts.entry(own).or_default() += 1;
        }
        let shown: Vec<String> = counts.into_iter().map(|(revision, count)| format!("{revision}: {count}")).collect();
        let shown = if shown.is_empty() { "<no pods>".to_owned() } else { shown.join(", ") };
        rows.push(vec![name.to_owned(), revision, shown]);
    }
    rows.sort();
    rows
}

/// One row a webhook configuration: the namespaces it injects.
pub(super) fn injectors(hooks: &[Value], spaces: &[Value]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for hook in hooks.iter().filter(|h| h["metadata"]["labels"]["app"] == "sidecar-injector") {
        let labels = &hook["metadata"]["labels"];
        let own = labels["istio.io/rev"].as_str().unwrap_or("default");
        let tag = labels["istio.io/tag"].as_str();
        let theirs = |space: &&Value| {
            let wanted = revision(&space["metadata"]["labels"]);
            wanted.is_some_and(|w| w == tag.unwrap_or(own))
        };
        let names: Vec<&str> = spaces.iter().filter(theirs).filter_map(|s| s["metadata"]["name"].as_str()).collect();
        let names = if names.is_empty() { "DOES NOT AUTOINJECT".to_owned() } else { names.join(",") };
        rows.push(vec![names, hook["metadata"]["name"].as_str().unwrap_or_default().to_owned(), own.to_owned()]);
    }
    rows
}

/// Both tables as Istio prints them.
pub(super) fn tables(namespaces: &[Vec<String>], hooks: &[Vec<String>]) -> String {
    let first = [vec![row(["NAMESPACE", "ISTIO-REVISION", "POD-REVISIONS"])], namespaces.to_vec()].concat();
    let mut out = columns(&first, 2);
    if hooks.is_empty() {
        out.push_str("\nNo injector webhook is there.\n");
    } else {
        let second = [vec![row(["NAMESPACES", "INJECTOR-HOOK", "ISTIO-REVISION"])], hooks.to_vec()].concat();
        out.push('\n');
        out.push_str(&columns(&second, 2));
    }
    out
}
