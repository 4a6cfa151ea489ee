//! Binding, wiring, running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use citadel::{Authority, AuthorityError, CsrService, Limits, PeerCertificate, Renewal, Tokens};
use envoy_api::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use kubernetes::Cluster;
use mtls::{CertSlot, RootSlot, ServerTls, SpiffeId};
use parking_lot::RwLock;
use sources::{Directory, Loaded};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use xds::AdsServer;

use crate::admission::Admission;
use crate::authenticate::Authenticate;
use crate::cluster::{self, Attached, ClusterOptions};
use crate::debug;
use crate::entitled::Entitled;
use crate::folder::{self, Folder};
use crate::generator::{Secure, Translator};
use crate::translated::Translated;
use crate::{jwks, tls};

/// Life of istiod's own certificate; renewed at half of it.
const SERVING_LIFE: Duration = Duration::from_secs(24 * 3600);
/// The longest life a workload certificate may have, as Istio's `MAX_WORKLOAD_CERT_TTL`.
const MAX_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a mesh without API server is called: Istio's default of `CLUSTER_ID`.
const LOCAL: &str = "Kubernetes";

/// Where resources and the certificate authority are.
#[derive(Clone, Debug)]
pub enum SourceOptions {
    /// On this machine.
    Directory {
        /// Directories or files of YAML.
        paths: Vec<PathBuf>,
        /// Objects here replace those of the sources.
        overlay: Option<PathBuf>,
        /// Namespace of objects that name none.
        namespace: String,
        /// Folder of the certificate authority.
        ca: PathBuf,
        /// How long a renewed root is spread before it signs.
        root_spread: Duration,
    },
    /// In a cluster.
    Cluster(Box<ClusterOptions>),
}

/// How the control plane is started.
#[derive(Clone, Debug)]
pub struct IstiodOptions {
    /// Where resources and the authority are.
    pub source: SourceOptions,
    /// Trust domain of identities.
    pub trust_domain: String,
    /// Life of a workload certificate when nothing else is asked for.
    pub certificate_life: Duration,
    /// When the self-signed root is renewed.
    pub root_renewal: Renewal,
    /// xDS without TLS (15010).
    pub plain: SocketAddr,
    /// xDS and certificates over TLS (15012).
    pub secure: SocketAddr,
    /// Metrics and debug pages (15014).
    pub monitoring: SocketAddr,
    /// Readiness (8080).
    pub ready: SocketAddr,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum IstiodError {
    /// A port is taken or forbidden.
    #[error("cannot listen on {0}: {1}; is another istiod running there?")]
    Bind(SocketAddr, std::io::Error),
    /// The authority is unusable.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The key of tokens is unusable.
    #[error("token key: {0}")]
    Tokens(std::io::Error),
    /// The cluster is of no use.
    #[error(transparent)]
    Cluster(#[from] kubernetes::ClusterError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] mtls::TlsError),
    /// A server ended.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// A bound control plane.
pub struct Istiod {
    options: IstiodOptions,
    plain: TcpListener,
    secure: TcpListener,
    monitoring: TcpListener,
    ready: TcpListener,
    authority: Arc<Authority>,
    tokens: Arc<Tokens>,
    attached: Option<Attached>,
}

/// What the debug pages look at.
pub(crate) struct State {
    pub(crate) ads: AdsServer<Translator>,
    pub(crate) loaded: watch::Receiver<Loaded>,
    pub(crate) csr: CsrService,
    pub(crate) started: Instant,
    /// Name of the cluster that is read.
    pub(crate) cluster: String,
    /// What the webhooks answer from; none on a machine of its own.
    pub(crate) admission: Option<Arc<Admission>>,
}

impl Istiod {
    /// Binds every socket and opens the authority.
    ///
    /// # Errors
    /// When a port cannot be had or the authority is unusable.
    pub async fn bind(options: IstiodOptions) -> Result<Self, IstiodError> {
        let bind = async |at: SocketAddr| TcpListener::bind(at).await.map_err(|e| IstiodError::Bind(at, e));
        let plain = bind(options.plain).await?;
        let secure = bind(options.secure).await?;
        let monitoring = bind(options.monitoring).await?;
        let ready = bind(options.ready).await?;
        let (authority, tokens, attached) = match &options.source {
            SourceOptions::Directory { ca, .. } => {
                let authority = Authority::load_or_create(ca, &options.trust_domain)?;
                (authority, Tokens::load_or_create(ca).map_err(IstiodError::Tokens)?, None)
            }
            SourceOptions::Cluster(cluster) => {
                let webhook = bind(cluster.webhook).await?;
                let (attached, authority) = Attached::attach(cluster, webhook, &options.trust_domain).await?;
                (authority, Tokens::none().map_err(IstiodError::Tokens)?, Some(attached))
            }
        };
        let (authority, tokens) = (Arc::new(authority), Arc::new(tokens));
        Ok(Self { plain, secure, monitoring, ready, options, authority, tokens, attached })
    }

    /// Serves until a server fails. A cluster is read completely before anything is served.
    ///
    /// # Errors
    /// When one does.
    pub async fn run(self) -> Result<(), IstiodError> {
        let hosts = self.attached.as_ref().map_or_else(cluster::own_names, Attached::hosts);
        let serving = Serving::new(&self.authority, &self.options.trust_domain, hosts)?;
        let loaded = match (&self.options.source, &self.attached) {
            (SourceOptions::Directory { paths, overlay, namespace, .. }, _) => {
                let mut directory = Directory::new(paths.clone(), namespace);
                if let Some(overlay) = overlay {
                    directory = directory.with_overlay(overlay.clone());
                }
                sources::watch(directory)
            }
            (SourceOptions::Cluster(_), Some(attached)) => attached.resources().await,
            (SourceOptions::Cluster(_), None) => sources::watch(Directory::new(Vec::new(), "default")),
        };
        let authenticate = Authenticate {
            cluster: self.attached.as_ref().map(|a| a.cluster.clone()),
            trust_domain: self.options.trust_domain.as_str().into(),
        };
        let roots = Arc::new(RootSlot::default());
        roots.set_pem(&self.authority.root_pem())?;
        let admission = self.attached.as_ref().map(|a| a.admission(&loaded));
        let name = self.attached.as_ref().map_or(LOCAL, Attached::name).to_owned();
        let (life, renewal) = (self.options.certificate_life, self.options.root_renewal);
        let given = match (self.attached, &admission, &self.options.source) {
            (Some(attached), Some(admission), _) => {
                Some(attached.serve(&self.authority, &serving, admission.clone(), life, renewal)?)
            }
            (_, _, SourceOptions::Directory { ca, root_spread, .. }) if !renewal.check.is_zero() => {
                let (authority, signs, spread) = (self.authority.clone(), serving.renew.clone(), *root_spread);
                Some(folder::keep(ca.clone(), Folder { authority, signs, spread, life, renewal }))
            }
            _ => None,
        };
        if let Some(given) = given {
            tokio::spawn(follow_roots(roots.clone(), given));
        }
        let first = loaded.borrow().snapshot.clone();
        let translator = Translator {
            translated: Translated::new(first.clone()),
            snapshot: RwLock::new(first),
            tokens: self.tokens.clone(),
            trust_domain: self.options.trust_domain.clone(),
            state: OnceLock::new(),
            entitled: Entitled::new(authenticate.cluster.clone()),
        };
        let ads = AdsServer::new(translator);
        let limits = Limits { default: self.options.certificate_life, max: MAX_LIFE };
        let csr = CsrService::new(self.authority.clone(), self.tokens.clone(), &self.options.trust_domain, limits);
        let state = Arc::new(State {
            ads: ads.clone(),
            loaded: loaded.clone(),
            csr: csr.clone(),
            started: Instant::now(),
            cluster: name,
            admission,
        });
        // The state is the server's; the other way round only looks.
        let _ = ads.generator().state.set(Arc::downgrade(&state));
        tokio::spawn(debug::serve(self.monitoring, state.clone()));
        tokio::spawn(debug::serve(self.ready, state));
        tokio::spawn(follow(ads.clone(), loaded, authenticate.cluster.clone()));
        let config = secure_config(roots, serving.slot)?;
        tracing::info!(secure = %self.options.secure, plain = %self.options.plain, "istiod serves");
        let plain = builder().add_service(ads.clone()).serve_with_incoming(TcpListenerStream::new(self.plain));
        let secure = builder()
            .layer(authenticate)
            .add_service(InterceptedService::new(ads, identify))
            .add_service(IstioCertificateServiceServer::with_interceptor(csr, identify))
            .serve_with_incoming(tls::accept(self.secure, config));
        tokio::try_join!(plain, secure)?;
        Ok(())
    }
}

/// Puts each new snapshot in force, with the key sets that its tokens need and the Secrets that its rules name: those are
/// followed one by one in a cluster; a directory has them among everything else.
async fn follow(ads: AdsServer<Translator>, mut loaded: watch::Receiver<Loaded>, cluster: Option<Cluster>) {
    let (rules, heard) = watch::channel(loaded.borrow().snapshot.clone());
    let (named, wanted) = watch::channel(loaded.borrow().snapshot.named_secrets());
    let mut keys = jwks::keep(heard);
    let mut credentials = cluster.map(|cluster| kubernetes::follow_secrets(cluster, wanted));
    loop {
        let secret = async {
            match &mut credentials {
                Some(credentials) => credentials.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = loaded.changed() => if changed.is_err() { return },
            changed = keys.changed() => if changed.is_err() { return },
            changed = secret => if changed.is_err() { return },
        }
        let mut snapshot = loaded.borrow_and_update().snapshot.clone();
        rules.send_replace(snapshot.clone());
        let names = snapshot.named_secrets();
        named.send_if_modified(|before| {
            let differ = *before != names;
            *before = names;
            differ
        });
        if let Some(credentials) = &mut credentials {
            snapshot = snapshot.with_credentials(credentials.borrow_and_update().clone());
        }
        let sets = keys.borrow_and_update().clone();
        let snapshot = snapshot.with_key_sets(sets);
        ads.generator().translated.follow(&snapshot);
        *ads.generator().snapshot.write() = snapshot;
        pilot::forget_unused();
        ads.notify();
    }
}

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_concurrent_streams(Some(1024))
        .initial_stream_window_size(Some(1 << 20))
}

/// Puts what is known of the connection among the request's extensions.
#[allow(clippy::result_large_err, clippy::unnecessary_wraps, reason = "tonic's signature")]
fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<Option<PeerCertificate>>().cloned().flatten();
    request.extensions_mut().insert(Secure);
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    Ok(request)
}

/// Our own certificate, renewed in time.
pub(crate) struct Serving {
    pub(crate) slot: Arc<CertSlot>,
    /// Told to renew it at once.
    pub(crate) renew: Arc<Notify>,
}

impl Serving {
    fn new(authority: &Arc<Authority>, trust_domain: &str, hosts: Vec<String>) -> Result<Self, IstiodError> {
        let serving = Self { slot: Arc::default(), renew: Arc::default() };
        let id = SpiffeId::new(trust_domain, "istio-system", "istiod");
        let issue = {
            let (authority, slot) = (authority.clone(), serving.slot.clone());
            move || -> Result<(), IstiodError> {
                let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
                let issued = authority.issue(&id, &hosts, SERVING_LIFE)?;
                Ok(slot.set(&issued.chain, &issued.key)?)
            }
        };
        issue()?;
        let renew = serving.renew.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(SERVING_LIFE / 2) => {}
                    () = renew.notified() => {}
                }
                if let Err(error) = issue() {
                    tracing::error!(%error, "istiod's own certificate was not renewed");
                }
            }
        });
        Ok(serving)
    }
}

/// Trusts, of clients, what workloads are given.
async fn follow_roots(slot: Arc<RootSlot>, mut given: watch::Receiver<String>) {
    while given.changed().await.is_ok() {
        let roots = given.borrow_and_update().clone();
        if let Err(error) = slot.set_pem(&roots) {
            tracing::error!(%error, "the new roots cannot be used");
        }
    }
}

/// TLS of 15012: clients may show their certificate.
fn secure_config(roots: Arc<RootSlot>, cert: Arc<CertSlot>) -> Result<Arc<rustls::ServerConfig>, IstiodError> {
    let tls = ServerTls {
        cert,
        roots: Some(roots),
        require_client_cert: false,
        sans: Vec::new(),
        revoked: Vec::new(),
        alpn: vec![b"h2".to_vec()],
    };
    Ok(tls.build()?)
}
