//! istioctl: the commands.
//!
//! Promise: columns, flags and exit codes are Istio's; `-o json|yaml` for machines. Commands that are not built say so.

mod access;
mod admin;
mod analyze;
mod ask;
mod bug_report;
mod cluster;
mod dashboard;
mod experimental;
mod global;
mod input;
mod kube_inject;
mod output;
mod proxy_config;
mod remote_secret;
mod session;
mod status;
mod table;
mod validate;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use access::{Access, Method, Pod};

use global::Global;
use session::Session;

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
    /// The control plane's own settings.
    #[command(aliases = ["a", "ad"])]
    Admin(admin::Admin),
    /// Find what is wrong with configuration in files and directories.
    Analyze(Box<analyze::Analyze>),
    /// Collect what helps to find a fault.
    BugReport(bug_report::BugReport),
    /// Print a script that completes this command's words in a shell.
    Completion {
        /// bash, zsh, fish, powershell or elvish.
        shell: clap_complete::Shell,
    },
    /// Print a Secret that lets an istiod in another cluster read this one.
    CreateRemoteSecret(remote_secret::CreateRemoteSecret),
    /// Show pages of the mesh in a browser.
    #[command(aliases = ["dash", "d"])]
    Dashboard(dashboard::Dashboard),
    /// Commands that may still change.
    #[command(aliases = ["x", "exp"])]
    Experimental(experimental::Experimental),
    /// Put the control plane into a cluster.
    #[command(alias = "apply")]
    Install(Box<installer::Install>),
    /// Change an installed control plane to this version.
    Upgrade(Box<installer::Upgrade>),
    /// Look whether an installation or an upgrade will go well.
    Precheck(installer::Precheck),
    /// Print what would be installed.
    Manifest(installer::Manifest),
    /// Take a control plane out of a cluster.
    Uninstall(installer::Uninstall),
    /// Look whether everything that was installed is there and runs.
    VerifyInstall(installer::VerifyInstall),
    /// Name revisions.
    Tag(installer::Tag),
    /// Print Kubernetes YAML with sidecars added.
    KubeInject(kube_inject::KubeInject),
    /// Show what a proxy has.
    #[command(alias = "pc")]
    ProxyConfig(Box<proxy_config::ProxyConfig>),
    /// Show which proxies have what istiod sent last.
    #[command(alias = "ps")]
    ProxyStatus(Box<status::ProxyStatus>),
    /// Check files of Istio configuration, object by object.
    #[command(alias = "v")]
    Validate(validate::Validate),
    /// Print the versions of this command, of istiod and of the proxies.
    Version(Box<version::Version>),
}

/// Runs the command; the first argument is the program's name. `mesh` is the way into the mesh that runs here, if one
/// does.
pub fn cli(arguments: impl IntoIterator<Item = OsString>, mesh: Option<Box<dyn Access>>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let session = Session::new(arguments.global, mesh);
    let global = &session.global;
    let result = match arguments.command {
        Command::Analyze(command) => command.run(&session),
        Command::Admin(command) => command.run(&session),
        Command::BugReport(command) => command.run(&session),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "istioctl", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::CreateRemoteSecret(command) => command.run(&session),
        Command::Dashboard(command) => command.run(&session),
        Command::Experimental(command) => command.run(&session),
        Command::KubeInject(command) => command.run(&session),
        Command::ProxyConfig(command) => command.run(&session),
        Command::ProxyStatus(command) => command.run(&session),
        Command::Validate(command) => command.run(global),
        Command::Version(command) => command.run(&session),
        Command::Install(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::Upgrade(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::Precheck(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::Manifest(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::Uninstall(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::VerifyInstall(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
        Command::Tag(command) => command.run(&global.access()).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|reason| {
        eprintln!("Error: {reason}");
        ExitCode::FAILURE
    })
}
