//! What the mesh decides for all its pods, and where that is written: `MeshConfig` and the injector's values.

use std::collections::BTreeMap;
use std::sync::Arc;

use istio_api::extensions::ProxyConfig;
use istio_api::{Object, yaml};
use serde_json::{Map, Value, json};

/// What an image's pilot-agent can do. What it cannot is refused by name, before a pod is made that would not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Answers the application's probes on the status port.
    pub probes: bool,
    /// Merges the application's metrics into its own.
    pub metrics: bool,
    /// Redirects by TPROXY.
    pub tproxy: bool,
    /// Leaves network interfaces out, or takes those of virtual machines in.
    pub interfaces: bool,
    /// Runs as a gateway.
    pub router: bool,
    /// Serves applications that speak xDS themselves.
    pub grpc: bool,
    /// Opens a status port of the user's choice.
    pub status_port: bool,
    /// Holds to all settings of `ProxyConfig`.
    pub proxy_config: bool,
    /// Looks whether the CNI has redirected, as the init container of a pod that does not redirect itself.
    pub cni: bool,
    /// Comes with tools for debugging too, and without a distribution, as images of their own.
    pub variants: bool,
}

impl Abilities {
    /// Istio's own image.
    pub const ISTIO: Self = Self {
        probes: true,
        metrics: true,
        tproxy: true,
        interfaces: true,
        router: true,
        grpc: true,
        status_port: true,
        proxy_config: true,
        cni: true,
        variants: true,
    };

    /// This project's image.
    pub const OURS: Self = Self {
        probes: true,
        metrics: true,
        tproxy: false,
        interfaces: false,
        router: false,
        grpc: false,
        status_port: false,
        proxy_config: false,
        cni: false,
        variants: false,
    };

    /// Of an image, by its name: Istio's is called `proxyv2`.
    pub fn of(image: &str) -> Self {
        let name = image.rsplit('/').next().unwrap_or_default();
        if name.split([':', '@']).next() == Some("proxyv2") { Self::ISTIO } else { Self::OURS }
    }
}

/// What the mesh decides for all its pods.
#[derive(Debug, Clone)]
pub struct Options {
    /// Image of both containers that are added.
    pub image: String,
    /// When it is pulled; Kubernetes' own default when empty.
    pub pull_policy: String,
    /// Secrets to pull it with.
    pub pull_secrets: Vec<String>,
    /// Where proxies find istiod, `HOST:PORT`.
    pub discovery: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Domain of the cluster's names.
    pub domain: String,
    /// Id of the mesh; the trust domain when empty.
    pub mesh_id: String,
    /// Network of the pods; none when empty.
    pub network: String,
    /// The revision of the control plane, written to `istio.io/rev`.
    pub revision: String,
    /// Namespace of objects that name none.
    pub namespace: String,
    /// Resources of both containers.
    pub resources: Value,
    /// Level of the proxy's log, and of its parts.
    pub log_level: String,
    /// Levels of the proxy's parts.
    pub component_log_level: String,
    /// Levels of the agent's log.
    pub agent_log_level: String,
    /// Outbound ranges and ports that are captured, and inbound ones, and those left alone.
    pub capture: Capture,
    /// Port of the agent's status pages; 0 is none.
    pub status_port: u16,
    /// The sidecar's readiness.
    pub readiness: Readiness,
    /// Whether pods get a startup probe.
    pub startup: bool,
    /// Probes of the application are asked through the sidecar.
    pub rewrite_probes: bool,
    /// The application's metrics are merged into the sidecar's.
    pub merge_metrics: bool,
    /// Sidecars are init containers that stay.
    pub native: bool,
    /// The CNI redirects traffic; the init container only looks whether it did.
    pub cni: bool,
    /// Both containers run privileged.
    pub privileged: bool,
    /// The mesh's `defaultConfig`, as far as it differs from Istio's defaults.
    pub proxy_config: Map<String, Value>,
    /// Resources ProxyConfig; those that are about a pod stand above the mesh's settings and below its annotations.
    pub proxy_configs: Vec<Arc<Object<ProxyConfig>>>,
    /// The namespace whose ProxyConfigs are about every pod.
    pub root_namespace: String,
    /// Templates of the user, by name: pods in YAML that are merged into others.
    pub templates: BTreeMap<String, String>,
    /// Templates of pods that name none.
    pub default_templates: Vec<String>,
    /// Annotations of every injected pod.
    pub annotations: BTreeMap<String, String>,
}

/// What is captured.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is the value of the same name in Istio's global.proxy")]
pub struct Capture {
    pub include_ranges: String,
    pub exclude_ranges: String,
    pub include_inbound: String,
    pub exclude_inbound: String,
    pub include_outbound: String,
    pub exclude_outbound: String,
}

/// The sidecar's readiness probe.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each is the field of the same name in Kubernetes' probe")]
pub struct Readiness {
    pub initial_delay: u32,
    pub period: u32,
    pub failures: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            image: "meltemi:latest".to_owned(),
            pull_policy: String::new(),
            pull_secrets: Vec::new(),
            discovery: DISCOVERY.to_owned(),
            trust_domain: "cluster.local".to_owned(),
            cluster: "Kubernetes".to_owned(),
            domain: "cluster.local".to_owned(),
            mesh_id: String::new(),
            network: String::new(),
            revision: "default".to_owned(),
            namespace: "default".to_owned(),
            resources: json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}}),
            log_level: "warning".to_owned(),
            component_log_level: "misc:error".to_owned(),
            agent_log_level: "default:info".to_owned(),
            capture: Capture {
                include_ranges: "*".to_owned(),
                exclude_ranges: String::new(),
                include_inbound: "*".to_owned(),
                exclude_inbound: String::new(),
                include_outbound: String::new(),
                exclude_outbound: String::new(),
            },
            status_port: 15020,
            readiness: Readiness { initial_delay: 0, period: 15, failures: 4 },
            startup: true,
            rewrite_probes: true,
            merge_metrics: true,
            native: true,
            cni: false,
            privileged: false,
            proxy_config: Map::new(),
            proxy_configs: Vec::new(),
            root_namespace: "istio-system".to_owned(),
            templates: BTreeMap::new(),
            default_templates: vec!["sidecar".to_owned()],
            annotations: BTreeMap::new(),
        }
    }
}

/// Istio's default address of istiod.
pub(crate) const DISCOVERY: &str = "istiod.istio-system.svc:15012";

impl Options {
    /// Takes what a `MeshConfig` says about pods.
    ///
    /// # Errors
    /// When the text is no YAML.
    pub fn with_mesh_config(mut self, text: &str) -> Result<Self, String> {
        let config = first(text)?;
        if let Some(domain) = config["trustDomain"].as_str() {
            self.trust_domain = domain.to_owned();
        }
        set(&mut self.root_namespace, &config["rootNamespace"]);
        if let Some(merge) = config["enablePrometheusMerge"].as_bool() {
            self.merge_metrics = merge;
        }
        let Some(defaults) = config["defaultConfig"].as_object() else { return Ok(self) };
        self.proxy_config = defaults.clone();
        if let Some(address) = self.proxy_config.get("discoveryAddress").and_then(Value::as_str) {
            self.discovery = address.to_owned();
        }
        if self.discovery == DISCOVERY {
            self.proxy_config.shift_remove("discoveryAddress");
        }
        if let Some(id) = defaults.get("meshId").and_then(Value::as_str) {
            self.mesh_id = id.to_owned();
        }
        Ok(self)
    }

    /// Takes the injector's values, JSON or YAML, as Istio's ConfigMap `istio-sidecar-injector` has them.
    ///
    /// # Errors
    /// When the text is no YAML.
    pub fn with_values(mut self, text: &str) -> Result<Self, String> {
        let values = first(text)?;
        let global = &values["global"];
        let proxy = &global["proxy"];
        set(&mut self.pull_policy, &global["imagePullPolicy"]);
        set(&mut self.domain, &proxy["clusterDomain"]);
        set(&mut self.network, &global["network"]);
        set(&mut self.mesh_id, &global["meshID"]);
        set(&mut self.cluster, &global["multiCluster"]["clusterName"]);
        set(&mut self.agent_log_level, &global["logging"]["level"]);
        set(&mut self.log_level, &proxy["logLevel"]);
        set(&mut self.component_log_level, &proxy["componentLogLevel"]);
        set(&mut self.revision, &values["revision"]);
        let capture = &mut self.capture;
        set(&mut capture.include_ranges, &proxy["includeIPRanges"]);
        set(&mut capture.exclude_ranges, &proxy["excludeIPRanges"]);
        set(&mut capture.include_inbound, &proxy["includeInboundPorts"]);
        set(&mut capture.exclude_inbound, &proxy["excludeInboundPorts"]);
        set(&mut capture.include_outbound, &proxy["includeOutboundPorts"]);
        set(&mut capture.exclude_outbound, &proxy["excludeOutboundPorts"]);
        if let Some(image) = image(global, &proxy["image"]) {
            self.image = image;
        }
        if proxy["resources"].is_object() {
            self.resources = without_nulls(&proxy["resources"]);
        }
        number(&mut self.readiness.initial_delay, &proxy["readinessInitialDelaySeconds"]);
        number(&mut self.readiness.period, &proxy["readinessPeriodSeconds"]);
        number(&mut self.readiness.failures, &proxy["readinessFailureThreshold"]);
        if let Some(port) = proxy["statusPort"].as_u64().and_then(|p| u16::try_from(p).ok()) {
            self.status_port = port;
        }
        flag(&mut self.privileged, &proxy["privileged"]);
        flag(&mut self.startup, &proxy["startupProbe"]["enabled"]);
        let hook = &values["sidecarInjectorWebhook"];
        flag(&mut self.rewrite_probes, &hook["rewriteAppHTTPProbe"]);
        flag(&mut self.cni, &values["pilot"]["cni"]["enabled"]);
        flag(&mut self.cni, &values["istio_cni"]["enabled"]);
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        self.pull_secrets.extend(texts(&global["imagePullSecrets"]));
        let defaults = texts(&hook["defaultTemplates"]);
        if !defaults.is_empty() {
            self.default_templates = defaults;
        }
        for (name, template) in hook["templates"].as_object().into_iter().flatten() {
            self.templates.insert(name.clone(), template.as_str().unwrap_or_default().to_owned());
        }
        for (name, value) in hook["injectedAnnotations"].as_object().into_iter().flatten() {
            self.annotations.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        Ok(self)
    }

    /// Takes the injector's configuration, as Istio's ConfigMap `istio-sidecar-injector` has it. Istio's own templates
    /// are written in Go's language and known here by their names; others must be plain YAML, which is looked at when
    /// a pod asks for them.
    ///
    /// # Errors
    /// When the text is no YAML.
    pub fn with_config(mut self, text: &str) -> Result<Self, String> {
        let config = first(text)?;
        for (name, template) in config["templates"].as_object().into_iter().flatten() {
            self.templates.insert(name.clone(), template.as_str().unwrap_or_default().to_owned());
        }
        let defaults = config["defaultTemplates"].as_array().into_iter().flatten();
        let defaults: Vec<String> = defaults.filter_map(|t| t.as_str().map(str::to_owned)).collect();
        if !defaults.is_empty() {
            self.default_templates = defaults;
        }
        for (name, value) in config["injectedAnnotations"].as_object().into_iter().flatten() {
            self.annotations.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        Ok(self)
    }
}

fn first(text: &str) -> Result<Value, String> {
    let documents = yaml::parse(text).map_err(|e| e.to_string())?;
    Ok(documents.into_iter().next().map(|d| d.value).unwrap_or_default())
}

fn set(field: &mut String, value: &Value) {
    if let Some(text) = value.as_str() {
        text.clone_into(field);
    }
}

fn number(field: &mut u32, value: &Value) {
    if let Some(given) = value.as_u64().and_then(|n| u32::try_from(n).ok()) {
        *field = given;
    }
}

fn flag(field: &mut bool, value: &Value) {
    if let Some(given) = value.as_bool() {
        *field = given;
    }
}

/// An image with a path or a tag stands for itself; another is a name within the hub.
fn image(global: &Value, name: &Value) -> Option<String> {
    let name = name.as_str().filter(|n| !n.is_empty())?;
    if name.contains(['/', ':']) {
        return Some(name.to_owned());
    }
    let hub = global["hub"].as_str()?;
    let tag = match &global["tag"] {
        Value::String(tag) => tag.clone(),
        Value::Number(tag) => tag.to_string(),
        _ => return None,
    };
    Some(format!("{hub}/{name}:{tag}"))
}

/// Amounts that are null are not asked for.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        other => other.clone(),
    }
}
