//! `istioctl admin`: settings of a control plane that runs. Levels of its log, by ControlZ's `/scopej` pages.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Session;
use crate::access::Access;
use crate::output::{Format, print_machine};
use crate::table::{columns, row};

/// Settings of the control plane.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Levels of istiod's log, to see and to set.
    #[command(alias = "l")]
    Log(Log),
}

impl Admin {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let Command::Log(log) = self.command;
        log.run(session.access()?)
    }
}

/// Levels of istiod's log, to see and to set.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// A pod of istiod's; all of them otherwise.
    pod: Option<String>,
    /// Control plane revision.
    #[arg(short, long)]
    revision: Option<String>,
    /// Labels of istiod's pods.
    #[arg(short = 'l', long, default_value = "app=istiod")]
    selector: String,
    /// Port of ControlZ.
    #[arg(long = "ctrlz_port", default_value_t = 9876)]
    port: u16,
    /// New levels: SCOPE:LEVEL with commas between them.
    #[arg(long)]
    level: Option<String>,
    /// New levels from which on stacks are logged: SCOPE:LEVEL with commas between them.
    #[arg(long)]
    stack_trace_level: Option<String>,
    /// Everything back to its default.
    #[arg(long, conflicts_with_all = ["level", "stack_trace_level", "log_reset", "stack_trace_reset"])]
    reset: bool,
    /// All levels back to info.
    #[arg(long, conflicts_with = "level")]
    log_reset: bool,
    /// No stacks of any scope.
    #[arg(long, conflicts_with = "stack_trace_level")]
    stack_trace_reset: bool,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

const LEVELS: [&str; 6] = ["none", "error", "warn", "info", "debug", "trace"];
/// What is set: a scope, a field of it, a level.
type Change = (String, &'static str, String);

impl Log {
    /// Sets what is to be set in every istiod that is meant, and shows the levels of each.
    pub(crate) fn run(&self, access: &dyn Access) -> Result<ExitCode, String> {
        let mut changes = pairs("output_level", self.level.as_deref())?;
        changes.extend(pairs("stack_trace_level", self.stack_trace_level.as_deref())?);
        let selector = match &self.revision {
            Some(revision) => format!("{},istio.io/rev={revision}", self.selector),
            None => self.selector.clone(),
        };
        let mut all = Vec::new();
        for istiod in access.istiods(self.pod.as_deref(), &selector)? {
            let ask = |path: &str, content: Option<&Value>| {
                let content = content.map(Value::to_string);
                let body = access.control(&istiod, self.port, path, content.as_deref())?;
                serde_json::from_slice::<Value>(&body).map_err(|e| format!("{istiod} answers {path} with no JSON: {e}"))
            };
            let mut scopes = ask("/scopej/", None)?;
            let wanted: Vec<Change> = self.resets(&scopes).into_iter().chain(changes.iter().cloned()).collect();
            for (name, field, level) in &wanted {
                let mut scope = find(&scopes, name)
                    .ok_or_else(|| format!("{istiod} has no scope \"{name}\"; use one of {}", names(&scopes)))?;
                scope[*field] = level.as_str().into();
                let content = scope.to_string();
                access.control(&istiod, self.port, &format!("/scopej/{name}"), Some(&content))?;
                if let Some(list) = scopes.as_array_mut() {
                    list.iter_mut().filter(|s| s["name"] == **name).for_each(|s| *s = scope.clone());
                }
            }
            if !wanted.is_empty() {
                scopes = ask("/scopej/", None)?;
            }
            all.push((istiod.clone(), scopes));
        }
        self.show(&all)?;
        Ok(ExitCode::SUCCESS)
    }

    fn resets(&self, scopes: &Value) -> Vec<Change> {
        let each = |field: &'static str, level: &str| -> Vec<Change> {
            let list = scopes.as_array().into_iter().flatten().filter_map(|s| s["name"].as_str());
            list.map(|name| (name.to_owned(), field, level.to_owned())).collect()
        };
        let mut all = Vec::new();
        if self.reset || self.log_reset {
            all.extend(each("output_level", "info"));
        }
        if self.reset || self.stack_trace_reset {
            all.extend(each("stack_trace_level", "none"));
        }
        all
    }

    /// Replicas that agree are one.
    fn show(&self, all: &[(String, Value)]) -> Result<(), String> {
        let same = all.windows(2).all(|pair| pair[0].1 == pair[1].1);
        match (self.output.machine(), all) {
            (_, []) => {}
            (None, [(_, scopes), ..]) if same => print!("{}", table(scopes)),
            (None, _) => all.iter().for_each(|(name, scopes)| print!("{name}:\n{}", table(scopes))),
            (Some(format), [(_, scopes), ..]) if same => print_machine(format, scopes)?,
            (Some(format), _) => {
                let value = all.iter().map(|(name, scopes)| (name.clone(), scopes.clone())).collect();
                print_machine(format, &Value::Object(value))?;
            }
        }
        Ok(())
    }
}

fn find(scopes: &Value, name: &str) -> Option<Value> {
    scopes.as_array().into_iter().flatten().find(|s| s["name"] == name).cloned()
}

fn names(scopes: &Value) -> String {
    let names = scopes.as_array().into_iter().flatten().filter_map(|s| s["name"].as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn pairs(field: &'static str, text: Option<&str>) -> Result<Vec<Change>, String> {
    let one = |pair: &str| {
        let (scope, level) = pair.split_once(':').ok_or_else(|| format!("\"{pair}\" is not SCOPE:LEVEL"))?;
        if !LEVELS.contains(&level) {
            return Err(format!("\"{level}\" is no level; use one of {}", LEVELS.join(", ")));
        }
        Ok((scope.to_owned(), field, level.to_owned()))
    };
    text.into_iter().flat_map(|t| t.split(',')).map(|pair| one(pair.trim())).collect()
}

/// Istio's columns.
fn table(scopes: &Value) -> String {
    let text = |scope: &Value, key: &str| scope[key].as_str().unwrap_or_default().to_owned();
    let mut rows = vec![row(["ACTIVE SCOPE", "DESCRIPTION", "LOG LEVEL"])];
    for scope in scopes.as_array().into_iter().flatten() {
        rows.push(["name", "description", "output_level"].map(|key| text(scope, key)).to_vec());
    }
    columns(&rows, 2)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::access::{Method, Pod};

    /// A stock istiod's ControlZ, in memory.
    struct Istiod(RefCell<Value>);

    impl Access for Istiod {
        fn pods(&self) -> Result<Vec<Pod>, String> {
            Ok(Vec::new())
        }

        fn pod_page(&self, _: &Pod, _: Method, _: u16, _: &str) -> Result<Vec<u8>, String> {
            Err("not asked".to_owned())
        }

        fn istiod_page(&self, _: &str) -> Result<Vec<u8>, String> {
            Err("not asked".to_owned())
        }

        fn log(&self, _: Option<&Pod>, _: &str, _: u32) -> Result<Vec<u8>, String> {
            Err("not asked".to_owned())
        }

        fn istiods(&self, _: Option<&str>, selector: &str) -> Result<Vec<String>, String> {
            assert_eq!(selector, "app=istiod,istio.io/rev=v1");
            Ok(vec!["istiod-1".to_owned()])
        }

        fn control(&self, _: &str, port: u16, path: &str, content: Option<&str>) -> Result<Vec<u8>, String> {
            assert_eq!(port, 9876);
            let mut scopes = self.0.borrow_mut();
            if let Some(content) = content {
                let scope: Value = serde_json::from_str(content).map_err(|e| e.to_string())?;
                let name = path.trim_start_matches("/scopej/");
                assert_eq!(scope["name"], name, "the whole scope is sent, as Istio's command does");
                let list = scopes.as_array_mut().into_iter().flatten();
                list.filter(|s| s["name"] == name).for_each(|s| *s = scope.clone());
                return Ok(Vec::new());
            }
            assert_eq!(path, "/scopej/");
            Ok(scopes.to_string().into_bytes())
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        log: Log,
    }

    #[test]
    fn levels_of_a_stock_istiod_are_set_and_reset() {
        let scope = |name: &str| json!({"name": name, "description": "d", "output_level": "info", "stack_trace_level": "none", "log_callers": false});
        let istiod = Istiod(RefCell::new(json!([scope("ads"), scope("ca")])));
        let run = |words: &[&str]| Line::parse_from([&["log", "-r", "v1"], words].concat()).log.run(&istiod);
        run(&["--level", "ads:debug", "--stack-trace-level", "ca:error"]).unwrap();
        let now = istiod.0.borrow().clone();
        assert_eq!((&now[0]["output_level"], &now[1]["output_level"]), (&json!("debug"), &json!("info")));
        assert_eq!(now[1]["stack_trace_level"], "error");
        assert!(table(&now).starts_with("ACTIVE SCOPE  DESCRIPTION  LOG LEVEL\nads           d            debug\n"));
        run(&["--log-reset"]).unwrap();
        assert_eq!(istiod.0.borrow()[0]["output_level"], "info");
        assert_eq!(istiod.0.borrow()[1]["stack_trace_level"], "error", "only levels were reset");
        run(&["--reset", "-o", "json"]).unwrap();
        assert_eq!(istiod.0.borrow()[1]["stack_trace_level"], "none");
        assert!(run(&["--level", "ads:loud"]).is_err_and(|e| e.contains("loud")));
        assert!(run(&["--level", "nobody:debug"]).is_err_and(|e| e.contains("nobody") && e.contains("ads, ca")));
    }
}
