//! What a sidecar is told, from the environment of an injected container.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use telemetry::Workload;

use crate::app_probes::AppProbes;
use crate::drain::DrainOptions;
use crate::merge::Scrape;

/// Where Kubernetes writes a pod's labels (volume istio-podinfo), one a line: `key="value"`.
const POD_LABELS: &str = "/etc/istio/pod/labels";

/// What a sidecar is told.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The pod's name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its service account.
    pub service_account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What made it.
    pub workload: String,
    /// The cluster it runs in.
    pub cluster: String,
    /// Who vouches for identities.
    pub trust_domain: String,
    /// Where istiod is: `HOST:PORT`.
    pub discovery: String,
    /// The name in istiod's certificate.
    pub istiod_name: String,
    /// The service account's token.
    pub token: PathBuf,
    /// Roots by which istiod is verified.
    pub roots: PathBuf,
    /// The proxy's configuration as it was injected; the control plane gets it to see.
    pub proxy_config: Value,
    /// Where files and sockets of a stock Envoy are kept.
    pub config_path: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Life of a certificate to ask for, in seconds; 0 leaves it to istiod.
    pub certificate_seconds: i64,
    /// More of the node's metadata, from variables `ISTIO_META_*`: what istiod may look at.
    pub node_metadata: BTreeMap<String, String>,
    /// Probes and hooks of the application that the kubelet asks us for (`ISTIO_KUBE_APP_PROBERS`).
    pub app_probes: AppProbes,
    /// Where the application shows metrics (`ISTIO_PROMETHEUS_ANNOTATIONS`).
    pub scrape: Scrape,
    /// How it ends.
    pub drain: DrainOptions,
}

/// What is missing or wrong in the environment.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A variable is missing.
    #[error("the environment variable {0} is missing; an injected container has it")]
    Missing(&'static str),
    /// A variable is malformed.
    #[error("the environment variable {0} is wrong: {1}")]
    Wrong(&'static str, String),
}

/// Values of labels need no escapes.
fn pod_labels(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (key, value) = line.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

impl AgentOptions {
    /// Reads the environment as Istio's injector fills it.
    ///
    /// # Errors
    /// What is missing or malformed.
    pub fn from_env() -> Result<Self, OptionsError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|v: &String| !v.is_empty());
        let needed = |name: &'static str| variable(name).ok_or(OptionsError::Missing(name));
        let config: Value = match variable("PROXY_CONFIG") {
            Some(text) => serde_json::from_str(&text)
                .map_err(|e| OptionsError::Wrong("PROXY_CONFIG", format!("{e}; it must be JSON")))?,
            None => Value::Null,
        };
        let labels = match variable("ISTIO_METAJSON_LABELS") {
            Some(text) => {
                serde_json::from_str(&text).map_err(|e| OptionsError::Wrong("ISTIO_METAJSON_LABELS", e.to_string()))?
            }
            None => std::fs::read_to_string(POD_LABELS).map(|text| pod_labels(&text)).unwrap_or_default(),
        };
        const PROBES: &str = "ISTIO_KUBE_APP_PROBERS";
        let app_probes = variable(PROBES).map(|text| AppProbes::parse(&text)).transpose();
        const SCRAPE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
        let scrape = variable(SCRAPE).map(|text| Scrape::parse(&text)).transpose();
        let pod = needed("POD_NAME")?;
        let ip = needed("INSTANCE_IP")?;
        let discovery = config.get("discoveryAddress").and_then(Value::as_str).map(str::to_owned);
        let discovery = discovery.or_else(|| variable("CA_ADDR"));
        let concurrency = config.get("concurrency").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let config_path = config.get("configPath").and_then(Value::as_str).unwrap_or("./etc/istio/proxy");
        let config_path = PathBuf::from(config_path);
        let path = |name, default: &str| PathBuf::from(variable(name).unwrap_or_else(|| default.to_owned()));
        Ok(Self {
            namespace: needed("POD_NAMESPACE")?,
            ip: ip.parse().map_err(|_| OptionsError::Wrong("INSTANCE_IP", format!("\"{ip}\" is not an address")))?,
            service_account: variable("SERVICE_ACCOUNT").unwrap_or_else(|| "default".to_owned()),
            labels,
            workload: variable("ISTIO_META_WORKLOAD_NAME").unwrap_or_else(|| pod.clone()),
            cluster: variable("ISTIO_META_CLUSTER_ID").unwrap_or_else(|| "Kubernetes".to_owned()),
            trust_domain: variable("TRUST_DOMAIN").unwrap_or_else(|| "cluster.local".to_owned()),
            discovery: discovery.unwrap_or_else(|| "istiod.istio-system.svc:15012".to_owned()),
            istiod_name: variable("ISTIOD_SAN").unwrap_or_else(|| "istiod.istio-system.svc".to_owned()),
            token: path("ISTIO_TOKEN_PATH", "/var/run/secrets/tokens/istio-token"),
            roots: path("ISTIO_ROOT_CERT_PATH", "/var/run/secrets/istio/root-cert.pem"),
            config_path,
            // Istio's default of a sidecar is two.
            workers: concurrency.filter(|n| *n > 0).unwrap_or(2),
            certificate_seconds: 0,
            node_metadata: std::env::vars()
                .filter_map(|(name, value)| Some((name.strip_prefix("ISTIO_META_")?.to_owned(), value)))
                .collect(),
            app_probes: app_probes.map_err(|why| OptionsError::Wrong(PROBES, why))?.unwrap_or_default(),
            scrape: scrape.map_err(|why| OptionsError::Wrong(SCRAPE, why))?.unwrap_or_default(),
            drain: DrainOptions::read(&config, &variable).map_err(|(name, why)| OptionsError::Wrong(name, why))?,
            proxy_config: config,
            pod,
        })
    }

    /// `sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`
    pub fn node_id(&self) -> String {
        let Self { ip, pod, namespace, .. } = self;
        format!("sidecar~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local")
    }

    /// The node's cluster, under which collectors of traces know this workload: the label `app` (without it the workload's
    /// name) and the namespace, Istio's `APP_LABEL_AND_NAMESPACE`.
    pub fn service_cluster(&self) -> String {
        let app = self.labels.get("app").filter(|app| !app.is_empty()).unwrap_or(&self.workload);
        format!("{app}.{}", self.namespace)
    }

    /// Whether the proxy is to know its own replicas (`ISTIO_META_ENABLE_SELF_DISCOVERY`), for zone aware balancing.
    pub fn self_discovery(&self) -> bool {
        self.node_metadata.get("ENABLE_SELF_DISCOVERY").is_some_and(|value| value == "true" || value == "1")
    }

    /// Where the pod is, as far as its labels say: region, zone and subzone, with dots or slashes between them.
    pub fn locality(&self) -> Option<[String; 3]> {
        let label = |key: &str| self.labels.get(key).cloned().unwrap_or_default();
        let whole = ["topology.istio.io/locality", "istio-locality"].iter().find_map(|key| self.labels.get(*key));
        let parts = match whole {
            Some(text) => {
                let between = if text.contains('/') { '/' } else { '.' };
                let mut parts = text.splitn(3, between).map(str::to_owned);
                std::array::from_fn(|_| parts.next().unwrap_or_default())
            }
            // Newer clusters copy these from the node.
            None => [
                label("topology.kubernetes.io/region"),
                label("topology.kubernetes.io/zone"),
                label("topology.istio.io/subzone"),
            ],
        };
        parts.iter().any(|part| !part.is_empty()).then_some(parts)
    }

    /// The node's metadata, under Istio's names.
    pub fn metadata(&self) -> Value {
        let labels: Map<String, Value> = self.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let mut metadata = json!({
            "NAME": self.pod, "NAMESPACE": self.namespace, "SERVICE_ACCOUNT": self.service_account, "LABELS": labels,
            "WORKLOAD_NAME": self.workload, "CLUSTER_ID": self.cluster, "INSTANCE_IPS": self.ip.to_string(),
            "INTERCEPTION_MODE": "REDIRECT", "ISTIO_VERSION": env!("CARGO_PKG_VERSION"), "MESH_ID": self.node_metadata.get("MESH_ID").unwrap_or(&self.trust_domain),
            "PILOT_SAN": [self.istiod_name], "PROXY_CONFIG": self.proxy_config,
        });
        for (name, value) in &self.node_metadata {
            if metadata.get(name).is_none() {
                metadata[name] = json!(value);
            }
        }
        metadata
    }

    /// The workload as metrics describe it.
    pub fn telemetry(&self) -> Workload {
        let label = |keys: &[&str]| keys.iter().find_map(|k| self.labels.get(*k)).map(|v| v.as_str().into());
        let unknown = Workload::unknown();
        let app = label(&["app", "app.kubernetes.io/name"]);
        let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        Workload {
            name: self.workload.as_str().into(),
            namespace: self.namespace.as_str().into(),
            principal: format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
                .into(),
            app: app.unwrap_or_else(|| unknown.app.clone()),
            version: label(&["version"]).unwrap_or_else(|| unknown.version.clone()),
            canonical_service: canonical.unwrap_or_else(|| self.workload.as_str().into()),
            canonical_revision: revision.unwrap_or_else(|| unknown.canonical_revision.clone()),
            cluster: self.cluster.as_str().into(),
        }
    }
}

#[cfg(test)]
impl AgentOptions {
    /// A pod of a test.
    pub(crate) fn sample() -> Self {
        Self {
            pod: "pay-1".to_owned(),
            namespace: "production".to_owned(),
            ip: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
            service_account: "pay".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "pay".to_owned())]),
            workload: "pay".to_owned(),
            cluster: "Kubernetes".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            discovery: "127.0.0.1:1".to_owned(),
            istiod_name: "istiod.istio-system.svc".to_owned(),
            token: PathBuf::from("/nowhere/token"),
            roots: PathBuf::from("/nowhere/root.pem"),
            proxy_config: Value::Null,
            config_path: PathBuf::from("/nowhere"),
            node_metadata: BTreeMap::new(),
            app_probes: AppProbes::default(),
            scrape: Scrape::default(),
            drain: DrainOptions::default(),
            workers: 1,
            certificate_seconds: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_where_a_pod_is() {
        let at = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            AgentOptions { labels, ..AgentOptions::sample() }.locality().map(|parts| parts.join("|"))
        };
        assert_eq!(at(&[("app", "pay")]), None);
        assert_eq!(at(&[("istio-locality", "r.z.s")]).as_deref(), Some("r|z|s"));
        assert_eq!(at(&[("istio-locality", "r/z.1")]).as_deref(), Some("r|z.1|"));
        assert_eq!(at(&[("istio-locality", "r.z"), ("topology.istio.io/locality", "q")]).as_deref(), Some("q||"));
        let node = [("topology.kubernetes.io/region", "r"), ("topology.kubernetes.io/zone", "z")];
        assert_eq!(at(&node).as_deref(), Some("r|z|"));
    }

    #[test]
    fn collectors_know_a_workload_by_its_app() {
        let mut options = AgentOptions { workload: "pay-v1".to_owned(), ..AgentOptions::sample() };
        assert_eq!(options.service_cluster(), "pay.production");
        options.labels.clear();
        assert_eq!(options.service_cluster(), "pay-v1.production");
    }
}
