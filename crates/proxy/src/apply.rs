//! Starting the data plane, and putting what xDS brings in force.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_api::envoy::config::listener::v3::Listener;
use envoy_api::envoy::config::route::v3::RouteConfiguration;
use envoy_api::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_api::{Any, unpack};
use mtls::SecretStore;
use net::Pipe;
use parking_lot::Mutex;
use proxy_config::{
    CLUSTER, ConfigError, Context, ENDPOINT, Resources, apply_secret, compile_cluster, compile_endpoints,
    compile_listener, compile_routes, refresh_files,
};
use telemetry::{Stat, StatKind, Telemetry};
use tokio::sync::{Notify, mpsc};
use upstream::{LocalCluster, Registry};

use crate::life::{Life, Phase, Scope};
use crate::listeners::Listeners;
use crate::peer::OwnMetadata;
use crate::socket::{self, Bound, Socket};
use crate::worker::{self, Command, Shared};

/// How the data plane is started.
#[derive(Debug)]
pub struct ProxyOptions {
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// The xDS node id, for peers.
    pub node_id: String,
    /// Metrics, of the workload that is served.
    pub telemetry: Arc<Telemetry>,
    /// Certificates and roots.
    pub secrets: Arc<SecretStore>,
    /// How long a client may be silent on a port of unknown protocol before the upstream is connected as well, so that
    /// a server that speaks first can; see [`UNDECIDED`].
    pub undecided: Duration,
}

/// Long enough for a client that speaks first, which does so with its first packet; too short to be felt by one that
/// waits for its server.
pub const UNDECIDED: Duration = Duration::from_millis(2);

/// A resource that was refused; what was in force stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The resource.
    pub name: String,
    /// The field and what is wrong with it.
    pub reason: String,
}

/// What the resources in force refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Endpoint assignments.
    pub endpoints: Vec<Arc<str>>,
    /// Route configurations.
    pub routes: Vec<String>,
    /// Certificates and roots that the control plane sends.
    pub secrets: Vec<String>,
}

/// The scheme of secrets that the control plane sends; all others are the agent's, or files.
const SENT: &str = "kubernetes://";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// The data plane.
#[derive(Debug)]
pub struct Proxy {
    pub(crate) shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    pub(crate) quit: Notify,
    /// Resources as they came.
    pub(crate) resources: Arc<Resources>,
    bound: Mutex<BTreeMap<Arc<str>, SocketAddr>>,
    /// Unix sockets by listener; they are the workers'.
    pipes: Mutex<BTreeMap<Arc<str>, Weak<Pipe>>>,
    /// Secrets that the control plane does not have, or not for us.
    absent: Mutex<BTreeSet<String>>,
}

impl Proxy {
    /// Starts the workers. They do nothing until listeners come.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(options: ProxyOptions) -> io::Result<Arc<Self>> {
        let resources = Arc::<Resources>::default();
        let registry = Arc::new(Registry::new(resources.clone()));
        let life: Arc<Life> = Arc::default();
        let open = life.clone();
        options.telemetry.add_source(move |emit| {
            let open = i64::try_from(open.open()).unwrap_or(i64::MAX);
            emit(Stat { scope: "server", entity: None, leaf: "total_connections", kind: StatKind::Gauge, value: open });
        });
        let reported: Arc<crate::report::Reported> = Arc::default();
        let spans = reported.clone();
        options.telemetry.add_source(move |emit| spans.stats(emit));
        let stats = registry.clone();
        options.telemetry.add_source(move |emit| stats.stats(emit));
        let context = Arc::new(Context::new(registry, options.secrets, options.telemetry));
        resources.compile_with(&context);
        let shared = Arc::new(Shared {
            listeners: Listeners::default(),
            metadata: OwnMetadata::new(&options.node_id, context.telemetry.local()),
            context,
            life,
            reported,
            undecided: options.undecided,
        });
        let workers =
            (0..options.workers.max(1)).map(|i| worker::start(i, shared.clone())).collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(Self {
            shared,
            workers,
            quit: Notify::new(),
            resources,
            bound: Mutex::default(),
            pipes: Mutex::default(),
            absent: Mutex::default(),
        }))
    }

    /// The clusters.
    pub fn clusters(&self) -> &Arc<Registry> {
        &self.shared.context.clusters
    }

    /// The metrics.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.shared.context.telemetry
    }

    /// Names the cluster of the workload's own replicas, whose endpoints are then wanted, for zone aware balancing; once,
    /// before anything else is put in force. `ip` is the workload's, `locality` where it is as `region/zone/subzone`, for
    /// want of an endpoint with its address.
    pub fn set_local_cluster(&self, name: &str, ip: IpAddr, locality: Option<&str>) {
        let locality = locality.map(|place| place.trim_end_matches('/').into());
        self.clusters().set_local(LocalCluster { name: name.into(), ip, locality });
    }

    /// Certificates and roots.
    pub fn secrets(&self) -> &Arc<SecretStore> {
        &self.shared.context.secrets
    }

    /// Where a listener with a socket of its own really listens.
    pub fn bound_address(&self, listener: &str) -> Option<SocketAddr> {
        self.bound.lock().get(listener).copied()
    }

    /// Puts resources in force. Each is taken whole or refused whole; the good ones of a batch count.
    ///
    /// # Errors
    /// The refused ones.
    pub fn apply(&self, type_url: &str, added: &[(String, Any)], removed: &[String]) -> Result<(), Vec<Rejected>> {
        let kind = type_url.rsplit('/').next().unwrap_or_default();
        let mut rejected = Vec::new();
        for (name, any) in added {
            match self.add(kind, name, any) {
                Ok(()) if kind == SECRET => drop(self.absent.lock().remove(name)),
                Ok(()) => {}
                Err(reason) => rejected.push(Rejected { name: name.clone(), reason }),
            }
        }
        for name in removed {
            self.remove(kind, name);
        }
        self.count(kind, rejected.is_empty());
        if rejected.is_empty() { Ok(()) } else { Err(rejected) }
    }

    fn add(&self, kind: &str, name: &str, any: &Any) -> Result<(), String> {
        let context = &self.shared.context;
        // What wakes asks for what is kept: it is kept before anybody is told of it.
        let keep = || self.resources.insert(kind, name, any);
        let same = |called: &str| {
            if called == name { Ok(()) } else { Err(format!("the resource is called {name}, and {called} inside")) }
        };
        let malformed = |e: envoy_api::prost::DecodeError| format!("the message is malformed: {e}");
        let refused = |e: ConfigError| e.to_string();
        match kind {
            CLUSTER => {
                let cluster: Cluster = unpack(any).map_err(malformed)?;
                let compiled = compile_cluster(&cluster, context).map_err(refused)?;
                same(&compiled.name)?;
                keep();
                // A secret is asked for as long as something in force refers to it: what does so cannot rest.
                let of_secrets = any.value.windows(SENT.len()).any(|part| part == SENT.as_bytes());
                if of_secrets { context.clusters.apply(compiled) } else { context.clusters.offer(compiled) }
            }
            ENDPOINT => {
                let assignment: ClusterLoadAssignment = unpack(any).map_err(malformed)?;
                let (called, hosts) = compile_endpoints(&assignment).map_err(refused)?;
                same(&called)?;
                keep();
                context.clusters.apply_endpoints(name, &hosts);
            }
            "envoy.config.route.v3.RouteConfiguration" => {
                let routes: RouteConfiguration = unpack(any).map_err(malformed)?;
                let slot = context.route_slot(&routes.name);
                slot.store(Some(compile_routes(&routes, context, slot.load().as_deref()).map_err(refused)?));
                keep();
            }
            "envoy.config.listener.v3.Listener" => {
                let listener: Listener = unpack(any).map_err(malformed)?;
                self.add_listener(compile_listener(&listener, context).map_err(refused)?)?;
                keep();
            }
            SECRET => {
                let secret: Secret = unpack(any).map_err(malformed)?;
                apply_secret(&secret, &context.secrets).map_err(refused)?;
            }
            other => return Err(format!("resources of type {other} are not supported")),
        }
        Ok(())
    }

    /// Opens the socket when the listener is new or has moved; otherwise only swaps what it does.
    fn add_listener(&self, listener: proxy_config::Listener) -> Result<(), String> {
        let listener = Arc::new(listener);
        let former = self.shared.listeners.named(&listener.name);
        let open = listener.bound && !former.as_ref().is_some_and(|f| f.bound && f.address == listener.address);
        let sockets = if open { self.open(&listener)? } else { Vec::new() };
        let mut table = (*self.shared.listeners.load()).clone();
        table.insert(listener.clone());
        self.shared.listeners.store(table);
        for (worker, socket) in self.workers.iter().zip(sockets) {
            // A worker lives as long as the process.
            let _ = worker.send(Command::Listen(listener.name.clone(), socket));
        }
        Ok(())
    }

    fn open(&self, listener: &proxy_config::Listener) -> Result<Vec<Socket>, String> {
        let fail = |e: io::Error| format!("cannot listen on {}: {e}", listener.address);
        let (sockets, bound) = socket::open(&listener.address, self.workers.len()).map_err(fail)?;
        match bound {
            Bound::Ip(address) => drop(self.bound.lock().insert(listener.name.clone(), address)),
            Bound::Pipe(pipe) => drop(self.pipes.lock().insert(listener.name.clone(), Arc::downgrade(&pipe))),
        }
        Ok(sockets)
    }

    fn remove(&self, kind: &str, name: &str) {
        let context = &self.shared.context;
        match kind {
            CLUSTER => {
                if let Some(assignment) = context.clusters.remove(name) {
                    self.resources.remove(ENDPOINT, &assignment);
                }
            }
            ENDPOINT => {
                self.resources.insert_none(kind, name);
                return context.clusters.apply_endpoints(name, &[]);
            }
            "envoy.config.route.v3.RouteConfiguration" => context.route_slot(name).store(None),
            "envoy.config.listener.v3.Listener" => {
                let mut table = (*self.shared.listeners.load()).clone();
                table.remove(name);
                self.shared.listeners.store(table);
                self.bound.lock().remove(name);
                // Whoever opens it anew may come before the workers have closed it.
                if let Some(pipe) = self.pipes.lock().remove(name).and_then(|pipe| pipe.upgrade()) {
                    pipe.unlink();
                }
                for worker in &self.workers {
                    let _ = worker.send(Command::Close(Arc::from(name)));
                }
            }
            // As in Envoy, the last one that came is used on.
            SECRET => drop(self.absent.lock().insert(name.to_owned())),
            _ => {}
        }
        self.resources.remove(kind, name);
    }

    /// Envoy's update counters, which readiness probes and tools look at.
    fn count(&self, kind: &str, good: bool) {
        let manager = match kind {
            CLUSTER => "cluster_manager.cds",
            "envoy.config.listener.v3.Listener" => "listener_manager.lds",
            _ => return,
        };
        let result = if good { "update_success" } else { "update_rejected" };
        self.telemetry().counter(&format!("{manager}.{result}")).inc();
    }

    /// What the resources in force refer to, to be subscribed to.
    pub fn wanted(&self) -> Wanted {
        let mut routes: Vec<String> =
            self.shared.listeners.load().by_name.values().flat_map(|l| l.route_names()).collect();
        routes.sort();
        routes.dedup();
        let store = self.secrets();
        store.forget(|name| name.starts_with(SENT));
        let mut secrets = store.certificate_names();
        secrets.extend(store.root_names());
        secrets.retain(|name| name.starts_with(SENT));
        self.absent.lock().retain(|name| secrets.contains(name));
        Wanted { endpoints: self.clusters().assignments(), routes, secrets }
    }

    /// Reads certificates in files again, for those that were renewed; runs for ever on the control thread.
    pub async fn keep_files(self: Arc<Self>) {
        /// Between two looks.
        const LOOK: Duration = Duration::from_secs(10);
        loop {
            tokio::time::sleep(LOOK).await;
            refresh_files(self.secrets());
        }
    }

    /// Whether everything that the listeners and clusters refer to has arrived, or is said to be not there.
    pub fn is_complete(&self) -> bool {
        let wanted = self.wanted();
        self.has_configuration(&wanted) && self.has_secrets(&wanted.secrets)
    }

    /// The same without the secrets: nobody can serve without the rest, but without a secret all but one cluster work.
    pub fn is_complete_but_for_secrets(&self) -> bool {
        self.has_configuration(&self.wanted())
    }

    fn has_configuration(&self, wanted: &Wanted) -> bool {
        let context = &self.shared.context;
        wanted.routes.iter().all(|name| context.route_slot(name).load().is_some())
            && wanted.endpoints.iter().all(|name| self.resources.is_known(ENDPOINT, name))
    }

    fn has_secrets(&self, wanted: &[String]) -> bool {
        let store = self.secrets();
        let (absent, of_roots) = (self.absent.lock(), store.root_names());
        let is_set = |name: &String| match of_roots.contains(name) {
            true => store.roots(name).is_set(),
            false => store.certificate(name).is_set(),
        };
        wanted.iter().all(|name| absent.contains(name) || is_set(name))
    }

    /// Tells connections to go elsewhere, and serves on.
    pub fn drain(&self, scope: Scope) {
        self.shared.life.advance(scope, Phase::Draining);
    }

    /// Takes an announcement back.
    pub fn resume(&self) {
        self.shared.life.resume();
    }

    /// Takes no connection any more.
    pub fn close(&self, scope: Scope) {
        self.shared.life.advance(scope, Phase::Closed);
    }

    /// Lets idle connections go too; what is in flight may finish.
    pub fn end(&self) {
        self.shared.life.advance(Scope::All, Phase::Ending);
    }

    /// How far the end of inbound traffic has come.
    pub fn phase(&self) -> Phase {
        self.shared.life.phase(true)
    }

    /// Connections that live, upgraded ones included.
    pub fn open_connections(&self) -> usize {
        self.shared.life.open()
    }

    /// Connections taken so far.
    pub fn accepted_connections(&self) -> u64 {
        self.shared.life.accepted()
    }

    /// Waits until no connection lives.
    pub async fn emptied(&self) {
        self.shared.life.empty().await;
    }

    /// Waits until the admin port is asked to end the process.
    pub async fn told_to_quit(&self) {
        self.quit.notified().await;
    }

    /// Whether the control plane still names an address as an endpoint.
    pub fn is_endpoint(&self, ip: IpAddr) -> bool {
        self.resources.has_endpoint(ip)
    }
}
