//! The command `pilot-agent`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::log_levels::{self, Levels, SetFilter};
use crate::options::AgentOptions;
use crate::redirect::{Capture, Rules};
use crate::{envoy, request, sidecar};

/// pilot-agent: a sidecar and its tools.
#[derive(Debug, Parser)]
#[command(name = "pilot-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a proxy; `proxy sidecar`, as an injected container does.
    Proxy {
        /// `sidecar`; other kinds are not built.
        #[arg(default_value = "sidecar")]
        kind: String,
        /// Threads that serve connections.
        #[arg(long)]
        concurrency: Option<usize>,
        /// DNS domain of the pod, such as `production.svc.cluster.local`; taken from POD_NAMESPACE otherwise.
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        log: LogFlags,
        /// Level of the proxy's log.
        #[arg(long = "proxyLogLevel", value_parser = log_levels::level)]
        level: Option<&'static str>,
        /// Levels of its components: COMPONENT:LEVEL with commas between them.
        #[arg(long = "proxyComponentLogLevel", value_parser = log_levels::components)]
        component_levels: Option<String>,
        /// Run this stock Envoy as the proxy instead of the one built in.
        #[arg(long, value_name = "PATH")]
        envoy: Option<PathBuf>,
    },
    /// Ask the sidecar's admin pages: `request GET /clusters`.
    Request {
        /// Method.
        method: String,
        /// Path.
        path: String,
        /// Port of the pages.
        #[arg(long, default_value_t = 15000)]
        debug_port: u16,
    },
    /// Wait until the sidecar is ready.
    Wait {
        /// Seconds.
        #[arg(long = "timeoutSeconds", default_value_t = 60)]
        timeout: u64,
        /// Milliseconds between two looks.
        #[arg(long = "periodMillis", default_value_t = 500)]
        period: u64,
    },
    /// Set the interception rules of this network namespace.
    IstioIptables(Box<Iptables>),
    /// Take the interception rules away.
    IstioCleanIptables {
        /// Only print.
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Print the version.
    Version,
}

/// The agent's own log. The levels are in force before the command is read.
#[derive(Debug, clap::Args)]
struct LogFlags {
    /// Levels of the agent's log: SCOPE:LEVEL with commas between them.
    #[arg(long = "log_output_level", value_parser = log_levels::scopes)]
    levels: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Iptables {
    #[command(flatten)]
    log: LogFlags,
    /// Port of outbound connections.
    #[arg(short = 'p', long = "envoy-port", default_value_t = 15001)]
    outbound: u16,
    /// Port of inbound connections.
    #[arg(short = 'z', long = "inbound-capture-port", default_value_t = 15006)]
    inbound: u16,
    /// User ids of the sidecar.
    #[arg(short = 'u', long = "proxy-uid", default_value = "1337")]
    uid: String,
    /// Group ids of the sidecar.
    #[arg(short = 'g', long = "proxy-gid", default_value = "1337")]
    gid: String,
    /// REDIRECT; TPROXY is not built.
    #[arg(short = 'm', long = "istio-inbound-interception-mode", default_value = "REDIRECT")]
    mode: String,
    /// Inbound ports.
    #[arg(short = 'b', long = "istio-inbound-ports", default_value = "*")]
    inbound_ports: String,
    /// Inbound ports left alone.
    #[arg(short = 'd', long = "istio-local-exclude-ports", default_value = "15090,15021,15020")]
    inbound_except: String,
    /// Outbound networks.
    #[arg(short = 'i', long = "istio-service-cidr", default_value = "*")]
    networks: String,
    /// Outbound networks left alone.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", default_value = "")]
    except: String,
    /// Outbound ports captured beside the networks.
    #[arg(short = 'q', long = "istio-outbound-ports", default_value = "")]
    ports: String,
    /// Outbound ports left alone.
    #[arg(short = 'o', long = "istio-local-outbound-ports-exclude", default_value = "")]
    ports_except: String,
    /// DNS goes to the sidecar.
    #[arg(long = "redirect-dns")]
    dns: bool,
    /// Only print.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Runs the command; the first argument is the program's name. `filter` is in force for the log, `set` puts another one
/// into its place.
pub fn cli(arguments: impl IntoIterator<Item = OsString>, filter: &str, set: SetFilter) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments.command, Levels::new(filter, set)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("pilot-agent: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, levels: Levels) -> Result<(), String> {
    match command {
        Command::Proxy { kind, .. } if kind != "sidecar" => {
            Err(format!("a proxy of kind {kind} is not built; only sidecar is"))
        }
        Command::Proxy { concurrency, domain, log, level, component_levels, envoy, .. } => {
            tracing::debug!(agent = ?log.levels, proxy = ?level, components = ?component_levels, "log levels");
            let mut options = AgentOptions::from_env().map_err(|e| e.to_string())?;
            let own = format!("{}.svc.cluster.local", options.namespace);
            if let Some(other) = domain.filter(|d| *d != own) {
                return Err(format!(
                    "--domain {other} is not the pod's own domain {own}; other cluster domains are not built"
                ));
            }
            if let Some(workers) = concurrency.filter(|n| *n > 0) {
                options.workers = workers;
            }
            // Control traffic has one thread of its own; the workers have theirs.
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
            let run = async {
                match envoy {
                    Some(binary) => envoy::run(options, &binary).await,
                    None => sidecar::run(options, levels).await,
                }
            };
            runtime.block_on(run).map_err(|e| e.to_string())
        }
        Command::Request { method, path, debug_port } => {
            let (status, body) = request::ask(debug_port, &method.to_uppercase(), &path)
                .map_err(|e| format!("the sidecar does not answer on port {debug_port}: {e}"))?;
            std::io::stdout().write_all(&body).map_err(|e| e.to_string())?;
            if status.as_u16() < 400 { Ok(()) } else { Err(format!("status {status}")) }
        }
        Command::Wait { timeout, period } => request::wait(Duration::from_secs(timeout), Duration::from_millis(period)),
        Command::IstioIptables(flags) => iptables(*flags),
        Command::IstioCleanIptables { dry_run } => set(&Rules::undo(), dry_run),
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

fn iptables(flags: Iptables) -> Result<(), String> {
    tracing::debug!(agent = ?flags.log.levels, "log levels");
    if flags.mode != "REDIRECT" {
        return Err(format!("interception mode {} is not built; use REDIRECT", flags.mode));
    }
    let capture = Capture {
        outbound: flags.outbound,
        inbound: flags.inbound,
        uid: flags.uid,
        gid: flags.gid,
        inbound_ports: flags.inbound_ports,
        inbound_except: flags.inbound_except,
        outbound_networks: flags.networks,
        outbound_except: flags.except,
        outbound_ports: flags.ports,
        outbound_ports_except: flags.ports_except,
        // Where the sidecar's own settings reach the init container, they say it too.
        dns: flags.dns || std::env::var("ISTIO_META_DNS_CAPTURE").is_ok_and(|v| v == "true"),
    };
    set(&Rules::new(&capture), flags.dry_run)
}

fn set(rules: &Rules, dry_run: bool) -> Result<(), String> {
    if dry_run {
        print!("{}", rules.text());
        return Ok(());
    }
    rules.apply()
}
