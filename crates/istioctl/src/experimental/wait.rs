//! `wait`: until every proxy has what istiod sent last.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::Session;

/// How often istiod is asked.
const PAUSE: Duration = Duration::from_millis(250);

/// Wait until every proxy has what istiod sent last.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// What to wait for; only distribution.
    #[arg(long = "for", default_value = "distribution")]
    wanted: String,
    /// An object that must be known to istiod: KIND NAME[.NAMESPACE].
    object: Vec<String>,
    /// How long, such as 30s.
    #[arg(long, default_value = "30s")]
    timeout: String,
}

impl Wait {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        if self.wanted != "distribution" {
            return Err(format!("--for {}: only distribution can be waited for", self.wanted));
        }
        let limit = istio_api::duration::parse(&self.timeout)
            .ok_or_else(|| format!("\"{}\" is no duration; write it like 30s", self.timeout))?;
        let access = session.access()?;
        let started = Instant::now();
        loop {
            let page = |path: &str| -> Result<Value, String> {
                serde_json::from_slice(&access.istiod_page(path)?).map_err(|e| format!("{path} is no JSON: {e}"))
            };
            let missing = match self.object.as_slice() {
                [kind, name] => unknown(&page("/debug/configz")?, kind, name, session.global.namespace()),
                [] => None,
                _ => return Err("name an object as KIND NAME[.NAMESPACE]".to_owned()),
            };
            let behind = missing.or_else(|| behind(&page("/debug/syncz").ok()?));
            match behind {
                None => return Ok(ExitCode::SUCCESS),
                Some(reason) if started.elapsed() >= limit => {
                    return Err(format!("after {}: {reason}", self.timeout));
                }
                Some(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// The reason why an object is not in force, when istiod does not know it.
fn unknown(objects: &Value, kind: &str, name: &str, namespace: &str) -> Option<String> {
    let (name, namespace) = name.rsplit_once('.').unwrap_or((name, namespace));
    let fits = |o: &Value| {
        let of_kind = o["kind"].as_str().is_some_and(|k| k.eq_ignore_ascii_case(kind));
        of_kind && o["metadata"]["name"] == name && o["metadata"]["namespace"] == namespace
    };
    let known = objects.as_array().into_iter().flatten().any(fits);
    (!known).then(|| format!("istiod knows no {kind} {name} in {namespace}"))
}

/// The first proxy that does not have what was sent to it.
pub(super) fn behind(rows: &Value) -> Option<String> {
    for row in rows.as_array().into_iter().flatten() {
        for (kind, status) in row["resources"].as_object().into_iter().flatten() {
            let word = status["status"].as_str().unwrap_or_default();
            if ["STALE", "ERROR"].contains(&word) {
                let kind = kind.rsplit('.').next().unwrap_or_default();
                return Some(format!("{} is {word} ({kind})", row["proxy"].as_str().unwrap_or_default()));
            }
        }
    }
    None
}
