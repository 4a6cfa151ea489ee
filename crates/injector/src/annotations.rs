//! What a pod's annotations ask of the sidecar.

use std::collections::BTreeMap;

use istio_api::levels;
use istio_api::yaml;
use serde_json::{Map, Value, json};

use crate::Refused;
use crate::options::{Abilities, Options};

/// What is wished for one pod: the mesh's options with the pod's annotations over them.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    /// The options, as this pod has them.
    pub options: Options,
    /// What the image can do.
    pub abilities: Abilities,
    /// `REDIRECT`, `TPROXY` or `NONE`.
    pub mode: String,
    /// Ports captured beside the ranges; `None` when nobody named any.
    pub include_outbound: Option<String>,
    /// Outbound ports left alone.
    pub exclude_outbound: Option<String>,
    /// Interfaces left alone.
    pub exclude_interfaces: Option<String>,
    /// Interfaces whose inbound traffic is outbound: of virtual machines.
    pub reroute_interfaces: Option<String>,
    /// Volumes for the sidecar, by name.
    pub volumes: Map<String, Value>,
    /// Where it mounts them, by name.
    pub mounts: Map<String, Value>,
    /// The application starts when the sidecar is ready.
    pub hold: bool,
    /// Environment of both containers.
    pub environment: Vec<(String, String)>,
    /// Templates, in order.
    pub templates: Vec<String>,
    /// `default`, `debug` or `distroless`, where one is named.
    image_type: Option<String>,
}

/// Whose annotations are the injector's business.
const OURS: [&str; 4] = ["sidecar.istio.io/", "proxy.istio.io/", "inject.istio.io/", "prometheus.istio.io/"];

/// Annotations that others read: the control plane, or nobody any more.
const OF_OTHERS: [&str; 4] = [
    "sidecar.istio.io/inject",
    "sidecar.istio.io/status",
    "proxy.istio.io/overrides",
    "prometheus.istio.io/scrape-targets",
];

/// Settings of `ProxyConfig` that our own agent holds to.
const PROXY_CONFIG: [&str; 12] = [
    "concurrency",
    "discoveryAddress",
    "drainDuration",
    "holdApplicationUntilProxyStarts",
    "image",
    "interceptionMode",
    "meshId",
    "proxyHeaders",
    "proxyMetadata",
    "statusPort",
    "terminationDrainDuration",
    "tracing",
];

type Reason = String;

impl Wishes {
    pub(crate) fn read(object: &str, namespace: &str, metadata: &Value, options: &Options) -> Result<Self, Refused> {
        let annotations = metadata["annotations"].as_object();
        let refuse = |name: &str, reason: Reason| Refused::Annotation {
            object: object.to_owned(),
            name: name.to_owned(),
            reason,
        };
        let mut wishes = Self::of_mesh(options);
        wishes.select(namespace, metadata);
        // The proxy's settings first: other annotations stand above them.
        for (key, value) in annotations.into_iter().flatten().filter(|(k, _)| *k == "proxy.istio.io/config") {
            let config = value.as_str().unwrap_or_default();
            wishes.configure(config).map_err(|reason| refuse(key, reason))?;
        }
        wishes.settle().map_err(|reason| refuse("proxy.istio.io/config", reason))?;
        for (key, value) in annotations.into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| refuse(key, "its value must be text; quote it".to_owned()))?;
            wishes.take(key, value).map_err(|reason| refuse(key, reason))?;
        }
        wishes.dress().map_err(|reason| refuse("sidecar.istio.io/proxyImageType", reason))?;
        wishes.possible().map_err(|(name, reason)| refuse(name, reason))?;
        if options.cni && !wishes.abilities.cni {
            let reason = "a CNI that redirects is not built for this sidecar; pods redirect themselves".to_owned();
            return Err(Refused::Setting { object: object.to_owned(), setting: "pilot.cni.enabled", reason });
        }
        Ok(wishes)
    }

    fn of_mesh(options: &Options) -> Self {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            abilities: Abilities::of(&options.image),
            mode: "REDIRECT".to_owned(),
            include_outbound: given(&options.capture.include_outbound),
            exclude_outbound: given(&options.capture.exclude_outbound),
            exclude_interfaces: None,
            reroute_interfaces: None,
            volumes: Map::new(),
            mounts: Map::new(),
            hold: false,
            environment: Vec::new(),
            templates: options.default_templates.clone(),
            image_type: None,
            options: options.clone(),
        }
    }

    /// ProxyConfigs that are about the pod, over the mesh's settings.
    fn select(&mut self, namespace: &str, metadata: &Value) {
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let labels: BTreeMap<String, String> =
            metadata["labels"].as_object().into_iter().flatten().filter_map(text).collect();
        let all = std::mem::take(&mut self.options.proxy_configs);
        for object in levels(&all, &self.options.root_namespace, namespace, &labels) {
            let own = &object.spec;
            let config = &mut self.options.proxy_config;
            if let Some(threads) = own.concurrency {
                config.insert("concurrency".to_owned(), threads.into());
            }
            if let Some(image) = &own.image {
                config.insert("image".to_owned(), json!({"imageType": image.image_type}));
            }
            if !own.environment_variables.is_empty()
                && let Some(told) = config.entry("proxyMetadata").or_insert_with(|| json!({})).as_object_mut()
            {
                told.extend(own.environment_variables.iter().map(|(k, v)| (k.clone(), v.clone().into())));
            }
        }
    }

    /// Takes the image of the kind that is wished for.
    fn dress(&mut self) -> Result<(), Reason> {
        let Some(kind) = self.image_type.as_deref() else { return Ok(()) };
        match kind {
            _ if self.abilities.variants => self.options.image = variant(&self.options.image, kind),
            // Our one image is both.
            "" | "default" | "distroless" => {}
            other => return Err(format!("the image has no variant {other}; use default or distroless")),
        }
        Ok(())
    }

    /// The pod's own settings over the mesh's.
    fn configure(&mut self, text: &str) -> Result<(), Reason> {
        let documents = yaml::parse(text).map_err(|e| format!("this is not YAML: {e}"))?;
        let config = documents.into_iter().next().map(|d| d.value).unwrap_or_default();
        let config = match config {
            Value::Null => return Ok(()),
            Value::Object(map) => map,
            _ => return Err("it must be a ProxyConfig".to_owned()),
        };
        for (key, value) in config {
            match (self.options.proxy_config.get_mut(&key), value) {
                // Variables add up; everything else replaces.
                (Some(Value::Object(old)), Value::Object(new)) if key == "proxyMetadata" => old.extend(new),
                (_, value) => {
                    self.options.proxy_config.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// Reads what the settings say about the pod itself.
    fn settle(&mut self) -> Result<(), Reason> {
        let config = self.options.proxy_config.clone();
        self.hold = config.get("holdApplicationUntilProxyStarts").and_then(Value::as_bool).unwrap_or(false);
        if let Some(mode) = config.get("interceptionMode").and_then(Value::as_str) {
            mode.clone_into(&mut self.mode);
        }
        if let Some(port) = config.get("statusPort").and_then(Value::as_u64) {
            self.options.status_port = u16::try_from(port).map_err(|_| format!("statusPort: {port} is no port"))?;
        }
        if let Some(kind) = config.get("image").and_then(|i| i["imageType"].as_str()) {
            self.image_type = Some(kind.to_owned());
        }
        for (name, value) in config.get("proxyMetadata").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().ok_or_else(|| format!("proxyMetadata.{name} must be text; quote it"))?;
            self.environment.push((name.clone(), value.to_owned()));
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), Reason> {
        let text = value.to_owned();
        match key {
            "sidecar.istio.io/proxyCPU" => self.amount("requests", "cpu", value)?,
            "sidecar.istio.io/proxyMemory" => self.amount("requests", "memory", value)?,
            "sidecar.istio.io/proxyCPULimit" => self.amount("limits", "cpu", value)?,
            "sidecar.istio.io/proxyMemoryLimit" => self.amount("limits", "memory", value)?,
            "sidecar.istio.io/proxyImage" => {
                self.abilities = Abilities::of(value);
                self.options.image = text;
            }
            "sidecar.istio.io/proxyImageType" => self.image_type = Some(text),
            "sidecar.istio.io/logLevel" => self.options.log_level = text,
            "sidecar.istio.io/componentLogLevel" => self.options.component_log_level = text,
            "sidecar.istio.io/agentLogLevel" => self.options.agent_log_level = text,
            "sidecar.istio.io/interceptionMode" => self.mode = one_of(value, &["REDIRECT", "TPROXY", "NONE"])?,
            "sidecar.istio.io/nativeSidecar" => self.options.native = truth(value)?,
            REWRITE => {
                self.options.rewrite_probes = truth(value)?;
                if self.options.rewrite_probes && !self.abilities.probes {
                    return Err("probes are not rewritten for this sidecar yet; remove it".to_owned());
                }
            }
            "prometheus.istio.io/merge-metrics" => {
                self.options.merge_metrics = truth(value)?;
                if self.options.merge_metrics && !self.abilities.metrics {
                    return Err("metrics are not merged by this sidecar yet; remove it".to_owned());
                }
            }
            "prometheus.istio.io/scrape-targets" if !self.abilities.metrics => {
                return Err("metrics are not merged by this sidecar yet; remove it".to_owned());
            }
            "sidecar.istio.io/userVolume" => self.volumes = by_name(value)?,
            "sidecar.istio.io/userVolumeMount" => self.mounts = by_name(value)?,
            "sidecar.istio.io/discoveryAddress" => {
                self.options.proxy_config.insert("discoveryAddress".to_owned(), value.into());
            }
            "inject.istio.io/templates" => {
                self.templates = value.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect();
            }
            "status.sidecar.istio.io/port" => {
                self.options.status_port = value.parse().map_err(|_| "write a port, 0 to 65535".to_owned())?;
            }
            _ if key.starts_with("readiness.status.sidecar.istio.io/") => self.readiness(key, value)?,
            _ if key.starts_with("traffic.sidecar.istio.io/") || key == REROUTE => self.capture(key, value)?,
            _ if OF_OTHERS.contains(&key) || key == "proxy.istio.io/config" => {}
            _ if OURS.iter().any(|prefix| key.starts_with(prefix)) || key.contains(".sidecar.istio.io/") => {
                return Err("it is not supported; remove it".to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// As soon as one amount is given, none of the defaults applies.
    fn amount(&mut self, section: &str, name: &str, value: &str) -> Result<(), Reason> {
        if value.is_empty() || value.chars().any(char::is_whitespace) {
            return Err("write an amount such as 100m or 128Mi".to_owned());
        }
        if !self.options.resources["own"].is_boolean() {
            self.options.resources = serde_json::json!({"own": true});
        }
        self.options.resources[section][name] = value.into();
        Ok(())
    }

    fn readiness(&mut self, key: &str, value: &str) -> Result<(), Reason> {
        let number = || value.parse::<u32>().map_err(|_| "write a whole number".to_owned());
        match key.rsplit('/').next().unwrap_or_default() {
            "initialDelaySeconds" => self.options.readiness.initial_delay = number()?,
            "periodSeconds" => self.options.readiness.period = number()?,
            "failureThreshold" => self.options.readiness.failures = number()?,
            // Nothing of Istio's reads it any more.
            "applicationPorts" => {}
            _ => return Err("it is not supported; remove it".to_owned()),
        }
        Ok(())
    }

    fn capture(&mut self, key: &str, value: &str) -> Result<(), Reason> {
        let text = value.to_owned();
        let capture = &mut self.options.capture;
        match key.rsplit('/').next().unwrap_or_default() {
            "includeOutboundIPRanges" => capture.include_ranges = ranges(value)?,
            "excludeOutboundIPRanges" => capture.exclude_ranges = ranges(value)?,
            "includeInboundPorts" => capture.include_inbound = ports(value)?,
            "excludeInboundPorts" => capture.exclude_inbound = ports(value)?,
            "includeOutboundPorts" => self.include_outbound = Some(ports(value)?),
            "excludeOutboundPorts" => self.exclude_outbound = Some(ports(value)?),
            "excludeInterfaces" => self.exclude_interfaces = Some(text),
            "kubevirtInterfaces" => {
                // The newer annotation stands above this one.
                self.reroute_interfaces.get_or_insert(text);
            }
            "reroute-virtual-interfaces" => self.reroute_interfaces = Some(text),
            _ => return Err("it is not supported; remove it".to_owned()),
        }
        Ok(())
    }

    /// Refuses what the image's agent would not do.
    fn possible(&self) -> Result<(), (&'static str, Reason)> {
        let can = self.abilities;
        let unbuilt = |name, what: &str| Err((name, format!("{what} is not built in this sidecar; remove it")));
        if self.mode == "TPROXY" && !can.tproxy {
            return unbuilt("sidecar.istio.io/interceptionMode", "TPROXY");
        }
        if self.exclude_interfaces.is_some() && !can.interfaces {
            return unbuilt("traffic.sidecar.istio.io/excludeInterfaces", "leaving interfaces out");
        }
        if self.reroute_interfaces.is_some() && !can.interfaces {
            return unbuilt(REROUTE, "rerouting interfaces");
        }
        if self.options.status_port != 15020 && !can.status_port {
            return unbuilt("status.sidecar.istio.io/port", "another status port than 15020");
        }
        for template in &self.templates {
            let built = match template.as_str() {
                "gateway" => can.router,
                "grpc-agent" | "grpc-simple" => can.grpc,
                _ => true,
            };
            if !built {
                return unbuilt("inject.istio.io/templates", &format!("the template {template}"));
            }
        }
        let unknown = self.options.proxy_config.keys().find(|key| !PROXY_CONFIG.contains(&key.as_str()));
        if let Some(key) = unknown.filter(|_| !can.proxy_config) {
            return unbuilt("proxy.istio.io/config", key);
        }
        let headers = self.options.proxy_config.get("proxyHeaders").and_then(Value::as_object);
        let unknown = headers.into_iter().flat_map(|h| h.keys()).find(|key| *key != "preserveHttp1HeaderCase");
        match unknown.filter(|_| !can.proxy_config) {
            Some(key) => unbuilt("proxy.istio.io/config", &format!("proxyHeaders.{key}")),
            None => Ok(()),
        }
    }

    /// The resources of both containers.
    pub(crate) fn resources(&self) -> Value {
        let mut resources = self.options.resources.clone();
        if let Some(map) = resources.as_object_mut() {
            map.shift_remove("own");
        }
        resources
    }
}

/// The annotation for probes.
pub(crate) const REWRITE: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
/// The annotation for interfaces of virtual machines.
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";

/// The image with another base: `-distroless`, `-debug`.
fn variant(image: &str, kind: &str) -> String {
    let plain = image.trim_end_matches("-distroless").trim_end_matches("-debug");
    match kind {
        "" | "default" => plain.to_owned(),
        kind => format!("{plain}-{kind}"),
    }
}

fn truth(value: &str) -> Result<bool, Reason> {
    value.parse().map_err(|_| "write \"true\" or \"false\"".to_owned())
}

fn one_of(value: &str, known: &[&str]) -> Result<String, Reason> {
    match known.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(format!("write one of {}", known.join(", "))),
    }
}

/// A list of named objects, or an object of them by name, as YAML.
fn by_name(text: &str) -> Result<Map<String, Value>, Reason> {
    let documents = yaml::parse(text).map_err(|e| format!("this is not YAML: {e}"))?;
    match documents.into_iter().next().map(|d| d.value).unwrap_or_default() {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map),
        Value::Array(list) => list
            .into_iter()
            .map(|item| {
                let name = item["name"].as_str().ok_or("every item needs a name")?.to_owned();
                Ok((name, item))
            })
            .collect::<Result<_, &str>>()
            .map_err(str::to_owned),
        _ => Err("it must be a list, or an object by name".to_owned()),
    }
}

fn ports(value: &str) -> Result<String, Reason> {
    let port = |text: &str| text.trim().parse::<u16>().is_ok();
    match ["", "*"].contains(&value) || value.split(',').all(port) {
        true => Ok(value.to_owned()),
        false => Err("write ports with commas between them, or *".to_owned()),
    }
}

fn ranges(value: &str) -> Result<String, Reason> {
    let range = |text: &str| {
        text.trim().split_once('/').is_some_and(|(address, bits)| {
            let most = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        })
    };
    match ["", "*"].contains(&value) || value.split(',').all(range) {
        true => Ok(value.to_owned()),
        false => Err("write ranges such as 10.0.0.0/8 with commas between them, or *".to_owned()),
    }
}
