//! `check-inject`: whether pods get a sidecar, and by which label.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::Session;
use crate::output::{Format, print_machine};
use crate::table::{WIDE, columns, row};

/// Tell whether pods are injected, and why.
#[derive(Debug, Args)]
pub(crate) struct CheckInject {
    /// `[TYPE/]NAME[.NAMESPACE]` of a pod.
    target: Option<String>,
    /// A pod with these labels: KEY=VALUE with commas between them.
    #[arg(short, long)]
    labels: Option<String>,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

impl CheckInject {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let (namespace, labels) = match (&self.target, &self.labels) {
            (Some(target), None) => {
                let (_, pod) = session.pod(target)?;
                (pod.namespace, pod.labels)
            }
            (None, Some(labels)) => (session.global.namespace().to_owned(), pairs(labels)?),
            _ => return Err("name a pod, or labels with -l".to_owned()),
        };
        let page = session.access()?.istiod_page("/debug/configz?resource=Namespace")?;
        let all: Value = serde_json::from_slice(&page).map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
        let wanted = |n: &&Value| n["metadata"]["name"] == *namespace;
        let object = all.as_array().into_iter().flatten().find(wanted);
        let of_namespace = object.and_then(|n| serde_json::from_value(n["metadata"]["labels"].clone()).ok());
        let (injected, reason) = decide(&of_namespace.unwrap_or_default(), &labels);
        match self.output.machine() {
            None => {
                let mark = if injected { "\u{2714}" } else { "\u{2718}" };
                let rows = [row(["NAMESPACE", "INJECTED", "REASON"]), row([&namespace, mark, &reason])];
                print!("{}", columns(&rows, WIDE));
            }
            Some(format) => {
                let value = json!({"namespace": namespace, "injected": injected, "reason": reason});
                print_machine(format, &value)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |p: &str| {
        let (key, value) = p.split_once('=').ok_or_else(|| format!("\"{p}\" is not KEY=VALUE"))?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(pair).collect()
}

/// Istio's rule: the namespace's "disabled" and the pod's "false" win, then the pod's "true", then the namespace.
pub(super) fn decide(namespace: &BTreeMap<String, String>, pod: &BTreeMap<String, String>) -> (bool, String) {
    let of = |labels: &BTreeMap<String, String>, key: &str| labels.get(key).cloned();
    let (own, whole) = (of(pod, "sidecar.istio.io/inject"), of(namespace, "istio-injection"));
    let revision =
        of(pod, "istio.io/rev").map(|r| (r, "pod")).or(of(namespace, "istio.io/rev").map(|r| (r, "namespace")));
    match (own.as_deref(), whole.as_deref(), revision) {
        (_, Some("disabled"), _) => (false, "the namespace has the label istio-injection=disabled".to_owned()),
        (Some("false"), ..) => (false, "the pod has the label sidecar.istio.io/inject=false".to_owned()),
        (Some("true"), ..) => (true, "the pod has the label sidecar.istio.io/inject=true".to_owned()),
        (_, Some("enabled"), _) => (true, "the namespace has the label istio-injection=enabled".to_owned()),
        (_, _, Some((revision, whose))) => (true, format!("the {whose} has the label istio.io/rev={revision}")),
        _ => (false, "neither the namespace nor the pod has a label for injection".to_owned()),
    }
}
