//! istioctl: the commands.
//!
//! Promise: columns, flags and exit codes are Istio's; `-o json|yaml` for machines. Commands that are not built say so.

mod analyze;
mod kube_inject;
mod status;
mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// istioctl: look at a mesh and its configuration.
#[derive(Debug, Parser)]
#[command(name = "istioctl", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what is wrong with configuration in files and directories.
    Analyze(analyze::Analyze),
    /// Print Kubernetes YAML with sidecars added.
    KubeInject(kube_inject::KubeInject),
    /// Show which proxies have what istiod sent last.
    #[command(alias = "ps")]
    ProxyStatus(status::ProxyStatus),
    /// Print the version.
    Version,
}

/// Runs the command; the first argument is the program's name.
pub fn cli(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Analyze(command) => command.run(),
        Command::KubeInject(command) => command.run(),
        Command::ProxyStatus(command) => command.run(),
        Command::Version => {
            println!("client version: {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|reason| {
        eprintln!("Error: {reason}");
        ExitCode::FAILURE
    })
}
