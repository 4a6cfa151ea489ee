//! What a pod's annotations ask of the sidecar.

use serde_json::Value;

use crate::Refused;

/// The annotations that are honoured; everything else of Istio's is refused.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub cpu_limit: Option<String>,
    pub memory_limit: Option<String>,
    pub image: Option<String>,
    pub log_level: Option<String>,
    pub component_log_level: Option<String>,
    pub include_ranges: Option<String>,
    pub exclude_ranges: Option<String>,
    pub include_inbound: Option<String>,
    pub exclude_inbound: Option<String>,
    pub include_outbound: Option<String>,
    pub exclude_outbound: Option<String>,
    /// Traffic is not redirected: no init container.
    pub no_redirection: bool,
    /// An ordinary container instead of an init container that stays.
    pub ordinary: bool,
}

/// Whose annotations are the injector's business.
const OURS: [&str; 4] =
    ["sidecar.istio.io/", "proxy.istio.io/", "inject.istio.io/", "istio.io/reroute-virtual-interfaces"];

impl Wishes {
    pub(crate) fn read(object: &str, metadata: &Value) -> Result<Self, Refused> {
        let mut wishes = Self::default();
        for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
            let refuse = |reason: &str| Refused::Annotation {
                object: object.to_owned(),
                name: key.clone(),
                reason: reason.to_owned(),
            };
            let value = value.as_str().ok_or_else(|| refuse("its value must be text; quote it"))?;
            if let Err(reason) = wishes.take(key, value) {
                return Err(refuse(reason));
            }
        }
        Ok(wishes)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        let field = match key {
            "sidecar.istio.io/proxyCPU" => &mut self.cpu,
            "sidecar.istio.io/proxyMemory" => &mut self.memory,
            "sidecar.istio.io/proxyCPULimit" => &mut self.cpu_limit,
            "sidecar.istio.io/proxyMemoryLimit" => &mut self.memory_limit,
            "sidecar.istio.io/proxyImage" => &mut self.image,
            "sidecar.istio.io/logLevel" => &mut self.log_level,
            "sidecar.istio.io/componentLogLevel" => &mut self.component_log_level,
            "traffic.sidecar.istio.io/includeOutboundIPRanges" => &mut self.include_ranges,
            "traffic.sidecar.istio.io/excludeOutboundIPRanges" => &mut self.exclude_ranges,
            "traffic.sidecar.istio.io/includeInboundPorts" => &mut self.include_inbound,
            "traffic.sidecar.istio.io/excludeInboundPorts" => &mut self.exclude_inbound,
            "traffic.sidecar.istio.io/includeOutboundPorts" => &mut self.include_outbound,
            "traffic.sidecar.istio.io/excludeOutboundPorts" => &mut self.exclude_outbound,
            _ => return self.decide(key, value),
        };
        let ranges = key.ends_with("IPRanges");
        if key.ends_with("Ports") || ranges {
            list(value, ranges)?;
        }
        *field = Some(value.to_owned());
        Ok(())
    }

    fn decide(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match (key, value) {
            ("sidecar.istio.io/inject", _) => Ok(()),
            ("sidecar.istio.io/interceptionMode", "REDIRECT") => Ok(()),
            ("sidecar.istio.io/interceptionMode", "NONE") => {
                self.no_redirection = true;
                Ok(())
            }
            ("sidecar.istio.io/interceptionMode", _) => Err("only REDIRECT and NONE are supported"),
            ("sidecar.istio.io/nativeSidecar", "true" | "false") => {
                self.ordinary = value == "false";
                Ok(())
            }
            ("sidecar.istio.io/nativeSidecar", _) => Err("write \"true\" or \"false\""),
            // Probes are never rewritten; who asks for that must not believe they are.
            ("sidecar.istio.io/rewriteAppHTTPProbers", "false") => Ok(()),
            ("sidecar.istio.io/rewriteAppHTTPProbers", _) => Err("probes are not rewritten yet; remove it"),
            ("inject.istio.io/templates", "sidecar") => Ok(()),
            _ if OURS.iter().any(|prefix| key.starts_with(prefix)) || key.contains(".sidecar.istio.io/") => {
                Err("it is not supported; remove it")
            }
            _ => Ok(()),
        }
    }
}

/// A list of ports, or of ranges such as 10.0.0.0/8; `*` alone is all.
fn list(value: &str, ranges: bool) -> Result<(), &'static str> {
    let port = |text: &str| text.parse::<u16>().is_ok();
    let range = |text: &str| {
        text.split_once('/').is_some_and(|(address, bits)| {
            let most = match address.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V4(_)) => 32,
                Ok(std::net::IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        })
    };
    let mut parts = value.split(',').map(str::trim);
    match (value, ranges) {
        ("" | "*", _) => Ok(()),
        (_, true) if parts.all(range) => Ok(()),
        (_, true) => Err("write ranges such as 10.0.0.0/8 with commas between them, or *"),
        (_, false) if parts.all(port) => Ok(()),
        (_, false) => Err("write ports with commas between them, or *"),
    }
}
