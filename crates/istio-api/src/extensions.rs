//! Telemetry, ProxyConfig, EnvoyFilter and WasmPlugin; only ProxyConfig is in force, the others are read for analysis.
//!
//! Names, meanings and defaults are those of Istio's API reference; fields are not described again here.
#![allow(missing_docs, reason = "each field is Istio's of the same name; its reference documents them")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::security::Selector;
use crate::service_entry::LabelSelector;

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Telemetry {
    pub selector: Option<Selector>,
    pub target_ref: Option<Value>,
    pub target_refs: Vec<Value>,
    pub tracing: Vec<Tracing>,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Provider {
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tracing {
    pub r#match: Option<Value>,
    pub providers: Vec<Provider>,
    pub random_sampling_percentage: Option<f64>,
    pub disable_span_reporting: Option<bool>,
    pub custom_tags: BTreeMap<String, Value>,
    pub use_request_id_for_trace_sampling: Option<bool>,
    pub enable_istio_tags: Option<bool>,
    pub disable_context_propagation: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metrics {
    pub providers: Vec<Provider>,
    pub overrides: Vec<MetricsOverride>,
    #[serde(with = "crate::duration")]
    pub reporting_interval: Option<Duration>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MetricsOverride {
    pub r#match: Option<Value>,
    pub disabled: Option<bool>,
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TagOverride {
    pub operation: Option<String>,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogging {
    pub r#match: Option<Value>,
    pub providers: Vec<Provider>,
    pub disabled: Option<bool>,
    pub filter: Option<AccessLogFilter>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AccessLogFilter {
    pub expression: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyConfig {
    pub selector: Option<Selector>,
    pub concurrency: Option<i32>,
    pub environment_variables: BTreeMap<String, String>,
    pub image: Option<ProxyImage>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProxyImage {
    pub image_type: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvoyFilter {
    pub workload_selector: Option<LabelSelector>,
    pub target_refs: Vec<Value>,
    pub config_patches: Vec<ConfigPatch>,
    pub priority: i32,
    pub workload_labels: BTreeMap<String, String>,
    pub filters: Vec<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConfigPatch {
    pub apply_to: Option<String>,
    pub r#match: Option<Value>,
    pub patch: Option<Patch>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Patch {
    pub operation: Option<String>,
    pub value: Option<Value>,
    pub filter_class: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WasmPlugin {
    pub selector: Option<Selector>,
    pub target_ref: Option<Value>,
    pub target_refs: Vec<Value>,
    pub url: String,
    pub sha256: String,
    pub image_pull_policy: Option<String>,
    pub image_pull_secret: String,
    pub verification_key: String,
    pub plugin_config: Option<Value>,
    pub plugin_name: String,
    pub phase: Option<String>,
    pub priority: Option<i32>,
    pub fail_strategy: Option<String>,
    pub vm_config: Option<Value>,
    pub r#match: Vec<Value>,
    pub r#type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TrafficExtension {
    pub selector: Option<Selector>,
    pub target_refs: Vec<Value>,
    pub phase: Option<String>,
    pub priority: Option<i32>,
    pub r#match: Vec<Value>,
    pub wasm: Option<WasmExtension>,
    pub lua: Option<LuaExtension>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct WasmExtension {
    pub url: String,
    pub sha256: String,
    pub image_pull_policy: Option<String>,
    pub image_pull_secret: String,
    pub verification_key: String,
    pub plugin_config: Option<Value>,
    pub plugin_name: String,
    pub fail_strategy: Option<String>,
    pub vm_config: Option<Value>,
    pub r#type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LuaExtension {
    pub inline_code: String,
}
