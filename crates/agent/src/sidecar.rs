//! A sidecar's life: bind, start, follow, serve, drain.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use envoy_api::envoy::config::core::v3::{Extension, Locality, Node};
use mtls::SecretStore;
use proxy::admin::Admin;
use proxy::{Proxy, ProxyOptions};
use serde_json::{Value, json};
use telemetry::Telemetry;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use xds::Client;

use crate::dns::{self, Names, Resolvers};
use crate::follow::Follower;
use crate::health::{self, Health};
use crate::identity::Identity;
use crate::log_levels::Levels;
use crate::options::AgentOptions;
use crate::{LOCAL_CLUSTER, channel, roots};

/// Istio's extensions that the data plane has; istiod sends what is listed.
const EXTENSIONS: [&str; 4] = ["istio.stats", "istio.alpn", "istio.metadata_exchange", "envoy.filters.http.router"];

/// Runs a sidecar until it is told to end.
///
/// # Errors
/// When a port cannot be had or the mesh's roots cannot be read.
pub(crate) async fn run(options: AgentOptions, levels: Levels) -> io::Result<()> {
    let started = Instant::now();
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let bind = async |ip, port| {
        let at = SocketAddr::new(ip, port);
        TcpListener::bind(at).await.map_err(|e| io::Error::other(format!("cannot listen on {at}: {e}")))
    };
    let admin = bind(local, 15000).await?;
    let agent_ports = [(15020, true), (15021, false), (15090, false)];
    let mut pages = Vec::new();
    for (port, agent) in agent_ports {
        pages.push((bind(any, port).await?, agent));
    }
    let dns_socket = UdpSocket::bind(SocketAddr::new(local, 15053)).await?;
    let dns_listener = bind(local, 15053).await?;

    let secrets: Arc<SecretStore> = Arc::default();
    let telemetry = Telemetry::new(options.telemetry());
    telemetry.gauge("server.state").set(2);
    let proxy = Proxy::start(ProxyOptions {
        workers: options.workers,
        node_id: options.node_id(),
        telemetry: telemetry.clone(),
        secrets: secrets.clone(),
        undecided: proxy::UNDECIDED,
    })?;
    know_replicas(&options, &proxy);
    let (complete, progress) = (Arc::new(AtomicBool::new(false)), Arc::<Notify>::default());
    let health = Arc::new(Health {
        proxy: proxy.clone(),
        complete: complete.clone(),
        announced: AtomicBool::new(false),
        quit: Notify::new(),
        progress: progress.clone(),
        app_probes: options.app_probes.clone(),
        scrape: options.scrape.clone(),
        pod: options.ip,
    });
    for (listener, agent) in pages {
        tokio::spawn(health::serve(listener, health.clone(), agent));
    }
    tokio::spawn(health.clone().tell_when_ready(started));
    let ready = health.clone();
    let drain = options.drain;
    let pages = Admin {
        proxy: proxy.clone(),
        ready: Arc::new(move || ready.is_ready()),
        drain: drain.drain,
        bootstrap: bootstrap(&options),
        logging: Arc::new(levels),
    };
    tokio::spawn(proxy::admin::serve(admin, Arc::new(pages)));
    tokio::spawn(proxy.clusters().clone().maintain());
    tokio::spawn(proxy.clone().keep_files());
    let resolvers = Arc::new(Resolvers::of_pod());
    let names = Arc::new(Names::new(&options.namespace, resolvers.search.clone()));
    tokio::spawn(dns::serve_udp(dns_socket, names.clone(), resolvers.clone()));
    tokio::spawn(dns::serve_tcp(dns_listener, names.clone(), resolvers));

    let mounted = roots::read(&options.roots)?;
    let certificate = secrets.certificate("default");
    let channel = channel::istiod(&options.discovery, &options.istiod_name, mounted.clone(), certificate)?;
    let identity = Identity {
        channel: channel.clone(),
        secrets: secrets.clone(),
        token: options.token.clone(),
        uri: telemetry.local().principal.to_string(),
        seconds: options.certificate_seconds,
        progress: progress.clone(),
        issued: None,
    };
    let trusted = vec![mounted, secrets.roots("ROOTCA")];
    tokio::spawn(roots::keep(options.roots.clone(), trusted, None));
    tokio::spawn(identity.keep());
    let mut follower = Follower {
        proxy: proxy.clone(),
        names,
        token: options.token.clone(),
        complete,
        progress,
        listeners_seen: false,
        waits: false,
    };
    let client = Client { channel, node: node(&options) };
    let follow = client.run(&mut follower);
    tracing::info!(node = %options.node_id(), istiod = %options.discovery, "sidecar starts");
    let life = async {
        told_to_end(&health.quit).await;
        telemetry.gauge("server.state").set(1);
        let announced = health.announced.load(Relaxed);
        tracing::info!(announced, open = proxy.open_connections(), "told to end");
        drain.run(&proxy, options.ip, announced).await;
    };
    // What istiod sends is followed to the end: it tells when the pod is no endpoint any more, and where others are.
    tokio::select! {
        () = follow => {}
        () = life => {}
        () = proxy.told_to_quit() => {}
    }
    tracing::info!(open = proxy.open_connections(), "sidecar ends");
    Ok(())
}

/// The endpoints of the workload's own replicas are asked for, where the pod is told so.
fn know_replicas(options: &AgentOptions, proxy: &Proxy) {
    if options.self_discovery() {
        let locality = options.locality().map(|parts| parts.join("/"));
        proxy.set_local_cluster(LOCAL_CLUSTER, options.ip, locality.as_deref());
    }
}

/// SIGTERM, SIGINT or `/quitquitquit`.
pub(crate) async fn told_to_end(quit: &Notify) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        quit.notified().await;
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = quit.notified() => {}
    }
}

/// How the sidecar was started, in the form of Envoy's bootstrap: who it is, and that all else comes from istiod.
fn bootstrap(options: &AgentOptions) -> Value {
    let extensions: Vec<Value> = EXTENSIONS.iter().map(|name| json!({"name": name})).collect();
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let mut out = json!({
        "node": {
            "id": options.node_id(), "cluster": options.service_cluster(), "metadata": options.metadata(),
            "user_agent_name": USER_AGENT, "extensions": extensions,
        },
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{"google_grpc": {"target_uri": options.discovery, "stat_prefix": "xds-grpc"}}],
            },
            "cds_config": ads, "lds_config": ads,
        },
    });
    if options.self_discovery() {
        out["static_resources"] = json!({"clusters": [local_cluster()]});
        out["cluster_manager"] = json!({"local_cluster_name": LOCAL_CLUSTER});
    }
    if let Some([region, zone, sub_zone]) = options.locality() {
        out["node"]["locality"] = json!({"region": region, "zone": zone, "sub_zone": sub_zone});
    }
    out
}

/// The cluster whose hosts are the replicas of the workload, as a bootstrap has it.
pub(crate) fn local_cluster() -> Value {
    json!({
        "name": LOCAL_CLUSTER,
        "alt_stat_name": format!("{LOCAL_CLUSTER};"),
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "service_name": LOCAL_CLUSTER,
            "eds_config": {"ads": {}, "resource_api_version": "V3"}
        }
    })
}

/// What the proxy calls itself.
const USER_AGENT: &str = "meltemi";

fn node(options: &AgentOptions) -> Node {
    let metadata = envoy_api::struct_from_json(options.metadata());
    let extension = |name: &str| Extension { name: name.to_owned(), ..Extension::default() };
    Node {
        id: options.node_id(),
        cluster: options.service_cluster(),
        metadata,
        user_agent_name: USER_AGENT.to_owned(),
        extensions: EXTENSIONS.into_iter().map(extension).collect(),
        locality: options.locality().map(|[region, zone, sub_zone]| Locality { region, zone, sub_zone }),
        ..Node::default()
    }
}
