//! Telemetry, WasmPlugin, TrafficExtension, ProxyConfig and EnvoyFilter.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::FieldError;
use super::security::{no, selector, targets};
use crate::extensions::{
    AccessLogging, EnvoyFilter, Metrics, Provider, ProxyConfig, Telemetry, Tracing, TrafficExtension, WasmPlugin,
};

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A word that must be one of a few.
fn word(given: Option<&str>, known: &[&str], at: &str, found: &mut Vec<FieldError>) {
    if let Some(given) = given.filter(|g| !known.contains(g)) {
        no(found, at, format!("unknown value \"{given}\"; use {}", known.join(", ")));
    }
}

const MODES: [&str; 4] = ["UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"];

/// Telemetry.
pub(crate) fn telemetry(spec: &Telemetry, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    targets(spec.selector.is_some(), spec.target_ref.as_ref(), &spec.target_refs, found);
    if spec.tracing.len() > 1 {
        no(found, "/spec/tracing", "only one tracing entry is supported");
    }
    for (i, entry) in spec.tracing.iter().enumerate() {
        tracing(entry, &format!("/spec/tracing/{i}"), found);
    }
    for (i, entry) in spec.metrics.iter().enumerate() {
        metrics(entry, &format!("/spec/metrics/{i}"), found);
    }
    for (i, entry) in spec.access_logging.iter().enumerate() {
        access_logging(entry, &format!("/spec/accessLogging/{i}"), found);
    }
}

fn providers(providers: &[Provider], at: &str, found: &mut Vec<FieldError>) {
    for (i, _) in providers.iter().enumerate().filter(|(_, p)| p.name.is_empty()) {
        no(found, format!("{at}/providers/{i}/name"), "a provider needs a name");
    }
}

fn tracing(entry: &Tracing, at: &str, found: &mut Vec<FieldError>) {
    providers(&entry.providers, at, found);
    if entry.providers.len() > 1 {
        no(found, format!("{at}/providers"), "only one tracing provider is supported");
    }
    word(entry.r#match.as_ref().and_then(|m| m["mode"].as_str()), &MODES, &format!("{at}/match/mode"), found);
    if entry.random_sampling_percentage.is_some_and(|p| !(0.0..=100.0).contains(&p)) {
        no(found, format!("{at}/randomSamplingPercentage"), "a percentage lies between 0 and 100");
    }
    const KINDS: [(&str, &str); 4] =
        [("literal", "/value"), ("environment", "/name"), ("header", "/name"), ("formatter", "/value")];
    for (name, tag) in &entry.custom_tags {
        let at = format!("{at}/customTags/{name}");
        if name.is_empty() {
            no(found, &at, "a tag needs a name");
        }
        let kinds: Vec<_> = KINDS.iter().filter(|(kind, _)| tag.get(kind).is_some()).collect();
        match kinds.as_slice() {
            [(kind, field)] if text(&tag[*kind], field).is_empty() => {
                no(found, format!("{at}/{kind}{field}"), format!("a tag of kind {kind} needs a {}", &field[1..]));
            }
            [_] => {}
            _ => no(found, at, "a tag has one of literal, environment, header and formatter"),
        }
    }
}

/// Metrics that an override may name.
const METRICS: [&str; 11] = [
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];

fn metrics(entry: &Metrics, at: &str, found: &mut Vec<FieldError>) {
    providers(&entry.providers, at, found);
    if entry.reporting_interval.is_some_and(|i| i < Duration::from_millis(1)) {
        no(found, format!("{at}/reportingInterval"), "an interval is at least 1ms");
    }
    for (i, over) in entry.overrides.iter().enumerate() {
        let at = format!("{at}/overrides/{i}");
        if let Some(wanted) = &over.r#match {
            word(wanted["metric"].as_str(), &METRICS, &format!("{at}/match/metric"), found);
            word(wanted["mode"].as_str(), &MODES, &format!("{at}/match/mode"), found);
            if wanted.get("metric").is_some() && wanted.get("customMetric").is_some() {
                no(found, format!("{at}/match"), "only one of metric and customMetric can be set");
            }
            if wanted.get("customMetric").is_some_and(|c| c == "") {
                no(found, format!("{at}/match/customMetric"), "a metric needs a name");
            }
        }
        for (name, tag) in &over.tag_overrides {
            let at = format!("{at}/tagOverrides/{name}");
            word(tag.operation.as_deref(), &["UPSERT", "REMOVE"], &format!("{at}/operation"), found);
            let remove = tag.operation.as_deref() == Some("REMOVE");
            if remove && !tag.value.is_empty() {
                no(found, format!("{at}/value"), "a tag that is removed has no value");
            }
            if !remove && tag.value.is_empty() {
                no(found, format!("{at}/value"), "a tag that is set needs a value");
            }
        }
    }
}

fn access_logging(entry: &AccessLogging, at: &str, found: &mut Vec<FieldError>) {
    providers(&entry.providers, at, found);
    word(entry.r#match.as_ref().and_then(|m| m["mode"].as_str()), &MODES, &format!("{at}/match/mode"), found);
}

/// Longest name of a Wasm module, in characters; Istio's limit.
const PLUGIN_NAME: usize = 256;
/// How many of a module's environment variables there can be; Istio's limit.
const MOST_VARIABLES: usize = 256;
/// Longest value of such a variable; Istio's limit.
const VARIABLE: usize = 2048;

/// WasmPlugin.
pub(crate) fn wasm_plugin(spec: &WasmPlugin, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    targets(spec.selector.is_some(), spec.target_ref.as_ref(), &spec.target_refs, found);
    word(spec.phase.as_deref(), &["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"], "/spec/phase", found);
    let types = ["UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"];
    word(spec.r#type.as_deref(), &types, "/spec/type", found);
    let module = Module {
        url: &spec.url,
        sha256: &spec.sha256,
        name: &spec.plugin_name,
        pull: spec.image_pull_policy.as_deref(),
        fail: spec.fail_strategy.as_deref(),
        vm: spec.vm_config.as_ref(),
    };
    module.check("/spec", found);
    ports(&spec.r#match, found);
}

struct Module<'a> {
    url: &'a str,
    sha256: &'a str,
    name: &'a str,
    pull: Option<&'a str>,
    fail: Option<&'a str>,
    vm: Option<&'a Value>,
}

impl Module<'_> {
    fn check(&self, at: &str, found: &mut Vec<FieldError>) {
        if self.url.is_empty() {
            no(found, format!("{at}/url"), "a Wasm module needs a url");
        }
        if let Some((scheme, _)) = self.url.split_once("://")
            && !["file", "http", "https", "oci"].contains(&scheme)
        {
            no(found, format!("{at}/url"), format!("unknown scheme \"{scheme}\"; use oci, https, http or file"));
        }
        let digest = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if !self.sha256.is_empty() && (self.sha256.len() != 64 || !self.sha256.chars().all(digest)) {
            no(found, format!("{at}/sha256"), "a SHA-256 is 64 digits of 0-9 and a-f");
        }
        if self.name.chars().count() > PLUGIN_NAME {
            no(found, format!("{at}/pluginName"), format!("a name has at most {PLUGIN_NAME} characters"));
        }
        let pulls = ["UNSPECIFIED_POLICY", "IfNotPresent", "Always"];
        word(self.pull, &pulls, &format!("{at}/imagePullPolicy"), found);
        let strategies = ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"];
        word(self.fail, &strategies, &format!("{at}/failStrategy"), found);
        let variables = self.vm.and_then(|vm| vm["env"].as_array()).map(Vec::as_slice).unwrap_or_default();
        if variables.len() > MOST_VARIABLES {
            no(found, format!("{at}/vmConfig/env"), format!("at most {MOST_VARIABLES} variables are possible"));
        }
        let mut names = BTreeSet::new();
        for (i, variable) in variables.iter().enumerate() {
            let at = format!("{at}/vmConfig/env/{i}");
            let (name, value, from) = (text(variable, "/name"), text(variable, "/value"), text(variable, "/valueFrom"));
            if name.is_empty() {
                no(found, format!("{at}/name"), "a variable needs a name");
            } else if !names.insert(name) {
                no(found, format!("{at}/name"), format!("the variable \"{name}\" is there twice"));
            }
            word(Some(from).filter(|f| !f.is_empty()), &["INLINE", "HOST"], &format!("{at}/valueFrom"), found);
            if from == "HOST" && !value.is_empty() {
                no(found, format!("{at}/value"), "a variable of the host has no value here");
            }
            if value.len() > VARIABLE {
                no(found, format!("{at}/value"), format!("a value has at most {VARIABLE} bytes"));
            }
        }
    }
}

fn ports(matches: &[Value], found: &mut Vec<FieldError>) {
    for (i, wanted) in matches.iter().enumerate() {
        word(wanted["mode"].as_str(), &MODES, &format!("/spec/match/{i}/mode"), found);
        let mut seen = BTreeSet::new();
        for (j, port) in wanted["ports"].as_array().into_iter().flatten().enumerate() {
            let at = format!("/spec/match/{i}/ports/{j}");
            match port["number"].as_u64().filter(|n| (1..=65535).contains(n)) {
                None => no(found, format!("{at}/number"), "a port lies between 1 and 65535"),
                Some(number) if !seen.insert(number) => no(found, at, format!("the port {number} is there twice")),
                Some(_) => {}
            }
        }
    }
}

/// TrafficExtension.
pub(crate) fn traffic_extension(spec: &TrafficExtension, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    targets(spec.selector.is_some(), None, &spec.target_refs, found);
    word(spec.phase.as_deref(), &["UNSPECIFIED", "AUTHN", "AUTHZ", "STATS"], "/spec/phase", found);
    ports(&spec.r#match, found);
    match (&spec.wasm, &spec.lua) {
        (Some(wasm), None) => {
            let module = Module {
                url: &wasm.url,
                sha256: &wasm.sha256,
                name: &wasm.plugin_name,
                pull: wasm.image_pull_policy.as_deref(),
                fail: wasm.fail_strategy.as_deref(),
                vm: wasm.vm_config.as_ref(),
            };
            module.check("/spec/wasm", found);
        }
        (None, Some(lua)) if lua.inline_code.trim().is_empty() => {
            no(found, "/spec/lua/inlineCode", "a Lua extension needs its code");
        }
        (None, Some(_)) => {}
        _ => no(found, "/spec", "an extension has one of wasm and lua"),
    }
}

/// ProxyConfig.
pub(crate) fn proxy_config(spec: &ProxyConfig, found: &mut Vec<FieldError>) {
    selector(spec.selector.as_ref(), found);
    if spec.concurrency.is_some_and(|c| c < 0) {
        no(found, "/spec/concurrency", "concurrency cannot be negative; 0 is one thread a core");
    }
    if spec.environment_variables.contains_key("") {
        no(found, "/spec/environmentVariables", "a variable needs a name");
    }
    let types = ["", "default", "debug", "distroless"];
    word(spec.image.as_ref().map(|i| i.image_type.as_str()), &types, "/spec/image/imageType", found);
}

/// What a patch may be applied to, and the kind of its match.
const TARGETS: [(&str, &str); 12] = [
    ("LISTENER", "listener"),
    ("LISTENER_FILTER", "listener"),
    ("FILTER_CHAIN", "listener"),
    ("NETWORK_FILTER", "listener"),
    ("HTTP_FILTER", "listener"),
    ("ROUTE_CONFIGURATION", "routeConfiguration"),
    ("VIRTUAL_HOST", "routeConfiguration"),
    ("HTTP_ROUTE", "routeConfiguration"),
    ("CLUSTER", "cluster"),
    ("EXTENSION_CONFIG", "listener"),
    ("BOOTSTRAP", ""),
    ("WAYPOINT", "waypoint"),
];
const OPERATIONS: [&str; 7] = ["MERGE", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE"];

/// EnvoyFilter.
pub(crate) fn envoy_filter(spec: &EnvoyFilter, found: &mut Vec<FieldError>) {
    let labels = spec.workload_selector.iter().flat_map(|s| &s.labels);
    for (key, value) in labels {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            no(found, "/spec/workloadSelector/labels", "a selector names labels in full, without wildcards");
        }
    }
    targets(spec.workload_selector.is_some(), None, &spec.target_refs, found);
    for (i, patch) in spec.config_patches.iter().enumerate() {
        let at = format!("/spec/configPatches/{i}");
        let target = patch.apply_to.as_deref().unwrap_or_default();
        let Some((_, kind)) = TARGETS.iter().find(|(name, _)| *name == target) else {
            let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            no(found, format!("{at}/applyTo"), format!("a patch needs applyTo: one of {}", known.join(", ")));
            continue;
        };
        let wanted = patch.r#match.as_ref().unwrap_or(&Value::Null);
        for other in ["listener", "routeConfiguration", "cluster", "waypoint"] {
            if !kind.is_empty() && wanted.get(other).is_some() && other != *kind {
                no(
                    found,
                    format!("{at}/match/{other}"),
                    format!("applyTo {target} is matched by {kind}, not by {other}"),
                );
            }
        }
        let version = text(wanted, "/proxy/proxyVersion");
        if let Err(error) = regex::Regex::new(version) {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default();
            no(found, format!("{at}/match/proxy/proxyVersion"), format!("not a regular expression: {reason}"));
        }
        let Some(patch) = &patch.patch else {
            no(found, format!("{at}/patch"), "a patch needs operation and value");
            continue;
        };
        match patch.operation.as_deref() {
            None | Some("INVALID") => no(found, format!("{at}/patch/operation"), "a patch needs an operation"),
            Some(operation) => word(Some(operation), &OPERATIONS, &format!("{at}/patch/operation"), found),
        }
        if patch.operation.as_deref() != Some("REMOVE") && patch.value.is_none() {
            no(found, format!("{at}/patch/value"), "a patch needs a value; only REMOVE does without");
        }
    }
}
