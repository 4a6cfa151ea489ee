//! `istioctl proxy-status`.

mod diff;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use envoy_api::envoy::service::discovery::v3::DiscoveryResponse;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Session;
use crate::ask::Xds;
use crate::output::{Format, print_machine};
use crate::proxy_config::{at, list, text};
use crate::table::{WIDE, columns, row};

/// Show which proxies have what istiod sent last; with a pod, what the two have differently.
#[derive(Debug, Args)]
pub(crate) struct ProxyStatus {
    /// `[TYPE/]NAME[.NAMESPACE]` of a pod to compare.
    pod: Option<String>,
    /// A file with the proxy's /config_dump, to compare istiod with.
    #[arg(long)]
    file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(short, long, default_value = "table")]
    output: Format,
    /// 1 shows each type.
    #[arg(short, long, default_value_t = 0)]
    verbosity: u8,
    #[command(flatten)]
    xds: Xds,
}

/// Types by their short names, in the order of the short table.
const TYPES: [(&str, &str); 5] = [
    ("CDS", "envoy.config.cluster.v3.Cluster"),
    ("LDS", "envoy.config.listener.v3.Listener"),
    ("EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("RDS", "envoy.config.route.v3.RouteConfiguration"),
    ("ECDS", "envoy.config.core.v3.TypedExtensionConfig"),
];
/// The question: what every proxy has.
const SYNCZ: &str = "istio.io/debug/syncz";

/// One istiod's answer, as proto-JSON of a DiscoveryResponse of ClientConfigs.
pub(crate) type Answer = Value;

impl ProxyStatus {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        if self.pod.is_some() || self.file.is_some() {
            return diff::run(session, &self.xds, self.pod.as_deref(), self.file.as_deref());
        }
        let mut answers = answers(session, &self.xds)?;
        if let Some(namespace) = &session.global.namespace {
            answers.iter_mut().for_each(|a| only(a, namespace));
        }
        match self.output.machine() {
            None if self.verbosity > 0 => print!("{}", verbose(&answers, OffsetDateTime::now_utc())),
            None => print!("{}", table(&answers)),
            Some(format) => {
                for answer in &answers {
                    print_machine(format, answer)?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What each istiod says of its proxies.
fn answers(session: &Session, xds: &Xds) -> Result<Vec<Answer>, String> {
    if xds.wanted() {
        return Ok(vec![answer(session, xds)?]);
    }
    let page = session.access()?.istiod_page("/debug/syncz")?;
    let rows: Vec<Value> = serde_json::from_slice(&page).map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
    let mut by_istiod = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for row in rows {
        by_istiod.entry(text(&row, "istiod").to_owned()).or_default().push(row);
    }
    if by_istiod.is_empty() {
        by_istiod.insert(String::new(), Vec::new());
    }
    Ok(by_istiod.into_values().map(|rows| of_rows(&Value::Array(rows))).collect())
}

/// What istiod says of every proxy, asked directly or through the mesh.
///
/// # Errors
/// When it cannot be asked.
pub(crate) fn answer(session: &Session, xds: &Xds) -> Result<Answer, String> {
    if xds.wanted() {
        return Ok(of_response(&xds.ask(SYNCZ, &[], session)?));
    }
    let page = session.access()?.istiod_page("/debug/syncz")?;
    let rows: Value = serde_json::from_slice(&page).map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
    Ok(of_rows(&rows))
}

/// Versions of all proxies, by how many have them.
pub(crate) fn versions(answer: &Answer) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for client in list(answer, "resources") {
        *counts.entry(text(&client["node"]["metadata"], "ISTIO_VERSION").to_owned()).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// An answer over xDS.
fn of_response(response: &DiscoveryResponse) -> Answer {
    let camel = crate::proxy_config::camel;
    let resources: Vec<Value> = response.resources.iter().map(|any| camel(&envoy_api::any_to_json(any))).collect();
    let identifier = response.control_plane.as_ref().map(|c| c.identifier.as_str()).unwrap_or_default();
    json!({
        "versionInfo": response.version_info, "resources": resources, "typeUrl": response.type_url,
        "nonce": response.nonce, "controlPlane": {"identifier": identifier},
    })
}

/// The rows of `/debug/syncz` in the form of an answer over xDS.
pub(crate) fn of_rows(rows: &Value) -> Answer {
    let istiod = rows[0]["istiod"].as_str().unwrap_or("istiod");
    let clients = rows.as_array().into_iter().flatten().map(|r| {
        let id = text(r, "proxy");
        let config = |(_, kind): &(&str, &str)| {
            let url = format!("type.googleapis.com/{kind}");
            let of = &r["resources"][&url];
            let status = match of["status"].as_str() {
                None => "UNKNOWN".to_owned(),
                Some(word) => word.replace(' ', "_"),
            };
            let mut config = json!({"typeUrl": url, "configStatus": status});
            if of["sentTime"].is_string() {
                config["lastUpdated"] = of["sentTime"].clone();
            }
            config
        };
        json!({
            "@type": "type.googleapis.com/envoy.service.status.v3.ClientConfig",
            "node": {"id": id, "metadata": {
                "CLUSTER_ID": r["cluster_id"], "ISTIO_VERSION": r["istio_version"],
                "NAMESPACE": id.rsplit_once('.').map(|(_, n)| n),
            }},
            "genericXdsConfigs": TYPES.iter().map(config).collect::<Vec<_>>(),
        })
    });
    let identifier = json!({"Component": "istiod", "ID": istiod}).to_string();
    json!({
        "resources": clients.collect::<Vec<_>>(), "typeUrl": SYNCZ, "controlPlane": {"identifier": identifier},
    })
}

/// Keeps the proxies of one namespace.
fn only(answer: &mut Answer, namespace: &str) {
    if let Some(all) = answer["resources"].as_array_mut() {
        all.retain(|c| text(&c["node"]["metadata"], "NAMESPACE") == namespace);
    }
}

fn istiod(answer: &Answer) -> String {
    let identifier: Value = serde_json::from_str(text(answer, "control_plane.identifier")).unwrap_or_default();
    text(&identifier, "ID").to_owned()
}

/// A type's status; what the proxy never asked for is ignored.
fn status<'c>(client: &'c Value, kind: &str) -> &'c str {
    let config =
        list(client, "generic_xds_configs").iter().find(|c| text(c, "type_url").rsplit('/').next() == Some(kind));
    match config.map(|c| text(c, "config_status")) {
        None | Some("UNKNOWN" | "") => "IGNORED",
        Some(word) => word,
    }
}

/// All proxies with their istiods, by name.
fn proxies(answers: &[Answer]) -> Vec<(&Value, String)> {
    let mut all: Vec<(&Value, String)> =
        answers.iter().flat_map(|a| list(a, "resources").iter().map(move |c| (c, istiod(a)))).collect();
    all.sort_by(|a, b| text(a.0, "node.id").cmp(text(b.0, "node.id")));
    all
}

/// One row a proxy: what it subscribed to.
pub(crate) fn table(answers: &[Answer]) -> String {
    let mut rows = vec![row(["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"])];
    for (client, istiod) in proxies(answers) {
        let metadata = &client["node"]["metadata"];
        let types: Vec<&str> =
            TYPES.iter().filter(|(_, kind)| status(client, kind) != "IGNORED").map(|(short, _)| *short).collect();
        let types = if types.is_empty() { "0".to_owned() } else { format!("{} ({})", types.len(), types.join(",")) };
        let (cluster, version) = (text(metadata, "CLUSTER_ID"), text(metadata, "ISTIO_VERSION"));
        rows.push(vec![text(client, "node.id").to_owned(), cluster.to_owned(), istiod, version.to_owned(), types]);
    }
    columns(&rows, WIDE)
}

/// One row a proxy: how each type stands, and for how long.
pub(crate) fn verbose(answers: &[Answer], now: OffsetDateTime) -> String {
    let mut types = TYPES;
    types.sort_unstable();
    let shorts = types.iter().map(|(short, _)| (*short).to_owned());
    let head = row(["NAME", "CLUSTER"]).into_iter().chain(shorts).chain(row(["ISTIOD", "VERSION"])).collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    for (client, istiod) in proxies(answers) {
        let metadata = &client["node"]["metadata"];
        let cell = |kind: &str| {
            let word = status(client, kind).replace('_', " ");
            match age(client, kind, now).filter(|_| word != "IGNORED" && word != "NOT SENT") {
                Some(age) => format!("{word} ({age})"),
                None => word,
            }
        };
        let mut cells = vec![text(client, "node.id").to_owned(), text(metadata, "CLUSTER_ID").to_owned()];
        cells.extend(types.iter().map(|(_, kind)| cell(kind)));
        cells.extend([istiod, text(metadata, "ISTIO_VERSION").to_owned()]);
        rows.push(cells);
    }
    columns(&rows, WIDE)
}

/// How long ago a type was sent, in Go's words.
fn age(client: &Value, kind: &str, now: OffsetDateTime) -> Option<String> {
    let config = list(client, "generic_xds_configs").iter().find(|c| text(c, "type_url").ends_with(kind))?;
    let sent = OffsetDateTime::parse(at(config, "last_updated").as_str()?, &Rfc3339).ok()?;
    let seconds = (now - sent).whole_seconds().max(0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    })
}

#[cfg(test)]
mod tests;
