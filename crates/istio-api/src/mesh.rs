//! MeshConfig, as far as it is built.
#![allow(missing_docs, reason = "each field is Istio's of the same name; its reference documents them")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::networking::TcpKeepalive;

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
    pub default_config: Option<ProxySettings>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<String>,
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
        self.concurrency = over.concurrency.or(self.concurrency);
        self.discovery_address = over.discovery_address.or(self.discovery_address.take());
        self.proxy_metadata.extend(over.proxy_metadata);
        self.termination_drain_duration = over.termination_drain_duration.or(self.termination_drain_duration);
        self.hold_application_until_proxy_starts =
            over.hold_application_until_proxy_starts.or(self.hold_application_until_proxy_starts);
    }
}
