//! The control plane of a cluster: what it reads there, keeps there, and answers the API server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, Renewal};
use kubernetes::{CaSecret, Cluster, Election, Scope, Source};
use mtls::ServerTls;
use sources::Loaded;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::rotation::{self, Rotation};
use crate::server::{IstiodError, Serving};
use crate::{tls, verdict};

/// Between two tries to reach an API server that does not answer yet.
const PAUSE: Duration = Duration::from_secs(1);
/// The lease of what only one replica does.
const LEASE: &str = "istio-leader";

/// How a cluster is served.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How the API server is reached; `None` finds out.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    pub context: Option<String>,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Its revision.
    pub revision: String,
    /// This process' own name among its replicas.
    pub pod: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Image of sidecars.
    pub proxy_image: String,
    /// When nodes fetch it; Kubernetes' own default when empty.
    pub proxy_pull_policy: String,
    /// Where sidecars find istiod; `None`: by its Service.
    pub discovery: Option<String>,
    /// How long new roots are spread before anything is signed below them.
    pub root_spread: Duration,
    /// Whether statuses of Istio's resources are written.
    pub status: bool,
    /// Webhooks (15017).
    pub webhook: SocketAddr,
}

impl ClusterOptions {
    /// Istio's names of things that exist once a revision.
    fn of_revision(&self, name: &str) -> String {
        if self.revision == "default" { name.to_owned() } else { format!("{name}-{}", self.revision) }
    }

    fn injector(&self, trust_domain: &str) -> injector::Options {
        let own = || format!("{}.{}.svc:15012", self.of_revision("istiod"), self.namespace);
        injector::Options {
            image: self.proxy_image.clone(),
            pull_policy: self.proxy_pull_policy.clone(),
            discovery: self.discovery.clone().unwrap_or_else(own),
            trust_domain: trust_domain.to_owned(),
            cluster: self.cluster.clone(),
            revision: self.revision.clone(),
            ..injector::Options::default()
        }
    }
}

/// What istiod is called where nothing else is said.
pub(crate) fn own_names() -> Vec<String> {
    names("istiod", "istio-system")
}

fn names(service: &str, namespace: &str) -> Vec<String> {
    let short = format!("{service}.{namespace}");
    vec![format!("{short}.svc"), format!("{short}.svc.cluster.local"), short]
}

/// A cluster, reached.
pub(crate) struct Attached {
    pub(crate) cluster: Cluster,
    options: ClusterOptions,
    webhook: TcpListener,
    source: Source,
    trust_domain: String,
    /// The authority's Secret as it was read.
    secret: CaSecret,
}

impl Attached {
    /// Reaches the API server, for as long as that takes, and reads or makes the authority there.
    pub(crate) async fn attach(
        options: &ClusterOptions,
        webhook: TcpListener,
        trust_domain: &str,
    ) -> Result<(Self, Authority), IstiodError> {
        let cluster = Cluster::connect(options.kubeconfig.clone(), options.context.clone(), &options.namespace).await?;
        let (secret, authority) = loop {
            match authority(&cluster, trust_domain).await {
                Ok(found) => break found,
                Err(IstiodError::Cluster(error)) => {
                    tracing::warn!(%error, "waiting for the cluster");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(other) => return Err(other),
            }
        };
        let source = kubernetes::watch(&cluster, &Scope { mesh_config: options.of_revision("istio") });
        let trust_domain = trust_domain.to_owned();
        Ok((Self { cluster, options: options.clone(), webhook, source, trust_domain, secret }, authority))
    }

    /// Names in our certificate: of this revision's Service, and of the one that tags lead to.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let mut hosts = names("istiod", &self.options.namespace);
        if self.options.revision != "default" {
            hosts.extend(names(&self.options.of_revision("istiod"), &self.options.namespace));
        }
        hosts
    }

    /// All resources, once every kind has been read completely.
    pub(crate) async fn resources(&self) -> watch::Receiver<Loaded> {
        self.source.clone().synced().await
    }

    /// What the webhooks answer from.
    pub(crate) fn admission(&self, loaded: &watch::Receiver<Loaded>) -> Arc<Admission> {
        let injector = self.options.injector(&self.trust_domain);
        Arc::new(Admission { injector, loaded: loaded.clone() })
    }

    /// Name of the cluster.
    pub(crate) fn name(&self) -> &str {
        &self.options.cluster
    }

    /// Serves the webhooks, and keeps what the cluster needs of us; the roots that are trusted, whenever they change.
    pub(crate) fn serve(
        self,
        authority: &Arc<Authority>,
        serving: &Serving,
        admission: Arc<Admission>,
        life: Duration,
        renewal: Renewal,
    ) -> Result<watch::Receiver<String>, IstiodError> {
        let Self { cluster, options, webhook, secret, .. } = self;
        let loaded = admission.loaded.clone();
        let tls = ServerTls {
            cert: serving.slot.clone(),
            roots: None,
            require_client_cert: false,
            sans: Vec::new(),
            revoked: Vec::new(),
            alpn: vec![b"http/1.1".to_vec()],
        };
        tokio::spawn(crate::admission::serve(tls::accept(webhook, tls.build()?), admission));
        let (given, roots) = watch::channel(authority.root_pem().to_string());
        let (authority, signs) = (authority.clone(), serving.renew.clone());
        let rotation = Rotation { authority, given, signs, spread: options.root_spread, life };
        tokio::spawn(rotation.keep(kubernetes::follow_ca(cluster.clone(), secret)));
        let leading = Election::stand(cluster.clone(), &options.of_revision(LEASE), &options.pod);
        if !renewal.check.is_zero() {
            let renew = move |secret: &CaSecret| rotation::renewed(&renewal, secret);
            tokio::spawn(kubernetes::renew_ca(cluster.clone(), leading.clone(), renewal.check, renew));
        }
        if options.status {
            tokio::spawn(verdict::keep(cluster.clone(), loaded.clone(), leading.clone()));
        }
        tokio::spawn(kubernetes::keep_bundles(cluster.clone(), options.revision.clone(), roots.clone()));
        tokio::spawn(kubernetes::keep_roots(cluster, roots.clone(), leading));
        Ok(roots)
    }
}

/// The authority of the cluster's Secret. Roots that workloads were given before are trusted as well: certificates below
/// them may still live.
async fn authority(cluster: &Cluster, trust_domain: &str) -> Result<(CaSecret, Authority), IstiodError> {
    let secret = kubernetes::ca_secret(cluster, || Authority::new_root(trust_domain)).await??;
    let authority = rotation::read(&secret)?;
    if let Some(former) = kubernetes::given_roots(cluster).await? {
        authority.trust(citadel::union(&authority.root_pem(), &former));
    }
    Ok((secret, authority))
}
