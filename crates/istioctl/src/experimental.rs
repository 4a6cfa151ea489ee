//! `istioctl experimental`: questions about pods, services, policies and istiod itself.

mod authz;
mod check_inject;
mod debug;
mod describe;
mod injector;
mod metrics;
mod wait;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::Session;
use crate::{status, version};

/// Commands that may still change.
#[derive(Debug, Args)]
pub(crate) struct Experimental {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at AuthorizationPolicies as a proxy has them.
    Authz(authz::Authz),
    /// Tell whether pods are injected, and why.
    CheckInject(check_inject::CheckInject),
    /// Describe a pod or a service and what is configured for it.
    #[command(alias = "des")]
    Describe(describe::Describe),
    /// The injector and what it injects.
    Injector(injector::Injector),
    /// Debug pages of istiod.
    InternalDebug(Box<debug::InternalDebug>),
    /// Print rates and latencies of workloads.
    #[command(alias = "m")]
    Metrics(metrics::Metrics),
    /// Look whether an installation or an upgrade will go well.
    Precheck(::installer::Precheck),
    /// Show which proxies have what istiod sent last.
    #[command(alias = "ps")]
    ProxyStatus(Box<status::ProxyStatus>),
    /// Print versions.
    Version(Box<version::Version>),
    /// Wait until every proxy has what istiod sent last.
    Wait(wait::Wait),
}

impl Experimental {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        match self.command {
            Command::Authz(command) => command.run(session),
            Command::CheckInject(command) => command.run(session),
            Command::Describe(command) => command.run(session),
            Command::Injector(command) => command.run(session),
            Command::Metrics(command) => command.run(session),
            Command::Precheck(command) => command.run(&session.global.access()).map(|()| ExitCode::SUCCESS),
            Command::InternalDebug(command) => command.run(session),
            Command::ProxyStatus(command) => command.run(session),
            Command::Version(command) => command.run(session),
            Command::Wait(command) => command.run(session),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tests_of_access;
