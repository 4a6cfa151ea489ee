//! The laptop mesh alone, without control plane and sidecars: pods, network, DNS and services. `plain up --plain DIR`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use laptop::{Identity, LaptopCommand, NoIssuer};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: LaptopCommand,
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|a| a == "app") {
        arguments.remove(0);
        return testapp::cli(arguments);
    }
    laptop::run_command(Arguments::parse_from(arguments).command, |_| Ok(Identity::new(Arc::new(NoIssuer))))
}
