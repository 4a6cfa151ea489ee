//! `istioctl proxy-config`: what a proxy has, from the proxy itself or from a file.

mod clusters;
mod dump;
mod ecds;
mod endpoints;
mod listeners;
mod log;
mod routes;
mod secrets;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Session;
use crate::access::Method;
use crate::input;
use crate::output::{Format, print_machine};

pub(crate) use dump::{at, camel, list, text};
pub(crate) use secrets::hide_keys;

/// Show what a proxy has.
#[derive(Debug, Args)]
pub(crate) struct ProxyConfig {
    /// Port of the proxy's admin pages.
    #[arg(long, global = true, default_value_t = 15000)]
    proxy_admin_port: u16,
    #[command(subcommand)]
    part: Part,
}

/// Where the configuration comes from.
#[derive(Debug, Default, Args)]
struct Source {
    /// `[TYPE/]NAME[.NAMESPACE]` of a pod.
    target: Option<String>,
    /// A file with the proxy's /config_dump; - is standard input.
    #[arg(short, long)]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Everything.
    #[command(alias = "a")]
    All {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        clusters: ClusterFlags,
        /// Only listeners of this address.
        #[arg(long, default_value = "")]
        address: String,
        /// Only clusters and listeners of this port.
        #[arg(long, default_value_t = 0)]
        port: u64,
        /// Only routes of this name.
        #[arg(long, default_value = "")]
        name: String,
        /// Only listeners of this type.
        #[arg(long = "type", default_value = "")]
        kind: String,
        /// More than one row a listener and a route.
        #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
        verbose: bool,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// How the proxy was started.
    #[command(alias = "b")]
    Bootstrap {
        #[command(flatten)]
        source: Source,
        #[arg(short, long, default_value = "json")]
        output: Format,
    },
    /// Clusters.
    #[command(aliases = ["clusters", "c"])]
    Cluster {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        clusters: ClusterFlags,
        /// Only this port.
        #[arg(long, default_value_t = 0)]
        port: u64,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Extension configurations.
    #[command(alias = "ec")]
    Ecds {
        #[command(flatten)]
        source: Source,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Endpoints as istiod sent them.
    Eds {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        endpoints: EndpointFlags,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Endpoints the proxy balances over. A file is its /clusters?format=json.
    #[command(aliases = ["endpoints", "ep"])]
    Endpoint {
        #[command(flatten)]
        source: Source,
        #[command(flatten)]
        endpoints: EndpointFlags,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Listeners.
    #[command(aliases = ["listeners", "l"])]
    Listener {
        #[command(flatten)]
        source: Source,
        /// Only this address.
        #[arg(long, default_value = "")]
        address: String,
        /// Only this port.
        #[arg(long, default_value_t = 0)]
        port: u64,
        /// Only this type: HTTP, TCP, HTTP+TCP.
        #[arg(long = "type", default_value = "")]
        kind: String,
        /// A row for each filter chain.
        #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
        verbose: bool,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Levels of the proxy's log, to see and to set.
    #[command(alias = "o")]
    Log(log::Log),
    /// Routes.
    #[command(aliases = ["routes", "r"])]
    Route {
        #[command(flatten)]
        source: Source,
        /// Only this one.
        #[arg(long, default_value = "")]
        name: String,
        /// A row for each route.
        #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
        verbose: bool,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// Certificates and roots.
    #[command(aliases = ["secrets", "s"])]
    Secret {
        #[command(flatten)]
        source: Source,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
}

/// Which clusters.
#[derive(Debug, Args)]
struct ClusterFlags {
    /// Only of this direction: inbound or outbound.
    #[arg(long, default_value = "")]
    direction: String,
    /// Only hosts with this in their name.
    #[arg(long, default_value = "")]
    fqdn: String,
    /// Only subsets with this in their name.
    #[arg(long, default_value = "")]
    subset: String,
}

impl ClusterFlags {
    fn filter(self, port: u64) -> clusters::Filter {
        clusters::Filter { fqdn: self.fqdn, port, subset: self.subset, direction: self.direction }
    }
}

/// Which endpoints.
#[derive(Debug, Args)]
struct EndpointFlags {
    /// Only this address.
    #[arg(long, default_value = "")]
    address: String,
    /// Only this cluster, by its full name.
    #[arg(long, default_value = "")]
    cluster: String,
    /// Only this port.
    #[arg(long, default_value_t = 0)]
    port: u64,
    /// Only this status, such as healthy.
    #[arg(long, default_value = "")]
    status: String,
}

impl EndpointFlags {
    fn filter(self) -> endpoints::Filter {
        endpoints::Filter { address: self.address, port: self.port, cluster: self.cluster, status: self.status }
    }
}

impl Source {
    /// A page of the proxy, or the file instead of it.
    fn read(&self, session: &Session, port: u16, page: &str) -> Result<Value, String> {
        let (name, body) = match (&self.file, &self.target) {
            (Some(path), None) => (path.display().to_string(), input::read(path)?.into_bytes()),
            (None, Some(target)) => {
                let (access, pod) = session.pod(target)?;
                (format!("{target}{page}"), access.pod_page(&pod, Method::Get, port, page)?)
            }
            (Some(_), Some(_)) => return Err("name a pod or --file, not both".to_owned()),
            (None, None) => return Err("name a pod, [TYPE/]NAME[.NAMESPACE], or --file FILE".to_owned()),
        };
        serde_json::from_slice(&body).map_err(|e| format!("{name} is no JSON: {e}"))
    }
}

/// With endpoints, because they stand in the same page.
const DUMP: &str = "/config_dump?include_eds=true";

impl ProxyConfig {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let port = self.proxy_admin_port;
        let (format, table, value) = match self.part {
            Part::Log(log) => return log.run(session, port),
            Part::All { source, clusters, address, port: wanted, name, kind, verbose, output } => {
                let dump = source.read(session, port, DUMP)?;
                let listeners = listeners::Filter { address, port: wanted, kind };
                let table = all(&dump, &clusters.filter(wanted), &listeners, &name, verbose);
                (output, table, dump::camel(&dump))
            }
            Part::Bootstrap { source, output } => {
                let bootstrap = ecds::bootstrap(&source.read(session, port, DUMP)?);
                (output, ecds::versions(&bootstrap), bootstrap)
            }
            Part::Cluster { source, clusters, port: wanted, output } => {
                let dump = source.read(session, port, DUMP)?;
                let filter = clusters.filter(wanted);
                (output, clusters::table(&dump, &filter, false), clusters::value(&dump, &filter))
            }
            Part::Ecds { source, output } => {
                let filters = ecds::filters(&source.read(session, port, DUMP)?);
                (output, ecds::table(&filters), ecds::value(&filters))
            }
            Part::Eds { source, endpoints, output } => {
                let filter = endpoints.filter();
                let all = endpoints::assignments(&source.read(session, port, DUMP)?, &filter);
                (output, endpoints::eds_table(&all, &filter), all.iter().map(dump::camel).collect())
            }
            Part::Endpoint { source, endpoints, output } => {
                let clusters = source.read(session, port, "/clusters?format=json")?;
                let filter = endpoints.filter();
                (output, endpoints::table(&clusters, &filter), endpoints::value(&clusters, &filter))
            }
            Part::Listener { source, address, port: wanted, kind, verbose, output } => {
                let dump = source.read(session, port, DUMP)?;
                let filter = listeners::Filter { address, port: wanted, kind };
                (output, listeners::table(&dump, &filter, verbose, false), listeners::value(&dump, &filter))
            }
            Part::Route { source, name, verbose, output } => {
                let dump = source.read(session, port, DUMP)?;
                (output, routes::table(&dump, &name, verbose, false), routes::value(&dump, &name))
            }
            Part::Secret { source, output } => {
                let dump = source.read(session, port, DUMP)?;
                (output, secrets::table(&secrets::rows(&dump), false), secrets::value(&dump))
            }
        };
        match format.machine() {
            None => print!("{table}"),
            Some(format) => print_machine(format, &value)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// All tables, one below the other.
fn all(dump: &Value, clusters: &clusters::Filter, listeners: &listeners::Filter, route: &str, verbose: bool) -> String {
    let filters = ecds::filters(dump);
    let mut parts = vec![
        ecds::versions(&ecds::bootstrap(dump)),
        clusters::table(dump, clusters, true),
        listeners::table(dump, listeners, verbose, true),
        routes::table(dump, route, verbose, true),
        secrets::table(&secrets::rows(dump), true),
    ];
    if !filters.is_empty() {
        parts.push(ecds::table(&filters));
    }
    let endpoints = endpoints::Filter::default();
    let sent = endpoints::assignments(dump, &endpoints);
    if !sent.is_empty() {
        parts.push(endpoints::eds_table(&sent, &endpoints));
    }
    parts.join("\n")
}

/// The dump of a pod's proxy, with endpoints.
///
/// # Errors
/// When the pod does not answer.
pub(crate) fn of_pod(session: &Session, pod: &crate::access::Pod) -> Result<Value, String> {
    let body = session.access()?.pod_page(pod, Method::Get, 15000, DUMP)?;
    serde_json::from_slice(&body).map_err(|e| format!("{} answers no JSON: {e}", pod.proxy_id()))
}

/// The names and contents of the resources of a section, without what only says when they came.
pub(crate) fn resources(dump: &Value, kind: Resources) -> Vec<(String, Value)> {
    let all = match kind {
        Resources::Clusters => clusters::wanted(dump, &clusters::Filter::default()),
        Resources::Listeners => listeners::wanted(dump, &listeners::Filter::default()),
        Resources::Routes => routes::wanted(dump, ""),
    };
    all.iter().map(|r| (text(r, "name").to_owned(), dump::camel(r))).collect()
}

/// Resources that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resources {
    Clusters,
    Listeners,
    Routes,
}

#[cfg(test)]
mod tests;
