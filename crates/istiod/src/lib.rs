//! The control plane as a server: source, model, translation, xDS, certificates, debug pages.
//!
//! Promise: all sockets are bound before anything is served, and a failure says what to do; what the source refuses is
//! reported and the last good configuration is served on. The same server stands over directories of YAML and over a
//! cluster's API server. This crate wires; it decides nothing.

mod admission;
mod authenticate;
mod cluster;
mod debug;
mod entitled;
mod folder;
mod generator;
mod jwks;
mod rotation;
mod scopes;
mod server;
mod tls;
mod translated;
mod verdict;

pub use cluster::ClusterOptions;
pub use scopes::SetFilter;
pub use server::{Istiod, IstiodError, IstiodOptions, SourceOptions};

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use citadel::Renewal;
use clap::Parser;

use scopes::Scopes;

/// istiod: the control plane over a Kubernetes cluster, or over directories of Kubernetes and Istio YAML.
#[derive(Debug, Parser)]
#[command(name = "istiod", version)]
struct Arguments {
    /// `discovery`, as Istio's images start it; the same without it.
    #[arg(hide = true, value_parser = ["discovery"])]
    command: Option<String>,
    /// Directory (or file) of YAML; may be given several times. Without one the source is a cluster.
    #[arg(long = "source", requires = "ca")]
    sources: Vec<PathBuf>,
    /// Directory whose objects replace those of the sources.
    #[arg(long, requires = "sources")]
    overlay: Option<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Folder of the certificate authority (ca-cert.pem, ca-key.pem, ...); made when missing. A cluster keeps it in the
    /// Secret cacerts or istio-ca-secret.
    #[arg(long, requires = "sources")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Address to listen on; the ports are Istio's.
    #[arg(long, default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    /// Address of ControlZ, whose `/scopej` pages show and set the levels of the log.
    #[arg(long = "ctrlz_address", default_value = "127.0.0.1")]
    ctrlz_address: std::net::IpAddr,
    /// Port of ControlZ; 0 serves none.
    #[arg(long = "ctrlz_port", default_value_t = 9876)]
    ctrlz_port: u16,
    /// Trust domain of identities.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// Life of a workload certificate, in seconds, when nothing else is asked for.
    #[arg(long, default_value_t = 24 * 3600)]
    cert_seconds: u64,
    #[command(flatten)]
    root: RootArguments,
}

/// The mesh's own root, where nobody has plugged in another.
#[derive(Debug, clap::Args)]
struct RootArguments {
    /// How long new roots of the mesh are spread, in seconds, before anything is signed below them: the kubelet needs a
    /// minute or two to bring them into pods.
    #[arg(long, env = "ROOT_SPREAD_SECONDS", default_value_t = 300)]
    root_spread_seconds: u64,
    /// How often is looked whether the self-signed root must be renewed; 0s never.
    #[arg(long, env = "CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL", default_value = "1h", value_parser = duration)]
    root_check_interval: Duration,
    /// The last part of the self-signed root's life, in per cent, in which it is renewed.
    #[arg(long, env = "CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE", default_value_t = 20,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    root_grace_percent: u8,
    /// Life of a self-signed root.
    #[arg(long, env = "CITADEL_SELF_SIGNED_CA_CERT_TTL", default_value = "87600h", value_parser = duration)]
    root_life: Duration,
}

impl RootArguments {
    fn spread(&self) -> Duration {
        Duration::from_secs(self.root_spread_seconds)
    }

    fn renewal(&self) -> Renewal {
        let Self { root_check_interval: check, root_grace_percent: grace_percent, root_life: life, .. } = *self;
        Renewal { check, grace_percent, life }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    istio_api::duration::parse(text).ok_or_else(|| "not a duration; write it like 90m or 1h30m".to_owned())
}

#[derive(Debug, clap::Args)]
struct ClusterArguments {
    /// How the API server is reached; else KUBECONFIG, the home folder, or as a pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// Namespace of the control plane.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    system_namespace: String,
    /// Revision of the control plane.
    #[arg(long, env = "REVISION", default_value = "default")]
    revision: String,
    /// This process' own name among its replicas.
    #[arg(long, env = "POD_NAME", default_value_t = format!("istiod-{}", std::process::id()))]
    pod: String,
    /// Name of the cluster.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Image of sidecars.
    #[arg(long, env = "PROXY_IMAGE", default_value = "meltemi:latest")]
    proxy_image: String,
    /// When nodes fetch that image; empty: Kubernetes decides.
    #[arg(long, env = "PROXY_IMAGE_PULL_POLICY", default_value = "")]
    proxy_image_pull_policy: String,
    /// Whether statuses are written: what is in force, and what analyzers find (Istio's PILOT_ENABLE_STATUS).
    #[arg(long, env = "PILOT_ENABLE_STATUS", default_value_t = true, action = clap::ArgAction::Set)]
    status: bool,
    /// `host:port` at which sidecars find istiod; else by its Service.
    #[arg(long, env = "DISCOVERY_ADDRESS")]
    discovery_address: Option<String>,
}

impl ClusterArguments {
    fn options(self, root_spread: Duration, webhook: SocketAddr) -> ClusterOptions {
        ClusterOptions {
            kubeconfig: self.kubeconfig,
            context: self.context,
            namespace: self.system_namespace,
            revision: self.revision,
            pod: self.pod,
            cluster: self.cluster_id,
            proxy_image: self.proxy_image,
            proxy_pull_policy: self.proxy_image_pull_policy,
            discovery: self.discovery_address,
            status: self.status,
            root_spread,
            webhook,
        }
    }
}

/// The command `istiod`; `filter` of the log is in force, `set` puts another one there.
pub fn cli(arguments: impl IntoIterator<Item = OsString>, filter: &str, set: SetFilter) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let at = |port| SocketAddr::new(arguments.address, port);
    let control = SocketAddr::new(arguments.ctrlz_address, arguments.ctrlz_port);
    let scopes = Arc::new(Scopes::new(filter, set));
    let source = match arguments.ca {
        Some(ca) => SourceOptions::Directory {
            paths: arguments.sources,
            overlay: arguments.overlay,
            namespace: arguments.namespace,
            ca,
            root_spread: arguments.root.spread(),
        },
        None => SourceOptions::Cluster(Box::new(arguments.cluster.options(arguments.root.spread(), at(15017)))),
    };
    let options = IstiodOptions {
        source,
        trust_domain: arguments.trust_domain,
        certificate_life: Duration::from_secs(arguments.cert_seconds),
        root_renewal: arguments.root.renewal(),
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
    let result = runtime.block_on(async {
        let istiod = Istiod::bind(options).await?;
        controlled(control, scopes).await;
        istiod.run().await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("istiod: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves ControlZ. The mesh can do without: another istiod of this machine may have the port.
async fn controlled(at: SocketAddr, scopes: Arc<Scopes>) {
    if at.port() == 0 {
        return;
    }
    match tokio::net::TcpListener::bind(at).await {
        Ok(listener) => drop(tokio::spawn(scopes::serve(listener, scopes))),
        Err(error) => tracing::warn!(%at, %error, "levels of the log stay as they are: ControlZ has no port"),
    }
}
