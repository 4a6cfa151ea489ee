//! Whether an object is valid, also of kinds that are not in force yet: what `istioctl validate` and the webhook ask.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::edge::Gateway;
use crate::extensions::{EnvoyFilter, ProxyConfig, Telemetry, TrafficExtension, WasmPlugin};
use crate::object::{schema, strict};
use crate::service_entry::WorkloadGroup;
use crate::validate::{FieldError, edge, extensions};
use crate::yaml::Document;

/// Checks the fields and the values of an object of Istio whose kind is not in force; other kinds pass.
///
/// # Errors
/// What is wrong, with the JSON pointer of the place.
pub fn check(document: &Document) -> Result<(), Vec<FieldError>> {
    schema(document)?;
    let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
    match (group, text("/kind")) {
        ("networking.istio.io", "Gateway") => values::<Gateway>(document, edge::gateway),
        ("networking.istio.io", "WorkloadGroup") => values::<WorkloadGroup>(document, edge::workload_group),
        ("networking.istio.io", "EnvoyFilter") => values::<EnvoyFilter>(document, extensions::envoy_filter),
        ("networking.istio.io", "ProxyConfig") => values::<ProxyConfig>(document, extensions::proxy_config),
        ("telemetry.istio.io", "Telemetry") => values::<Telemetry>(document, extensions::telemetry),
        ("extensions.istio.io", "WasmPlugin") => values::<WasmPlugin>(document, extensions::wasm_plugin),
        ("extensions.istio.io", "TrafficExtension") => {
            values::<TrafficExtension>(document, extensions::traffic_extension)
        }
        _ => Ok(()),
    }
}

fn values<T: Default + DeserializeOwned>(
    document: &Document,
    judge: fn(&T, &mut Vec<FieldError>),
) -> Result<(), Vec<FieldError>> {
    let mut found = Vec::new();
    judge(&strict::<T>(document, "default")?.spec, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found) }
}
