//! MeshConfig's `extensionProviders`: parties outside the mesh that telemetry goes to.
#![allow(missing_docs, reason = "each field is Istio's of the same name; its reference documents them")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::mesh::NoSettings;

/// A collector that takes Zipkin's spans.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Zipkin {
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<u32>,
    pub path: String,
    /// `USE_B3` or `USE_B3_WITH_W3C_PROPAGATION`
    pub trace_context_option: Option<String>,
}

/// A collector that takes OpenTelemetry's spans; by gRPC, unless `http` is there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OpenTelemetry {
    pub service: String,
    pub port: u16,
    pub max_tag_length: Option<u32>,
    pub http: Option<OtlpHttp>,
    pub grpc: Option<OtlpGrpc>,
    pub resource_detectors: Option<ResourceDetectors>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtlpHttp {
    pub path: String,
    #[serde(with = "crate::duration")]
    pub timeout: Option<Duration>,
    pub headers: Vec<ProviderHeader>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtlpGrpc {
    #[serde(with = "crate::duration")]
    pub timeout: Option<Duration>,
    pub initial_metadata: Vec<ProviderHeader>,
}

/// A header that every report carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProviderHeader {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceDetectors {
    pub environment: Option<NoSettings>,
}

/// A file that access logs go to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FileAccessLog {
    pub path: String,
    pub log_format: Option<LogFormat>,
}

/// A text, or the keys and values of an object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LogFormat {
    pub text: Option<String>,
    pub labels: Option<Map<String, Value>>,
}

/// `defaultConfig.tracing`: the older place of what Telemetry resources say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyTracing {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<ZipkinAddress>,
    /// Per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_tags: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_path_tag_length: Option<u32>,
}

/// `HOST:PORT` of a collector that takes Zipkin's spans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ZipkinAddress {
    pub address: String,
}
