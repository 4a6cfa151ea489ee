//! MeshConfig and the settings of proxies.

use super::field::Found;
use super::{FieldError, destination_rule, providers};
use crate::extensions::{ProxyConfig, ProxyImage};
use crate::mesh::{MeshConfig, ProxySettings};

/// MeshConfig is text inside a ConfigMap: its mistakes all stand at that text.
const AT: &str = "/data/mesh";

pub(super) fn mesh_config(spec: &MeshConfig, found: &mut Vec<FieldError>) {
    let mut no = |message: String| found.push(FieldError::new(AT, message));
    let choice = |value: Option<&String>, field: &str, known: &[&str]| {
        let unknown = value.filter(|v| !known.contains(&v.as_str()));
        unknown.map(|v| format!("{field}: \"{v}\" is not one of {}", known.join(", ")))
    };
    let mode = spec.outbound_traffic_policy.as_ref().and_then(|p| p.mode.as_ref());
    let modes = ["ALLOW_ANY", "REGISTRY_ONLY", "ALLOW_ANY_DYNAMIC_DNS"];
    if let Some(message) = choice(mode, "outboundTrafficPolicy.mode", &modes) {
        no(message);
    }
    let tls = spec.outbound_traffic_policy.as_ref().and_then(|p| p.tls.as_ref());
    if tls.is_some_and(|tls| tls.mode.as_deref().is_some_and(|mode| mode != "DISABLE")) {
        no("outboundTrafficPolicy.tls: TLS to unknown hosts is not built; let the callers speak TLS".to_owned());
    }
    let normalization = spec.path_normalization.as_ref().and_then(|p| p.normalization.as_ref());
    let choices = [
        (spec.access_log_encoding.as_ref(), "accessLogEncoding", &["TEXT", "JSON"][..]),
        (spec.h2_upgrade_policy.as_ref(), "h2UpgradePolicy", &["DO_NOT_UPGRADE", "UPGRADE"][..]),
        (
            normalization,
            "pathNormalization.normalization",
            &["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"][..],
        ),
    ];
    for message in choices.into_iter().filter_map(|(value, field, known)| choice(value, field, known)) {
        no(message);
    }
    for (port, only, field) in [
        (spec.proxy_listen_port, 15001, "proxyListenPort"),
        (spec.proxy_inbound_listen_port, 15006, "proxyInboundListenPort"),
    ] {
        if let Some(port) = port.filter(|p| *p != only) {
            no(format!("{field}: another port than {only} is not built; remove it ({port})"));
        }
    }
    for (list, field) in [
        (&spec.default_service_export_to, "defaultServiceExportTo"),
        (&spec.default_virtual_service_export_to, "defaultVirtualServiceExportTo"),
        (&spec.default_destination_rule_export_to, "defaultDestinationRuleExportTo"),
    ] {
        if list.len() > 1 && list.iter().any(|n| n == "*" || n == "~") {
            no(format!("{field}: \"*\" and \"~\" stand alone"));
        }
    }
    for message in providers::providers(spec) {
        no(message);
    }
    if spec.connect_timeout.is_some_and(|t| t.is_zero()) {
        no("connectTimeout: it must be at least 1ms".to_owned());
    }
    let mut places = Vec::new();
    destination_rule::places(
        spec.locality_lb_setting.as_ref(),
        spec.zone_aware_lb_setting.as_ref(),
        "",
        &mut Found(&mut places),
    );
    for FieldError { pointer, message } in places {
        no(format!("{}: {message}", pointer.trim_start_matches('/').replace('/', ".")));
    }
    if let Some(message) = spec.default_config.as_ref().and_then(proxy_settings) {
        no(format!("defaultConfig.{message}"));
    }
}

/// What is wrong with the settings of a proxy.
pub(crate) fn proxy_settings(spec: &ProxySettings) -> Option<String> {
    if let Some(threads) = spec.concurrency.filter(|c| !(0..=1024).contains(c)) {
        return Some(format!("concurrency: {threads} is no number of threads; 0 means one per processor"));
    }
    for (port, only, field) in
        [(spec.proxy_admin_port, 15000, "proxyAdminPort"), (spec.status_port, 15020, "statusPort")]
    {
        if let Some(port) = port.filter(|p| *p != only) {
            return Some(format!("{field}: another port than {only} is not built; remove it ({port})"));
        }
    }
    match spec.interception_mode.as_deref() {
        None | Some("REDIRECT") => {}
        Some(mode @ ("TPROXY" | "NONE")) => {
            return Some(format!("interceptionMode: {mode} is not built for a whole mesh; use REDIRECT"));
        }
        Some(other) => return Some(format!("interceptionMode: \"{other}\" is not one of REDIRECT, TPROXY, NONE")),
    }
    if let Some(message) = spec.image.as_ref().and_then(image) {
        return Some(format!("image.imageType: {message}"));
    }
    if let Some(message) = spec.tracing.as_ref().and_then(providers::proxy_tracing) {
        return Some(format!("tracing.{message}"));
    }
    let odd = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
    spec.proxy_metadata.keys().find(odd).map(|name| format!("proxyMetadata: \"{name}\" is no name of a variable"))
}

/// What is not built of a ProxyConfig.
pub(super) fn proxy_config(spec: &ProxyConfig, found: &mut Vec<FieldError>) {
    for name in spec.environment_variables.keys().filter(|n| n.is_empty() || n.contains(['=', '\0'])) {
        let message = format!("\"{name}\" is no name of a variable");
        found.push(FieldError::new("/spec/environmentVariables", message));
    }
    if let Some(message) = spec.image.as_ref().and_then(image) {
        found.push(FieldError::new("/spec/image/imageType", message));
    }
}

/// Our image has nothing but the program: it is the default and the one without a distribution.
fn image(image: &ProxyImage) -> Option<String> {
    match image.image_type.as_str() {
        "" | "default" | "distroless" => None,
        "debug" => Some("there is no image with tools for debugging; use \"default\" or \"distroless\"".to_owned()),
        other => Some(format!("\"{other}\" is not one of default, distroless, debug")),
    }
}
