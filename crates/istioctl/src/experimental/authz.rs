//! `authz check`: the policies a proxy enforces, from its own configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Session;
use crate::input;
use crate::output::{Format, print_machine};
use crate::proxy_config::{self, at, text};
use crate::table::{WIDE, columns, row};

/// Look at AuthorizationPolicies as a proxy has them.
#[derive(Debug, Args)]
pub(crate) struct Authz {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The policies that a pod's proxy enforces.
    Check {
        /// `[TYPE/]NAME[.NAMESPACE]` of a pod.
        target: Option<String>,
        /// A file with the proxy's /config_dump.
        #[arg(short, long)]
        file: Option<PathBuf>,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
}

impl Authz {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let Command::Check { target, file, output } = self.command;
        let dump: Value = match (target, file) {
            (Some(target), None) => proxy_config::of_pod(session, &session.pod(&target)?.1)?,
            (None, Some(path)) => {
                serde_json::from_str(&input::read(&path)?).map_err(|e| format!("{}: {e}", path.display()))?
            }
            _ => return Err("name a pod, or --file FILE".to_owned()),
        };
        let policies = policies(&dump);
        match output.machine() {
            None => print!("{}", table(&policies)),
            Some(format) => {
                let one = |((action, name), rules): (&(String, String), &u64)| serde_json::json!({"action": action, "policy": name, "rules": rules});
                print_machine(format, &policies.iter().map(one).collect())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Rules by action and policy; DENY comes before ALLOW, as it decides before.
pub(super) type Policies = BTreeMap<(String, String), u64>;

/// All policies of a dump, from the filters of HTTP and of TCP. A policy is counted once, however many chains have it.
pub(super) fn policies(dump: &Value) -> Policies {
    let mut rules = BTreeMap::new();
    for (_, listener) in proxy_config::resources(dump, proxy_config::Resources::Listeners) {
        search(&listener, &mut rules);
    }
    let mut all = Policies::new();
    for ((action, policy), names) in rules {
        all.insert((action, policy), names.len() as u64);
    }
    all
}

type Rules = BTreeMap<(String, String), std::collections::BTreeSet<String>>;

fn search(value: &Value, found: &mut Rules) {
    match value {
        Value::Object(map) => {
            // An RBAC filter, of HTTP or of TCP; shadow rules decide nothing.
            if text(value, "@type").ends_with(".RBAC") {
                let action = match text(value, "rules.action") {
                    "" => "ALLOW",
                    action => action,
                };
                for name in at(value, "rules.policies").as_object().into_iter().flatten().map(|(name, _)| name) {
                    let key = (action.to_owned(), policy_of(name));
                    found.entry(key).or_default().insert(name.clone());
                }
            }
            map.values().for_each(|v| search(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| search(v, found)),
        _ => {}
    }
}

/// `name.namespace` of `ns[NAMESPACE]-policy[NAME]-rule[N]`; other names are istiod's own.
fn policy_of(rule: &str) -> String {
    let part = |start: &str| rule.split_once(start)?.1.split_once(']').map(|(inside, _)| inside);
    match (part("ns["), part("-policy[")) {
        (Some(namespace), Some(name)) => format!("{name}.{namespace}"),
        _ => match rule.strip_prefix("istio-ext-authz-") {
            Some(rest) => rest.to_owned(),
            None => "_anonymous_match_nothing_".to_owned(),
        },
    }
}

pub(super) fn table(policies: &Policies) -> String {
    let mut rows: Vec<Vec<String>> =
        policies.iter().map(|((action, name), rules)| vec![action.clone(), name.clone(), rules.to_string()]).collect();
    let order = |action: &str| ["CUSTOM", "DENY", "ALLOW", "LOG"].iter().position(|a| *a == action);
    rows.sort_by_key(|r| (order(&r[0]), r[1].clone()));
    columns(&[vec![row(["ACTION", "AuthorizationPolicy", "RULES"])], rows].concat(), WIDE)
}
