//! The parts of Kubernetes objects that decide what runs: containers, probes, selectors, ports.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

type Labels = BTreeMap<String, String>;

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    /// Its labels ask for a sidecar in each pod.
    pub injected: bool,
    /// Its labels forbid one.
    pub never_injected: bool,
}

impl Namespace {
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let metadata: Metadata = field(value, "metadata")?;
        let injection = metadata.labels.get("istio-injection").map(String::as_str);
        Ok(Self {
            injected: injection == Some("enabled")
                || (injection.is_none() && metadata.labels.contains_key("istio.io/rev")),
            never_injected: injection == Some("disabled"),
        })
    }
}

/// Pods that are to run: a Deployment, or a single Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// False for a bare Pod, which keeps its name.
    pub deployment: bool,
    /// How many pods.
    pub replicas: usize,
    /// What each pod is.
    pub template: Template,
    /// Differs when the template does; part of the pods' names.
    pub hash: String,
}

/// What one pod is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// Labels of the pod.
    pub labels: Labels,
    /// Annotations of the pod.
    pub annotations: Labels,
    /// The account whose identity it has.
    pub service_account: String,
    /// From the beginning of its end to SIGKILL.
    pub grace: Duration,
    /// Whether a container that ends is started again.
    pub restart: Restart,
    /// The application's processes.
    pub containers: Vec<Container>,
    /// The pod's spec as it was written, for istiod.
    pub spec: Value,
}

/// One process of a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Unique in the pod.
    pub name: String,
    /// Shown, never pulled: the process comes from `command`.
    pub image: String,
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<EnvVar>,
    /// Ports it listens on.
    pub ports: Vec<ContainerPort>,
    /// Decides whether it gets traffic.
    pub readiness_probe: Option<Probe>,
    /// What is done before it ends.
    pub lifecycle: Option<Lifecycle>,
    /// The folder it starts in.
    pub working_dir: Option<String>,
}

/// One environment variable.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// A fixed value.
    pub value: Option<String>,
    /// A value from the pod.
    pub value_from: Option<ValueFrom>,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ValueFrom {
    /// The downward API; the only source the laptop has.
    pub field_ref: Option<FieldRef>,
}

/// A field of the pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    /// `metadata.name` and so on.
    pub field_path: String,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// May be named by a Service's targetPort.
    pub name: String,
    /// The number.
    pub container_port: u16,
}

/// What is done around a container's life.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lifecycle {
    /// Before SIGTERM.
    pub pre_stop: Option<Handler>,
    /// After the start; refused.
    post_start: Option<Value>,
}

/// One hook.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Handler {
    /// A command.
    pub exec: Option<Exec>,
    /// A `GET`.
    pub http_get: Option<HttpGet>,
    /// Nothing, for a while.
    pub sleep: Option<Sleep>,
}

/// A pause.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Sleep {
    /// How long.
    pub seconds: u64,
}

/// Whether a container that ends is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    #[default]
    Always,
    /// When it has failed.
    OnFailure,
    /// Never.
    Never,
}

/// How readiness is asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Ready when the answer is 200-399.
    pub http_get: Option<HttpGet>,
    /// Ready when a connection can be made.
    pub tcp_socket: Option<TcpSocket>,
    /// Ready when the command ends with 0.
    pub exec: Option<Exec>,
    /// Seconds between two.
    pub period_seconds: Option<u64>,
    /// Seconds that one may take.
    pub timeout_seconds: Option<u64>,
    /// Failures in a row that make it unready.
    pub failure_threshold: Option<u32>,
}

/// An HTTP probe.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpGet {
    /// The path.
    pub path: String,
    /// Number or name.
    pub port: Value,
}

/// A TCP probe.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TcpSocket {
    /// Number or name.
    pub port: Value,
}

/// A command probe.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
}

impl Workload {
    pub(crate) fn parse(kind: &str, namespace: &str, name: &str, value: &Value) -> Result<Self, String> {
        let deployment = kind == "Deployment";
        let (pod, replicas) = if deployment {
            let template =
                value.pointer("/spec/template").ok_or_else(|| format!("Deployment {name}: no spec.template"))?;
            let replicas = value.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
            (template, usize::try_from(replicas).unwrap_or(usize::MAX).min(200))
        } else {
            (value, 1)
        };
        let template = Template::parse(pod).map_err(|e| format!("{kind} {name}: {e}"))?;
        if deployment {
            if template.restart != Restart::Always {
                return Err(format!("Deployment {name}: spec.template.spec.restartPolicy: only Always is allowed"));
            }
            let wanted: Labels = optional(value.pointer("/spec/selector/matchLabels"))?;
            if let Some((key, label)) = wanted.iter().find(|(k, v)| template.labels.get(*k) != Some(v)) {
                return Err(format!(
                    "Deployment {name}: spec.selector wants {key}={label}, the template's labels do not have it"
                ));
            }
        }
        let hash = pod_hash(&serde_json::to_string(pod).unwrap_or_default());
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), deployment, replicas, template, hash })
    }
}

impl Template {
    fn parse(pod: &Value) -> Result<Self, String> {
        let metadata: Metadata = optional(pod.get("metadata"))?;
        let spec = pod.get("spec").cloned().unwrap_or_default();
        let containers: Vec<Container> =
            optional(spec.get("containers")).map_err(|e| format!("spec.containers: {e}"))?;
        if containers.is_empty() {
            return Err("spec.containers is empty".to_owned());
        }
        if spec.get("initContainers").is_some_and(|v| v.as_array().is_some_and(|a| !a.is_empty())) {
            return Err("spec.initContainers are not run by the laptop mesh".to_owned());
        }
        for container in &containers {
            container.check()?;
        }
        let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or("default").to_owned();
        let restart = match spec.get("restartPolicy").and_then(Value::as_str) {
            None | Some("Always") => Restart::Always,
            Some("OnFailure") => Restart::OnFailure,
            Some("Never") => Restart::Never,
            Some(other) => return Err(format!("spec.restartPolicy: `{other}` is none of Always, OnFailure, Never")),
        };
        let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
        Ok(Self {
            labels: metadata.labels,
            annotations: metadata.annotations,
            service_account: account,
            grace: Duration::from_secs(grace.min(600)),
            restart,
            containers,
            spec,
        })
    }
}

impl Container {
    /// What is done before SIGTERM.
    pub fn pre_stop(&self) -> Option<&Handler> {
        self.lifecycle.as_ref()?.pre_stop.as_ref()
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if self.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()) {
            return Err(format!("container {name}: lifecycle.postStart is not run by the laptop mesh"));
        }
        if name.is_empty() {
            return Err("a container has no name".to_owned());
        }
        if self.command.is_empty() {
            return Err(format!(
                "container {name}: no command; the laptop mesh runs local processes and cannot know an image's entry point"
            ));
        }
        for env in &self.env {
            let unknown = env.value_from.as_ref().is_some_and(|v| v.field_ref.is_none());
            if unknown {
                return Err(format!(
                    "container {name}: env {}: only value and valueFrom.fieldRef are supported",
                    env.name
                ));
            }
        }
        Ok(())
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Pods with these labels are behind it.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `None` as a cluster IP: the name stands for the pods themselves.
    pub headless: bool,
    /// A cluster IP that the user chose.
    pub cluster_ip: Option<std::net::Ipv4Addr>,
    /// The name stands for another one.
    pub external_name: Option<String>,
    /// As it was written, for istiod.
    pub value: Value,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name.
    pub name: String,
    /// What clients dial.
    pub port: u16,
    /// What pods listen on: a number, a container port's name, or nothing for the same.
    pub target_port: Value,
    /// TCP when empty.
    pub protocol: String,
}

impl Service {
    pub(crate) fn parse(namespace: &str, name: &str, value: &Value) -> Result<Self, String> {
        let spec = value.get("spec").cloned().unwrap_or_default();
        let what = |e: String| format!("Service {name}: {e}");
        let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default();
        let cluster_ip = match text("clusterIP") {
            "" | "None" => None,
            ip => Some(ip.parse().map_err(|_| what(format!("spec.clusterIP: `{ip}` is not an IPv4 address")))?),
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            selector: optional(spec.get("selector")).map_err(what)?,
            ports: optional(spec.get("ports")).map_err(what)?,
            headless: text("clusterIP") == "None",
            cluster_ip,
            external_name: (text("type") == "ExternalName").then(|| text("externalName").to_owned()),
            value: value.clone(),
        })
    }

    /// True when the pod is behind this service; a service without a selector has no pods.
    pub fn selects(&self, labels: &Labels) -> bool {
        !self.selector.is_empty() && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// The number a port value stands for: itself, or the container port of that name.
pub(crate) fn resolve_port(value: &Value, containers: &[Container]) -> Option<u16> {
    match value {
        Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(name) => name
            .parse()
            .ok()
            .or_else(|| containers.iter().flat_map(|c| &c.ports).find(|p| p.name == *name).map(|p| p.container_port)),
        _ => None,
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    labels: Labels,
    annotations: Labels,
}

fn field<T: serde::de::DeserializeOwned>(value: &Value, name: &str) -> Result<T, String> {
    let inner = value.get(name).cloned().unwrap_or_default();
    serde_json::from_value(inner).map_err(|e| format!("{name}: {e}"))
}

fn optional<T: serde::de::DeserializeOwned + Default>(value: Option<&Value>) -> Result<T, String> {
    match value {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone()).map_err(|e| e.to_string()),
    }
}

/// Ten letters and digits, as a ReplicaSet's hash looks; vowels are left out so that no words arise.
fn pod_hash(template: &str) -> String {
    letters(xxhash_rust::xxh64::xxh64(template.as_bytes(), 0), 10)
}

/// The letters of Kubernetes' generated names.
pub(crate) fn letters(mut number: u64, count: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let base = ALPHABET.len() as u64;
    (0..count)
        .map(|_| {
            let letter = ALPHABET.get((number % base) as usize).copied().unwrap_or(b'x');
            number /= base;
            char::from(letter)
        })
        .collect()
}
