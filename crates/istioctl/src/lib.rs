//! istioctl: the commands.
//!
//! Promise: columns, flags and exit codes are Istio's; `-o json|yaml` for machines. Commands that are not built say so.

mod analyze;
mod global;
mod input;
mod kube_inject;
mod output;
mod status;
mod table;
mod validate;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use global::Global;

/// istioctl: look at a mesh and its configuration.
#[derive(Debug, Parser)]
#[command(name = "istioctl", version)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find what is wrong with configuration in files and directories.
    Analyze(Box<analyze::Analyze>),
    /// Print Kubernetes YAML with sidecars added.
    KubeInject(kube_inject::KubeInject),
    /// Show which proxies have what istiod sent last.
    #[command(alias = "ps")]
    ProxyStatus(status::ProxyStatus),
    /// Check files of Istio configuration, object by object.
    #[command(alias = "v")]
    Validate(validate::Validate),
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
    let global = arguments.global;
    let result = match arguments.command {
        Command::Analyze(command) => command.run(&global),
        Command::KubeInject(command) => command.run(&global),
        Command::ProxyStatus(command) => command.run(),
        Command::Validate(command) => command.run(&global),
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
