//! `istioctl version`.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::Session;
use crate::ask::Xds;
use crate::output::{Format, print_machine};
use crate::status;

/// Print the versions of this command, of istiod and of the proxies.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Ask the mesh too; false prints this command's own only.
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
    remote: bool,
    /// Only the number.
    #[arg(short, long)]
    short: bool,
    /// How it is printed.
    #[arg(short, long, default_value = "short")]
    output: Format,
    #[command(flatten)]
    xds: Xds,
}

impl Version {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let own = env!("CARGO_PKG_VERSION");
        let mut value = json!({"clientVersion": {"version": own}});
        let mut lines = vec![format!("client version: {own}")];
        // Without a mesh there is nobody to ask, which is no mistake.
        let asked = self.remote && (self.xds.wanted() || session.access().is_ok());
        let answer = asked.then(|| status::answer(session, &self.xds));
        if let Some(Err(reason)) = &answer {
            if self.xds.wanted() {
                return Err(reason.clone());
            }
            lines.push(format!("control plane version: unknown, {reason}"));
        }
        if let Some(Ok(answer)) = answer {
            let plane = control_plane(session, &answer);
            let versions = status::versions(&answer);
            let shown: Vec<String> = versions.iter().map(|(v, count)| format!("{v} ({count} proxies)")).collect();
            lines.push(format!("control plane version: {plane}"));
            lines.push(match shown.is_empty() {
                true => "data plane version: none".to_owned(),
                false => format!("data plane version: {}", shown.join(", ")),
            });
            value["meshVersion"] = json!([{"Component": "pilot", "Info": {"version": plane}}]);
            value["dataPlaneVersion"] =
                versions.iter().map(|(v, count)| json!({"IstioVersion": v, "proxies": count})).collect();
        }
        match self.output.machine() {
            None if self.short => println!("{own}"),
            None => println!("{}", lines.join("\n")),
            Some(format) => print_machine(format, &value)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The control plane's version: it says so in every answer over xDS, and on a page.
fn control_plane(session: &Session, answer: &Value) -> String {
    let identifier = crate::proxy_config::text(answer, "control_plane.identifier");
    let said = serde_json::from_str::<Value>(identifier).ok();
    let said = said.and_then(|v| v.pointer("/Info/version").and_then(Value::as_str).map(str::to_owned));
    let page = || session.access().ok().and_then(|m| m.istiod_page("/version").ok());
    said.or_else(|| page().map(|body| String::from_utf8_lossy(&body).trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}
