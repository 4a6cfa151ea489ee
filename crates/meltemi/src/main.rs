//! One binary that is the whole mesh: istiod, pilot-agent, istioctl and the laptop mesh, by sub-command or by the name
//! it is called by.

mod access;
mod identity;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use laptop::LaptopCommand;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Parts with a command line of their own.
const PARTS: [&str; 4] = ["istiod", "pilot-agent", "istioctl", "app"];

/// Meltemi: a service mesh that takes Istio's API. Also: `meltemi istiod|pilot-agent|istioctl|app ...`.
#[derive(Debug, Parser)]
#[command(name = "meltemi", version)]
struct Arguments {
    #[command(subcommand)]
    command: LaptopCommand,
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = |a: &OsString| Path::new(a).file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let mut part = arguments.first().map(name).unwrap_or_default();
    if !PARTS.contains(&part.as_str()) {
        part = arguments.get(1).and_then(|a| a.to_str()).unwrap_or_default().to_owned();
        if PARTS.contains(&part.as_str()) {
            arguments.remove(0);
        }
    }
    match part.as_str() {
        "istiod" => {
            let filter = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| "info".to_owned());
            let set = log(&filter);
            give_pages_back();
            istiod::cli(arguments, &filter, set)
        }
        "pilot-agent" => {
            let filter = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_else(|_| agent::log_filter(&arguments));
            let set = log(&filter);
            give_pages_back();
            agent::cli(arguments, &filter, set)
        }
        "istioctl" => {
            log("warn");
            istioctl::cli(arguments, access::laptop())
        }
        "app" => testapp::cli(arguments),
        _ => {
            log("warn");
            match Arguments::try_parse_from(arguments) {
                Ok(arguments) => laptop::run_command(arguments.command, identity::of),
                Err(error) => {
                    // Without a terminal nobody reads it.
                    let _ = error.print();
                    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
                }
            }
        }
    }
}

/// Lets the allocator return freed pages while nothing is allocated. It does so by a thread, which only those parts may
/// have that make no namespaces: the kernel moves no process with two threads into a new user namespace.
fn give_pages_back() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "freed memory goes back to the system only when more is allocated");
    }
}

/// Logs go to standard error; `RUST_LOG` chooses. What comes back puts another filter in force.
fn log(default: &str) -> agent::SetFilter {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let log = log.with_filter_reloading();
    let handle = log.reload_handle();
    log.init();
    std::sync::Arc::new(move |text: &str| {
        let filter = EnvFilter::try_new(text).map_err(|e| e.to_string())?;
        handle.reload(filter).map_err(|e| e.to_string())
    })
}
