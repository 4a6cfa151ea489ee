//! The control plane as a server: source, model, translation, xDS, certificates, debug pages.
//!
//! Promise: all sockets are bound before anything is served, and a failure says what to do; what the source refuses is
//! reported and the last good configuration is served on. This crate wires; it decides nothing.

mod debug;
mod generator;
mod jwks;
mod server;
mod tls;

pub use server::{Istiod, IstiodError, IstiodOptions};

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// istiod: the control plane over directories of Kubernetes and Istio YAML.
#[derive(Debug, Parser)]
#[command(name = "istiod", version)]
struct Arguments {
    /// Directory (or file) of YAML; may be given several times.
    #[arg(long = "source", required = true)]
    sources: Vec<PathBuf>,
    /// Directory whose objects replace those of the sources.
    #[arg(long)]
    overlay: Option<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Folder of the certificate authority (ca-cert.pem, ca-key.pem, ...); made when missing.
    #[arg(long)]
    ca: PathBuf,
    /// Address to listen on; the ports are Istio's.
    #[arg(long, default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    /// Trust domain of identities.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// Life of a workload certificate, in seconds, when nothing else is asked for.
    #[arg(long, default_value_t = 24 * 3600)]
    cert_seconds: u64,
}

/// The command `istiod`.
pub fn cli(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let at = |port| SocketAddr::new(arguments.address, port);
    let options = IstiodOptions {
        sources: arguments.sources,
        overlay: arguments.overlay,
        namespace: arguments.namespace,
        ca: arguments.ca,
        trust_domain: arguments.trust_domain,
        certificate_life: Duration::from_secs(arguments.cert_seconds),
        plain: at(15010),
        secure: at(15012),
        monitoring: at(15014),
        ready: at(8080),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("istiod: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async { Istiod::bind(options).await?.run().await });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("istiod: {error}");
            ExitCode::FAILURE
        }
    }
}
