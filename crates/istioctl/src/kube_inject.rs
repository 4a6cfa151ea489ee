//! `istioctl kube-inject`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use injector::Options;
use istio_api::Resource;
use istio_api::yaml::Document;
use kubernetes::Place;
use serde_json::Value;

use crate::Session;
use crate::cluster::ByCluster;
use crate::input;

/// Print Kubernetes YAML with sidecars added, as the cluster's own injector adds them. What no file says is asked of the
/// cluster; where none is known, it is what this program was made with.
#[derive(Debug, Args)]
pub(crate) struct KubeInject {
    /// The file to read; `-` is standard input.
    #[arg(short, long)]
    filename: PathBuf,
    /// Where to write; standard output when not given.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// A MeshConfig to inject with, instead of the cluster's.
    #[arg(long = "meshConfigFile")]
    mesh_config: Option<PathBuf>,
    /// The ConfigMap that has it under "mesh"; that of a revision has its name behind it.
    #[arg(long = "meshConfigMapName", default_value = "istio")]
    mesh_config_map: String,
    /// The injector's values, as the ConfigMap istio-sidecar-injector has them under "values".
    #[arg(long = "valuesFile")]
    values: Option<PathBuf>,
    /// The injector's configuration, as that ConfigMap has it under "config": default templates, and templates in
    /// plain YAML. Istio's own templates are known by their names.
    #[arg(long = "injectConfigFile")]
    config: Option<PathBuf>,
    /// The ConfigMap that has them; that of a revision has its name behind it.
    #[arg(long = "injectConfigMapName", default_value = "istio-sidecar-injector", conflicts_with = "config")]
    config_map: String,
    /// Image of the sidecar; what its agent cannot do is refused.
    #[arg(long)]
    image: Option<String>,
    /// The revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
}

impl KubeInject {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let named = |e: String| format!("{}: {e}", self.filename.display());
        let text = input::read(&self.filename)?;
        let options = self.options(session)?;
        let injected = injector::kube_inject(&text, &options).map_err(|e| named(e.to_string()))?;
        match &self.output {
            Some(path) => std::fs::write(path, injected).map_err(|e| format!("{}: {e}", path.display()))?,
            None => print!("{injected}"),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, session: &Session) -> Result<Options, String> {
        let mut options = Options { namespace: session.global.namespace().to_owned(), ..Options::default() };
        if let Some(cluster) = self.cluster(session)? {
            options = self.of_cluster(cluster, &session.global.istio_namespace, options)?;
        }
        let from = |path: &PathBuf, read: &dyn Fn(&str) -> Result<Options, String>| {
            read(&input::read(path)?).map_err(|e| format!("{}: {e}", path.display()))
        };
        if let Some(path) = &self.values {
            options = from(path, &|text| options.clone().with_values(text))?;
        }
        if let Some(path) = &self.mesh_config {
            options = from(path, &|text| options.clone().with_mesh_config(text))?;
        }
        if let Some(path) = &self.config {
            options = from(path, &|text| options.clone().with_config(text))?;
        }
        if let Some(revision) = &self.revision {
            options.revision.clone_from(revision);
        }
        if let Some(image) = &self.image {
            options.image.clone_from(image);
        }
        Ok(options)
    }

    /// The cluster, when something is to be asked of it; nothing where none is known and none is named.
    fn cluster<'s>(&self, session: &'s Session) -> Result<Option<&'s ByCluster>, String> {
        if self.mesh_config.is_some() && self.values.is_some() {
            return Ok(None);
        }
        let global = &session.global;
        let named = global.kubeconfig.is_some() || global.context.is_some() || std::env::var_os("KUBECONFIG").is_some();
        match session.cluster() {
            Ok(cluster) => Ok(Some(cluster)),
            Err(reason) if named => Err(reason),
            Err(_) => Ok(None),
        }
    }

    /// What the cluster says, as far as no file does.
    fn of_cluster(&self, cluster: &ByCluster, namespace: &str, mut options: Options) -> Result<Options, String> {
        let revision = self.revision.as_deref().filter(|r| !r.is_empty() && *r != "default");
        let of_revision = |name: &str| revision.map_or_else(|| name.to_owned(), |r| format!("{name}-{r}"));
        let map = |name: &str| {
            let name = of_revision(name);
            let place = Place::list("v1", "configmaps", Some(namespace)).object(&name);
            let found = cluster.ask(async |c| c.read(&place).await)?;
            let hint = "choose another namespace with -i, a revision with -r, or name files";
            found.ok_or_else(|| format!("there is no ConfigMap {name} in namespace {namespace}; {hint}"))
        };
        let said = |map: &Value, key: &str| map["data"][key].as_str().map(str::to_owned);
        let wrong = |name: &str, key: &str, reason: String| format!("ConfigMap {}, {key}: {reason}", of_revision(name));
        let injector = if self.values.is_none() { Some(map(&self.config_map)?) } else { None };
        if let Some(text) = injector.as_ref().and_then(|m| said(m, "values")) {
            options = options.with_values(&text).map_err(|e| wrong(&self.config_map, "values", e))?;
        }
        if let Some(text) = injector.as_ref().and_then(|m| said(m, "config")).filter(|_| self.config.is_none()) {
            options = options.with_config(&text).map_err(|e| wrong(&self.config_map, "config", e))?;
        }
        if self.mesh_config.is_none() {
            let text = said(&map(&self.mesh_config_map)?, "mesh").unwrap_or_default();
            options = options.with_mesh_config(&text).map_err(|e| wrong(&self.mesh_config_map, "mesh", e))?;
        }
        let list = Place::list("networking.istio.io/v1beta1", "proxyconfigs", None);
        let settings = cluster.ask(async |c| match c.all(&list, None).await {
            Err(error) if error.is_absent() => Ok(Vec::new()),
            other => other,
        })?;
        // One that is refused is in force nowhere.
        let read = settings.into_iter().filter_map(|mut object| {
            object["apiVersion"] = "networking.istio.io/v1beta1".into();
            object["kind"] = "ProxyConfig".into();
            istio_api::read(&Document::bare(object), "").ok().flatten()
        });
        options.proxy_configs =
            read.filter_map(|r| if let Resource::ProxyConfig(o) = r { Some(o) } else { None }).collect();
        Ok(options)
    }
}
