//! Objects: metadata, kind, spec, and where they come from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::edge::{Gateway, Sidecar};
use crate::extensions::{EnvoyFilter, ProxyConfig, Telemetry, TrafficExtension, WasmPlugin};
use crate::kubernetes::{DeploymentSpec, EndpointSlice, Endpoints, PodSpec, PodStatus, ServiceSpec};
use crate::mesh::MeshConfig;
use crate::networking::{DestinationRule, VirtualService};
use crate::secret::Credential;
use crate::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::service_entry::{ServiceEntry, WorkloadEntry, WorkloadGroup};
use crate::validate::{self, FieldError};
use crate::yaml::{Document, Place};

/// Standard object metadata, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name within the namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, RFC 3339; empty in files, where order decides instead.
    pub creation_timestamp: Option<String>,
    /// Who made it.
    pub owner_references: Vec<OwnerReference>,
}

/// Who made an object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One object of a known kind.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Object<T: Default> {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: T,
}

/// Where an object stands: in a file, or in a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file; for an object of a cluster `Kind namespace/name`.
    pub file: PathBuf,
    /// From 1; 0 for an object of a cluster.
    pub line: u64,
    /// From 1; 0 for an object of a cluster.
    pub column: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return write!(f, "{}", self.file.display());
        }
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Any object this project understands.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "each variant is the kind of the same name")]
pub enum Resource {
    Namespace(Arc<Object<Value>>),
    Node(Arc<Object<Value>>),
    EndpointSlice(Arc<Object<EndpointSlice>>),
    Endpoints(Arc<Object<Endpoints>>),
    ServiceAccount(Arc<Object<Value>>),
    /// Only one that holds something of use for TLS.
    Secret(Arc<Object<Credential>>),
    Service(Arc<Object<ServiceSpec>>),
    Deployment(Arc<Object<DeploymentSpec>>),
    Pod(Arc<Object<PodSpec>>, Arc<PodStatus>),
    MeshConfig(Arc<Object<MeshConfig>>),
    VirtualService(Arc<Object<VirtualService>>),
    DestinationRule(Arc<Object<DestinationRule>>),
    PeerAuthentication(Arc<Object<PeerAuthentication>>),
    AuthorizationPolicy(Arc<Object<AuthorizationPolicy>>),
    RequestAuthentication(Arc<Object<RequestAuthentication>>),
    Telemetry(Arc<Object<Telemetry>>),
    ServiceEntry(Arc<Object<ServiceEntry>>),
    WorkloadEntry(Arc<Object<WorkloadEntry>>),
    WorkloadGroup(Arc<Object<WorkloadGroup>>),
    Sidecar(Arc<Object<Sidecar>>),
    ProxyConfig(Arc<Object<ProxyConfig>>),
}

impl Resource {
    /// Kind, namespace and name: no two objects share them.
    pub fn key(&self) -> (String, String, String) {
        let of = |kind: &str, meta: &ObjectMeta| (kind.to_owned(), meta.namespace.clone(), meta.name.clone());
        match self {
            Self::Namespace(o) => of("Namespace", &o.metadata),
            Self::Node(o) => of("Node", &o.metadata),
            Self::EndpointSlice(o) => of("EndpointSlice", &o.metadata),
            Self::Endpoints(o) => of("Endpoints", &o.metadata),
            Self::ServiceAccount(o) => of("ServiceAccount", &o.metadata),
            Self::Secret(o) => of("Secret", &o.metadata),
            Self::Service(o) => of("Service", &o.metadata),
            Self::Deployment(o) => of("Deployment", &o.metadata),
            Self::Pod(o, _) => of("Pod", &o.metadata),
            Self::MeshConfig(o) => of("ConfigMap", &o.metadata),
            Self::VirtualService(o) => of("VirtualService", &o.metadata),
            Self::DestinationRule(o) => of("DestinationRule", &o.metadata),
            Self::PeerAuthentication(o) => of("PeerAuthentication", &o.metadata),
            Self::AuthorizationPolicy(o) => of("AuthorizationPolicy", &o.metadata),
            Self::RequestAuthentication(o) => of("RequestAuthentication", &o.metadata),
            Self::Telemetry(o) => of("Telemetry", &o.metadata),
            Self::ServiceEntry(o) => of("ServiceEntry", &o.metadata),
            Self::WorkloadEntry(o) => of("WorkloadEntry", &o.metadata),
            Self::WorkloadGroup(o) => of("WorkloadGroup", &o.metadata),
            Self::Sidecar(o) => of("Sidecar", &o.metadata),
            Self::ProxyConfig(o) => of("ProxyConfig", &o.metadata),
        }
    }
}

/// Reads one document as an object. `None`: a kind that a mesh has no use for (and that changes nothing for it).
///
/// # Errors
/// What is wrong, with the JSON pointer of the place.
pub fn read(document: &Document, namespace: &str) -> Result<Option<Resource>, Vec<FieldError>> {
    let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    if kind.is_empty() || version.is_empty() {
        return Err(vec![FieldError::new("", "an object needs apiVersion and kind")]);
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    served(group, version, kind)?;
    let resource = match (group, kind) {
        ("", "Namespace") => Resource::Namespace(plain(document, "")?),
        ("", "Node") => Resource::Node(plain(document, "")?),
        ("discovery.k8s.io", "EndpointSlice") => {
            let outer: Arc<Object<Value>> = plain(document, namespace)?;
            Resource::EndpointSlice(beside(&outer, typed(document, "")?))
        }
        ("", "Endpoints") => {
            let outer: Arc<Object<Value>> = plain(document, namespace)?;
            Resource::Endpoints(beside(&outer, typed(document, "")?))
        }
        ("", "ServiceAccount") => Resource::ServiceAccount(plain(document, namespace)?),
        ("", "Secret") => {
            let Some(credential) = Credential::read(&document.value)? else { return Ok(None) };
            let mut outer: Object<Value> = (*plain(document, namespace)?).clone();
            // kubectl keeps whole objects there.
            outer.metadata.annotations.clear();
            Resource::Secret(beside(&outer, credential))
        }
        ("", "Service") => Resource::Service(plain(document, namespace)?),
        ("apps", "Deployment") => Resource::Deployment(plain(document, namespace)?),
        ("", "Pod") => {
            let status = document.part("/status").unwrap_or_else(|| Document::bare(Value::Object(Default::default())));
            Resource::Pod(plain(document, namespace)?, Arc::new(typed(&status, "/status")?))
        }
        ("", "ConfigMap") if text("/metadata/name") == "istio" => {
            let Some(mesh) = document.value.pointer("/data/mesh").and_then(Value::as_str) else { return Ok(None) };
            Resource::MeshConfig(mesh_config(document, mesh, namespace)?)
        }
        ("networking.istio.io", "VirtualService") => Resource::VirtualService(strict(document, namespace)?),
        ("networking.istio.io", "DestinationRule") => Resource::DestinationRule(strict(document, namespace)?),
        ("security.istio.io", "PeerAuthentication") => Resource::PeerAuthentication(strict(document, namespace)?),
        ("security.istio.io", "AuthorizationPolicy") => Resource::AuthorizationPolicy(strict(document, namespace)?),
        ("security.istio.io", "RequestAuthentication") => Resource::RequestAuthentication(strict(document, namespace)?),
        ("telemetry.istio.io", "Telemetry") => Resource::Telemetry(strict(document, namespace)?),
        ("networking.istio.io", "ServiceEntry") => Resource::ServiceEntry(strict(document, namespace)?),
        ("networking.istio.io", "WorkloadEntry") => Resource::WorkloadEntry(strict(document, namespace)?),
        ("networking.istio.io", "WorkloadGroup") => Resource::WorkloadGroup(strict(document, namespace)?),
        ("networking.istio.io", "Sidecar") => Resource::Sidecar(strict(document, namespace)?),
        ("networking.istio.io", "ProxyConfig") => Resource::ProxyConfig(strict(document, namespace)?),
        (group, kind) if group.ends_with("istio.io") => {
            crate::check(document)?;
            let reason = format!("{kind} is a kind of Istio that is not built yet; remove it");
            return Err(vec![FieldError::new("/kind", reason)]);
        }
        (
            "" | "apps" | "batch" | "rbac.authorization.k8s.io" | "policy" | "autoscaling",
            "ConfigMap"
            | "Role"
            | "RoleBinding"
            | "ClusterRole"
            | "ClusterRoleBinding"
            | "PodDisruptionBudget"
            | "HorizontalPodAutoscaler",
        ) => return Ok(None),
        (_, kind) => {
            let reason = format!("the kind {kind} of {version} is unknown here");
            return Err(vec![FieldError::new("/kind", reason)]);
        }
    };
    let mut errors = validate::resource(&resource);
    // An empty map and none look alike once they are typed; Kubernetes refuses the empty one.
    if document.value.pointer("/spec/portLevelMtls").and_then(Value::as_object).is_some_and(|m| m.is_empty()) {
        errors.push(FieldError::new("/spec/portLevelMtls", "portLevelMtls is empty; name a port or remove it"));
    }
    if errors.is_empty() { Ok(Some(resource)) } else { Err(errors) }
}

/// Checks the fields of an Istio object against its schema, also of kinds that are not in force yet; every other kind
/// passes.
///
/// # Errors
/// Unknown fields and wrong types, with the JSON pointer of the place.
pub fn schema(document: &Document) -> Result<(), Vec<FieldError>> {
    let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("networking.istio.io", "VirtualService") => shape::<VirtualService>(document),
        ("networking.istio.io", "DestinationRule") => shape::<DestinationRule>(document),
        ("networking.istio.io", "ServiceEntry") => shape::<ServiceEntry>(document),
        ("networking.istio.io", "WorkloadEntry") => shape::<WorkloadEntry>(document),
        ("networking.istio.io", "WorkloadGroup") => shape::<WorkloadGroup>(document),
        ("networking.istio.io", "Sidecar") => shape::<Sidecar>(document),
        ("networking.istio.io", "Gateway") => shape::<Gateway>(document),
        ("networking.istio.io", "EnvoyFilter") => shape::<EnvoyFilter>(document),
        ("networking.istio.io", "ProxyConfig") => shape::<ProxyConfig>(document),
        ("security.istio.io", "AuthorizationPolicy") => shape::<AuthorizationPolicy>(document),
        ("security.istio.io", "PeerAuthentication") => shape::<PeerAuthentication>(document),
        ("security.istio.io", "RequestAuthentication") => shape::<RequestAuthentication>(document),
        ("telemetry.istio.io", "Telemetry") => shape::<Telemetry>(document),
        ("extensions.istio.io", "WasmPlugin") => shape::<WasmPlugin>(document),
        ("extensions.istio.io", "TrafficExtension") => shape::<TrafficExtension>(document),
        _ => return Ok(()),
    }?;
    served(group, version, kind)
}

fn shape<T: Default + DeserializeOwned>(document: &Document) -> Result<(), Vec<FieldError>> {
    strict::<T>(document, "default").map(|_| ())
}

/// The versions in which Istio serves its kinds.
fn served(group: &str, version: &str, kind: &str) -> Result<(), Vec<FieldError>> {
    let versions: &[&str] = match (group, kind) {
        ("networking.istio.io", "EnvoyFilter") => &["v1alpha3"],
        ("networking.istio.io", "ProxyConfig") => &["v1beta1"],
        ("networking.istio.io", _) => &["v1alpha3", "v1beta1", "v1"],
        ("security.istio.io", _) => &["v1beta1", "v1"],
        ("telemetry.istio.io", _) => &["v1alpha1", "v1"],
        ("extensions.istio.io", _) => &["v1alpha1"],
        _ => return Ok(()),
    };
    let given = version.split_once('/').map_or("", |(_, v)| v);
    if versions.contains(&given) {
        return Ok(());
    }
    let reason = format!("{kind} is served in {}, not in {given}", versions.join(", "));
    Err(vec![FieldError::new("/apiVersion", reason)])
}

fn mesh_config(document: &Document, text: &str, namespace: &str) -> Result<Arc<Object<MeshConfig>>, Vec<FieldError>> {
    let at = "/data/mesh";
    let inner = crate::yaml::parse(text).map_err(|e| vec![FieldError::new(at, format!("MeshConfig: {e}"))])?;
    let inner = inner.into_iter().next().unwrap_or_default();
    let spec = if inner.value.is_null() { MeshConfig::default() } else { typed(&inner, at)? };
    Ok(beside(&*plain(document, namespace)?, spec))
}

/// An object whose content does not stand under `spec`.
fn beside<T: Default>(outer: &Object<Value>, spec: T) -> Arc<Object<T>> {
    Arc::new(Object {
        metadata: outer.metadata.clone(),
        api_version: outer.api_version.clone(),
        kind: outer.kind.clone(),
        spec,
    })
}

/// A Kubernetes object: fields that are not modelled are passed over.
fn plain<T: Default + DeserializeOwned>(
    document: &Document,
    namespace: &str,
) -> Result<Arc<Object<T>>, Vec<FieldError>> {
    let mut object: Object<T> = typed(document, "")?;
    named(&mut object.metadata, namespace)?;
    Ok(Arc::new(object))
}

/// An Istio object: nothing but `apiVersion`, `kind`, `metadata`, `spec` and `status` stands beside each other, and
/// the spec's own type refuses what it does not know.
pub(crate) fn strict<T: Default + DeserializeOwned>(
    document: &Document,
    namespace: &str,
) -> Result<Arc<Object<T>>, Vec<FieldError>> {
    let known = |key: &&String| !["apiVersion", "kind", "metadata", "spec", "status"].contains(&key.as_str());
    if let Some(key) = document.value.as_object().and_then(|map| map.keys().find(known)) {
        return Err(vec![FieldError::new(&format!("/{key}"), format!("unknown field \"{key}\""))]);
    }
    let mut object: Object<T> = typed(&document.without_nulls(), "")?;
    named(&mut object.metadata, namespace)?;
    Ok(Arc::new(object))
}

fn named(metadata: &mut ObjectMeta, namespace: &str) -> Result<(), Vec<FieldError>> {
    if metadata.name.is_empty() {
        return Err(vec![FieldError::new("/metadata", "an object needs metadata.name")]);
    }
    if metadata.namespace.is_empty() {
        metadata.namespace = namespace.to_owned();
    }
    Ok(())
}

/// A value as a type; a mistake comes with its place.
pub(crate) fn typed<T: DeserializeOwned>(document: &Document, under: &str) -> Result<T, Vec<FieldError>> {
    serde_path_to_error::deserialize(&document.value).map_err(|error| {
        let mut pointer = under.to_owned();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } | Segment::Enum { variant: key } => pointer.push_str(&format!("/{key}")),
                Segment::Unknown => {}
            }
        }
        vec![FieldError::new(&pointer, explain(&error.inner().to_string()))]
    })
}

/// serde's words, made ours: the list of known fields becomes the nearest one.
fn explain(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else { return message.to_owned() };
    let Some((name, list)) = rest.split_once('`') else { return message.to_owned() };
    let known = list.split('`').skip(1).step_by(2);
    let nearest = known.map(|k| (distance(name, k), k)).min().filter(|(d, _)| *d <= 3);
    if NOT_BUILT.contains(&name) {
        return format!("the field \"{name}\" is not built yet; remove it");
    }
    match nearest {
        Some((_, near)) => format!("unknown field \"{name}\"; did you mean \"{near}\"?"),
        None => format!("unknown field \"{name}\""),
    }
}

/// Fields of Istio that have no type here.
const NOT_BUILT: &[&str] = &[
    "attributes",
    "spaceDelimitedClaims",
    // MeshConfig
    "proxyHttpPort",
    "ingressClass",
    "ingressService",
    "ingressControllerMode",
    "ingressSelector",
    "enableEnvoyAccessLogService",
    "inboundTrafficPolicy",
    "configSources",
    "caCertificates",
    "dnsRefreshRate",
    "inboundClusterStatName",
    "outboundClusterStatName",
    "certificates",
    "serviceSettings",
    "verifyCertificateAtClient",
    "defaultHttpRetryPolicy",
    "meshMTLS",
    "tlsDefaults",
    "defaultTrafficPolicy",
    "serviceEntryVisibility",
    // its providers
    "dynatraceSampler",
    "serviceAttributeEnrichment",
    "enable64bitTraceId",
    "dynatrace",
    "envName",
    "omitEmptyValues",
    // its tracing
    "tlsSettings",
    "envoyExtAuthzHttp",
    "envoyExtAuthzGrpc",
    "datadog",
    "skywalking",
    "lightstep",
    "opencensus",
    "stackdriver",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyOtelAls",
    "sds",
    // its ProxyConfig
    "configPath",
    "binaryPath",
    "serviceCluster",
    "tracingServiceName",
    "statsdUdpAddress",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "statNameLength",
    "proxyBootstrapTemplatePath",
    "envoyAccessLogService",
    "envoyMetricsService",
    "extraStatTags",
    "gatewayTopology",
    "readinessProbe",
    "proxyStatsMatcher",
    "caCertificatesPem",
    "privateKeyProvider",
    "runtimeValues",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "statsCompression",
    "connectionSettings",
    // its headers
    "forwardedClientCert",
    "setCurrentClientCertDetails",
    "requestId",
    "server",
    "attemptCount",
    "envoyDebugHeaders",
    "metadataExchangeHeaders",
    "xForwardedHost",
    "xForwardedPort",
];

/// Edits from one word to another.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

/// The place of a mistake in its file.
pub fn place(document: &Document, error: &FieldError) -> Place {
    document.place(&error.pointer)
}
