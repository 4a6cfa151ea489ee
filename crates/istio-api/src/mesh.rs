//! MeshConfig, as far as it is built.
#![allow(missing_docs, reason = "each field is Istio's of the same name; its reference documents them")]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The mesh's configuration (ConfigMap `istio` in the root namespace, key `mesh`).
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MeshConfig {
    pub access_log_file: Option<String>,
    pub access_log_encoding: Option<String>,
    pub access_log_format: Option<String>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub trust_domain: Option<String>,
    pub trust_domain_aliases: Vec<String>,
    pub enable_auto_mtls: Option<bool>,
    pub root_namespace: Option<String>,
    #[serde(with = "crate::duration")]
    pub connect_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<String>,
}
