//! MeshConfig, as far as it is built.
#![allow(missing_docs, reason = "each field is Istio's of the same name; its reference documents them")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::extensions::ProxyImage;
use crate::networking::{ClientTlsSettings, LocalityLbSetting, TcpKeepalive, ZoneAwareLbSetting};
use crate::providers::{FileAccessLog, OpenTelemetry, ProxyTracing, Zipkin};

/// The mesh's configuration (ConfigMap `istio` in the root namespace, key `mesh`).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MeshConfig {
    pub access_log_file: Option<String>,
    pub access_log_encoding: Option<String>,
    pub access_log_format: Option<String>,
    pub disable_envoy_listener_log: bool,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub trust_domain: Option<String>,
    pub trust_domain_aliases: Vec<String>,
    pub enable_auto_mtls: Option<bool>,
    pub root_namespace: Option<String>,
    pub discovery_selectors: Vec<crate::selector::LabelSelector>,
    #[serde(with = "crate::duration")]
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    #[serde(with = "crate::duration")]
    pub protocol_detection_timeout: Option<Duration>,
    pub default_service_export_to: Vec<String>,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
    pub h2_upgrade_policy: Option<String>,
    pub path_normalization: Option<PathNormalization>,
    pub proxy_listen_port: Option<u16>,
    pub proxy_inbound_listen_port: Option<u16>,
    /// Whether the sidecar's metrics come with the application's; without a word they do.
    pub enable_prometheus_merge: Option<bool>,
    pub extension_providers: Vec<ExtensionProvider>,
    pub default_providers: Option<DefaultProviders>,
    /// Whether anything is traced; without a word it is, where there is a provider.
    pub enable_tracing: Option<bool>,
    pub default_config: Option<ProxySettings>,
    /// Places that traffic prefers where neither a DestinationRule nor the Service says; on without a word.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// The same by zones; counts before `localityLbSetting`.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
}

impl MeshConfig {
    /// Whether sidecars count requests and connections (`defaultProviders.metrics`): without a word they do, as with the
    /// values that Istio installs with; an empty list switches it off.
    pub fn metrics(&self) -> bool {
        self.default_providers.as_ref().and_then(|p| p.metrics.as_ref()).is_none_or(|names| !names.is_empty())
    }
}

/// A party outside the mesh, by the name others refer to it. Exactly one kind is given.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExtensionProvider {
    pub name: String,
    /// Prometheus, which asks for metrics itself: it needs no settings.
    pub prometheus: Option<NoSettings>,
    pub zipkin: Option<Zipkin>,
    pub opentelemetry: Option<OpenTelemetry>,
    pub envoy_file_access_log: Option<FileAccessLog>,
}

impl ExtensionProvider {
    /// The kinds that are given.
    pub fn kinds(&self) -> Vec<&'static str> {
        [
            ("prometheus", self.prometheus.is_some()),
            ("zipkin", self.zipkin.is_some()),
            ("opentelemetry", self.opentelemetry.is_some()),
            ("envoyFileAccessLog", self.envoy_file_access_log.is_some()),
        ]
        .into_iter()
        .filter_map(|(kind, given)| given.then_some(kind))
        .collect()
    }
}

/// `{}`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Who gets what no Telemetry resource says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DefaultProviders {
    /// An empty list is none; without a list it is Prometheus.
    pub metrics: Option<Vec<String>>,
    pub tracing: Vec<String>,
    pub access_logging: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<String>,
    pub tls: Option<ClientTlsSettings>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PathNormalization {
    pub normalization: Option<String>,
}

/// Settings of one proxy: `defaultConfig` of the mesh, and the annotation `proxy.istio.io/config` of a pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxySettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery_address: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub proxy_metadata: BTreeMap<String, String>,
    #[serde(with = "crate::duration", skip_serializing_if = "Option::is_none")]
    pub termination_drain_duration: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_application_until_proxy_starts: Option<bool>,
    #[serde(with = "crate::duration", skip_serializing_if = "Option::is_none")]
    pub drain_duration: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ProxyImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interception_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_admin_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_headers: Option<ProxyHeaders>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<ProxyTracing>,
}

/// What the sidecar does to headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyHeaders {
    #[serde(rename = "preserveHttp1HeaderCase", skip_serializing_if = "Option::is_none")]
    pub preserve_http1_header_case: Option<bool>,
}

impl ProxySettings {
    /// Reads the YAML (or JSON) of an annotation.
    ///
    /// # Errors
    /// What is wrong, with the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut documents = crate::yaml::parse(text).map_err(|e| e.to_string())?;
        let value = if documents.is_empty() { return Ok(Self::default()) } else { documents.swap_remove(0) };
        if value.value.is_null() {
            return Ok(Self::default());
        }
        let read: Result<Self, _> = crate::object::typed(&value, "");
        let read = read.map_err(|all| all.into_iter().map(|e| e.message).collect::<Vec<_>>().join("; "))?;
        match crate::validate::proxy_settings(&read) {
            Some(message) => Err(message),
            None => Ok(read),
        }
    }

    /// Lays other settings over these: what they name counts, environment variables one by one.
    pub fn overlay(&mut self, over: Self) {
        fn set<T>(field: &mut Option<T>, over: Option<T>) {
            if over.is_some() {
                *field = over;
            }
        }
        set(&mut self.concurrency, over.concurrency);
        set(&mut self.discovery_address, over.discovery_address);
        self.proxy_metadata.extend(over.proxy_metadata);
        set(&mut self.termination_drain_duration, over.termination_drain_duration);
        set(&mut self.hold_application_until_proxy_starts, over.hold_application_until_proxy_starts);
        set(&mut self.drain_duration, over.drain_duration);
        set(&mut self.mesh_id, over.mesh_id);
        set(&mut self.image, over.image);
        set(&mut self.interception_mode, over.interception_mode);
        set(&mut self.proxy_admin_port, over.proxy_admin_port);
        set(&mut self.status_port, over.status_port);
        set(&mut self.proxy_headers, over.proxy_headers);
        set(&mut self.tracing, over.tracing);
    }
}
