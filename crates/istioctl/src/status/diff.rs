//! What istiod sends a proxy and what the proxy has, side by side.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::Session;
use crate::ask::Xds;
use crate::input;
use crate::output::{Machine, machine};
use crate::proxy_config::{self, Resources};

/// Compares and prints.
pub(super) fn run(session: &Session, xds: &Xds, pod: Option<&str>, file: Option<&Path>) -> Result<ExitCode, String> {
    let parse = |text: &str, name: &str| serde_json::from_str(text).map_err(|e| format!("{name} is no JSON: {e}"));
    let (id, proxy): (String, Value) = match (file, pod) {
        (Some(path), Some(pod)) => (pod.to_owned(), parse(&input::read(path)?, &path.display().to_string())?),
        (Some(_), None) => return Err("name the pod whose dump the file is".to_owned()),
        (None, pod) => {
            let (_, pod) = session.pod(pod.unwrap_or_default())?;
            (pod.proxy_id(), proxy_config::of_pod(session, &pod)?)
        }
    };
    let istiod = if xds.wanted() {
        let answer = xds.ask("istio.io/debug/config_dump", &[&id], session)?;
        json!({"configs": answer.resources.iter().map(envoy_api::any_to_json).collect::<Vec<_>>()})
    } else {
        let page = session.access()?.istiod_page(&format!("/debug/config_dump?proxyID={id}"))?;
        parse(&String::from_utf8_lossy(&page), "istiod's answer")?
    };
    let (text, same) = compare(&istiod, &proxy);
    print!("{text}");
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What matches, and the lines that differ.
pub(super) fn compare(istiod: &Value, proxy: &Value) -> (String, bool) {
    let mut out = String::new();
    let mut same = true;
    for (kind, name) in
        [(Resources::Clusters, "Clusters"), (Resources::Listeners, "Listeners"), (Resources::Routes, "Routes")]
    {
        let sent: BTreeMap<String, Value> = proxy_config::resources(istiod, kind).into_iter().collect();
        let mut has: BTreeMap<String, Value> = proxy_config::resources(proxy, kind).into_iter().collect();
        // What the proxy was started with is its own.
        has.retain(|key, _| sent.contains_key(key) || !is_own(key));
        if sent == has {
            out.push_str(&format!("{name} Match\n"));
            continue;
        }
        same = false;
        out.push_str(&format!("{name} Don't Match\n--- Istiod {name}\n+++ Envoy {name}\n"));
        let keys: std::collections::BTreeSet<&String> = sent.keys().chain(has.keys()).collect();
        for key in keys {
            match (sent.get(key), has.get(key)) {
                (Some(a), Some(b)) if a == b => {}
                (a, b) => {
                    out.push_str(&format!("@@ {key} @@\n"));
                    lines(a, b, &mut out);
                }
            }
        }
    }
    (out, same)
}

/// Clusters, listeners and routes of a bootstrap.
fn is_own(name: &str) -> bool {
    ["agent", "prometheus_stats", "sds-grpc", "xds-grpc", "zipkin", ""].contains(&name)
}

/// The lines of two values, those of only one of them marked.
fn lines(old: Option<&Value>, new: Option<&Value>, out: &mut String) {
    let text = |value: Option<&Value>| value.and_then(|v| machine(Machine::Json, v).ok()).unwrap_or_default();
    let (old, new) = (text(old), text(new));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    for line in &old[..old.len() - end] {
        out.push_str(&format!("-{line}\n"));
    }
    for line in &new[..new.len() - end] {
        out.push_str(&format!("+{line}\n"));
    }
}
