//! A stock Envoy as the pod's proxy: the agent gives it an identity and its configuration, and speaks for it.
//!
//! As beside our own data plane, the pod's ports, pages and DNS are Istio's; Envoy has 15000, 15001, 15006, 15021 and 15090,
//! the agent 15020 and 15053. When Envoy ends, the agent ends: whoever runs the container starts both again.

mod admin;
mod bootstrap;
mod pages;
mod process;
mod relay;
mod secrets;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use envoy_api::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use envoy_api::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use mtls::SecretStore;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::dns::{self, Names, Resolvers};
use crate::drain::DrainOptions;
use crate::identity::Identity;
use crate::options::AgentOptions;
use crate::{channel, roots, sidecar};
use pages::Pages;
use process::Envoy;
use relay::Relay;
use secrets::Secrets;

/// Runs `binary` as the pod's proxy until the agent is told to end or Envoy ends.
///
/// # Errors
/// When a port or socket cannot be had, the mesh's roots cannot be read, or Envoy cannot be started or ends by itself.
pub(crate) async fn run(options: AgentOptions, binary: &Path) -> io::Result<()> {
    let bind = |what: &'static str| move |e: io::Error| io::Error::other(format!("cannot listen on {what}: {e}"));
    let status = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 15020)).await.map_err(bind("0.0.0.0:15020"))?;
    let dns_at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15053);
    let dns_socket = UdpSocket::bind(dns_at).await.map_err(bind("127.0.0.1:15053"))?;
    let dns_listener = TcpListener::bind(dns_at).await.map_err(bind("127.0.0.1:15053"))?;
    std::fs::create_dir_all(&options.config_path).map_err(|e| {
        io::Error::other(format!(
            "Envoy's files cannot be kept in {} ({e}); set configPath in PROXY_CONFIG",
            options.config_path.display()
        ))
    })?;
    let sockets = Sockets::of(&options.config_path);
    let (xds, sds) = (listen(&sockets.xds)?, listen(&sockets.sds)?);

    let store: Arc<SecretStore> = Arc::default();
    let mounted = roots::read(&options.roots)?;
    let certificate = store.certificate("default");
    let channel = channel::istiod(&options.discovery, &options.istiod_name, mounted.clone(), certificate)?;
    let (issued, certificates) = watch::channel(None);
    let identity = Identity {
        channel: channel.clone(),
        secrets: store,
        token: options.token.clone(),
        uri: options.telemetry().principal.to_string(),
        seconds: options.certificate_seconds,
        progress: Arc::default(),
        issued: Some(issued.clone()),
    };
    tokio::spawn(roots::keep(options.roots.clone(), vec![mounted], Some(issued)));
    tokio::spawn(identity.keep());
    let resolvers = Arc::new(Resolvers::of_pod());
    let names = Arc::new(Names::new(&options.namespace, resolvers.search.clone()));
    tokio::spawn(dns::serve_udp(dns_socket, names.clone(), resolvers.clone()));
    tokio::spawn(dns::serve_tcp(dns_listener, names.clone(), resolvers));
    tokio::spawn(serve_xds(xds, Relay { channel, token: options.token.clone(), names }));
    tokio::spawn(serve_sds(sds, Secrets { certificates }));
    let pages = Arc::new(Pages::new(&options));
    tokio::spawn(pages::serve(status, pages.clone()));

    let bootstrap = options.config_path.join("envoy-rev.json");
    std::fs::write(&bootstrap, bootstrap::json(&options, &sockets).to_string())?;
    let mut envoy = Envoy::start(binary, &bootstrap, options.workers)?;
    tracing::info!(node = %options.node_id(), istiod = %options.discovery, envoy = %binary.display(), "sidecar starts");
    tokio::select! {
        end = envoy.ended() => {
            envoy.stop().await?;
            return Err(io::Error::other(format!("Envoy ended by itself: {}", end?)));
        }
        () = sidecar::told_to_end(&pages.quit) => {}
    }
    if !pages.draining.swap(true, Relaxed) {
        admin::drain().await;
    }
    idle(&mut envoy, options.drain).await;
    envoy.stop().await
}

/// Envoy's ways to the agent.
#[derive(Clone, Debug)]
struct Sockets {
    xds: PathBuf,
    sds: PathBuf,
}

impl Sockets {
    fn of(folder: &Path) -> Self {
        Self { xds: folder.join("XDS"), sds: folder.join("SDS") }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path).map_err(|e| io::Error::other(format!("cannot listen on {}: {e}", path.display())))
}

async fn serve_xds(listener: UnixListener, relay: Relay) {
    let service = AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(relay::MAX_MESSAGE);
    serve(Server::builder().add_service(service), listener).await;
}

async fn serve_sds(listener: UnixListener, secrets: Secrets) {
    serve(Server::builder().add_service(SecretDiscoveryServiceServer::new(secrets)), listener).await;
}

async fn serve(router: tonic::transport::server::Router, listener: UnixListener) {
    if let Err(error) = router.serve_with_incoming(UnixListenerStream::new(listener)).await {
        tracing::error!(%error, "Envoy cannot be served any more");
    }
}

/// Returns when nothing is under way, or Istio's terminationDrainDuration is over.
async fn idle(envoy: &mut Envoy, limits: DrainOptions) {
    /// Between two looks.
    const LOOK: Duration = Duration::from_millis(100);
    let wait = async {
        if limits.exit_on_zero {
            tokio::time::sleep(limits.minimum).await;
        }
        // Requests that are just arriving are still served.
        tokio::time::sleep(LOOK * 2).await;
        while admin::busy().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let limit = if limits.exit_on_zero { Duration::MAX } else { limits.termination };
    tokio::select! {
        _ = tokio::time::timeout(limit, wait) => {}
        _ = envoy.ended() => {}
    }
}
