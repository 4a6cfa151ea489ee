//! Levels of a proxy's log.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use crate::Session;
use crate::access::{Access, Method, Pod};
use crate::output::{Format, print_machine};

/// Envoy's levels.
const LEVELS: [&str; 8] = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];

/// Levels of the proxy's log, to see and to set.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// `[TYPE/]NAME[.NAMESPACE]` of a pod.
    target: Option<String>,
    /// New levels: LEVEL for all, or LOGGER:LEVEL with commas between them.
    #[arg(long)]
    level: Option<String>,
    /// Back to warning.
    #[arg(short, long)]
    reset: bool,
    /// All pods with these labels: KEY=VALUE with commas between them.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

impl Log {
    pub(crate) fn run(self, session: &Session, port: u16) -> Result<ExitCode, String> {
        let changes = self.changes()?;
        let access = session.access()?;
        let mut all = Map::new();
        for pod in self.pods(session)? {
            let text = ask(access, &pod, port, &changes)?;
            match self.output.machine() {
                None => println!("{}:\n{text}", pod.proxy_id()),
                Some(_) => drop(all.insert(pod.proxy_id(), levels(&text))),
            }
        }
        if let Some(format) = self.output.machine() {
            print_machine(format, &all.into())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn pods(&self, session: &Session) -> Result<Vec<Pod>, String> {
        match (&self.target, &self.selector) {
            (Some(target), None) => Ok(vec![session.pod(target)?.1]),
            (None, Some(selector)) => {
                let wanted: Vec<(&str, &str)> = selector
                    .split(',')
                    .map(|pair| pair.split_once('=').ok_or_else(|| format!("\"{pair}\" is not KEY=VALUE")))
                    .collect::<Result<_, _>>()?;
                let mut pods = session.access()?.pods()?;
                pods.retain(|p| {
                    let space = session.global.namespace.as_deref().is_none_or(|n| n == p.namespace);
                    space && p.in_mesh() && wanted.iter().all(|(k, v)| p.labels.get(*k).is_some_and(|x| x == v))
                });
                if pods.is_empty() { Err(format!("no pod with a sidecar has the labels {selector}")) } else { Ok(pods) }
            }
            _ => Err("name a pod, or pods by --selector".to_owned()),
        }
    }

    /// Queries that make the wanted changes.
    fn changes(&self) -> Result<Vec<String>, String> {
        let text = match (&self.level, self.reset) {
            (Some(_), true) => return Err("--level and --reset exclude each other".to_owned()),
            (None, true) => "warning",
            (Some(level), false) => level,
            (None, false) => return Ok(Vec::new()),
        };
        let one = |part: &str| {
            let (logger, level) = part.split_once(':').map_or((None, part), |(logger, level)| (Some(logger), level));
            if !LEVELS.contains(&level) {
                return Err(format!("\"{level}\" is no level; use one of {}", LEVELS.join(", ")));
            }
            Ok(match logger {
                None => format!("level={level}"),
                Some(logger) => format!("{logger}={level}"),
            })
        };
        text.split(',').map(|part| one(part.trim())).collect()
    }
}

/// Makes the changes, one by one as Envoy takes them; the answer of the last is what holds now.
fn ask(access: &dyn Access, pod: &Pod, port: u16, changes: &[String]) -> Result<String, String> {
    let mut body = match changes.is_empty() {
        true => access.pod_page(pod, Method::Post, port, "/logging")?,
        false => Vec::new(),
    };
    for change in changes {
        body = access.pod_page(pod, Method::Post, port, &format!("/logging?{change}"))?;
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// `  logger: level` lines as an object.
fn levels(text: &str) -> Value {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    Value::Object(pairs.map(|(logger, level)| (logger.to_owned(), level.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(level: &str) -> Log {
        let level = Some(level.to_owned());
        Log { target: None, level, reset: false, selector: None, output: Format::Short }
    }

    #[test]
    fn levels_are_checked_before_anybody_is_asked() {
        assert_eq!(log("debug").changes().as_deref(), Ok(["level=debug".to_owned()].as_slice()));
        let two = ["http=debug".to_owned(), "rbac=trace".to_owned()];
        assert_eq!(log("http:debug,rbac:trace").changes().as_deref(), Ok(two.as_slice()));
        assert!(log("http:loud").changes().is_err_and(|e| e.contains("loud")));
        assert_eq!(levels("active loggers:\n  admin: warning\n  http: debug\n")["http"], "debug");
    }
}
