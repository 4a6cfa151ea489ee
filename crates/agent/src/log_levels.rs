//! Log levels as injected containers are told them, as filters of our own log.

use std::ffi::OsString;

/// Envoy's levels with ours.
const LEVELS: [(&str, &str); 8] = [
    ("trace", "trace"),
    ("debug", "debug"),
    ("info", "info"),
    ("warning", "warn"),
    ("warn", "warn"),
    ("error", "error"),
    ("critical", "error"),
    ("off", "off"),
];

/// Envoy's components with the parts of ours that do their work; an empty list has nothing to say here.
const COMPONENTS: [(&str, &[&str]); 22] = [
    ("admin", &["proxy::admin"]),
    ("client", &["upstream::pool"]),
    ("config", &["proxy_config", "xds"]),
    ("connection", &["proxy::connection", "proxy::tcp"]),
    ("conn_handler", &["proxy::worker", "proxy::listeners"]),
    ("dns", &["upstream::dns"]),
    ("ext_authz", &[]),
    ("filter", &["proxy::http::filters"]),
    ("forward_proxy", &[]),
    ("grpc", &["xds"]),
    ("health_checker", &[]),
    ("http", &["proxy::http"]),
    ("http2", &["proxy::http"]),
    ("jwt", &["jwt"]),
    ("main", &["agent"]),
    ("misc", &[]),
    ("pool", &["upstream::pool"]),
    ("rbac", &["rules"]),
    ("router", &["proxy::http"]),
    ("runtime", &[]),
    ("upstream", &["upstream"]),
    ("wasm", &[]),
];

/// The crates of the data plane.
const PROXY: [&str; 7] = ["proxy", "upstream", "rules", "proxy_config", "telemetry", "net", "jwt"];

/// Scopes of Istio's agent with the parts of ours.
const SCOPES: [(&str, &[&str]); 8] = [
    ("all", &[""]),
    ("default", &[""]),
    ("ca", &["agent::identity", "citadel"]),
    ("dns", &["agent::dns"]),
    ("iptables", &["agent::redirect"]),
    ("sds", &["agent::identity"]),
    ("security", &["agent::identity", "mtls"]),
    ("xdsproxy", &["xds"]),
];

/// A level of Envoy's.
///
/// # Errors
/// When it is none.
pub(crate) fn level(text: &str) -> Result<&'static str, String> {
    let known = || LEVELS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = LEVELS.iter().find(|(name, _)| *name == text).map(|(_, ours)| *ours);
    found.ok_or_else(|| format!("\"{text}\" is no level; use one of {}", known()))
}

/// `COMPONENT:LEVEL,...` of Envoy's components, as filters.
///
/// # Errors
/// What is unknown, by name.
pub(crate) fn components(text: &str) -> Result<String, String> {
    pairs(text, &COMPONENTS, level)
}

/// `SCOPE:LEVEL,...` of the agent's scopes, as filters.
///
/// # Errors
/// What is unknown, by name.
pub(crate) fn scopes(text: &str) -> Result<String, String> {
    pairs(text, &SCOPES, |word| match word {
        "none" => Ok("off"),
        "fatal" => Ok("error"),
        other => level(other),
    })
}

fn pairs(
    text: &str,
    known: &[(&str, &[&str])],
    level: impl Fn(&str) -> Result<&'static str, String>,
) -> Result<String, String> {
    let mut all = Vec::new();
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (name, word) = pair.split_once(':').ok_or_else(|| format!("\"{pair}\" is not NAME:LEVEL"))?;
        let Some((_, targets)) = known.iter().find(|(n, _)| *n == name) else {
            let names = known.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
            return Err(format!("\"{name}\" is not known; use one of {names}"));
        };
        let word = level(word)?;
        all.extend(targets.iter().map(|t| if t.is_empty() { word.to_owned() } else { format!("{t}={word}") }));
    }
    Ok(all.join(","))
}

/// The filter that a command line asks for; what is wrong in it is said when it is parsed.
pub fn log_filter(arguments: &[OsString]) -> String {
    let words: Vec<&str> = arguments.iter().filter_map(|a| a.to_str()).collect();
    let value = |flag: &str| {
        words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(flag)?.strip_prefix('=') {
            Some(value) => Some(value),
            None if *word == flag => words.get(at + 1).copied(),
            None => None,
        })
    };
    let mut parts = vec!["info".to_owned()];
    parts.extend(value("--log_output_level").and_then(|v| scopes(v).ok()));
    if let Some(level) = value("--proxyLogLevel").and_then(|v| level(v).ok()) {
        parts.extend(PROXY.iter().map(|target| format!("{target}={level}")));
    }
    parts.extend(value("--proxyComponentLogLevel").and_then(|v| components(v).ok()));
    parts.retain(|p| !p.is_empty());
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_containers_flags_become_filters() {
        let words = [
            "pilot-agent",
            "proxy",
            "sidecar",
            "--proxyLogLevel=warning",
            "--proxyComponentLogLevel=misc:error,rbac:debug",
            "--log_output_level",
            "default:error,dns:debug",
        ];
        let filter = log_filter(&words.map(OsString::from));
        assert!(filter.starts_with("info,error,agent::dns=debug,proxy=warn,"), "{filter}");
        assert!(filter.ends_with("jwt=warn,rules=debug"), "{filter}");
        assert_eq!(log_filter(&[]), "info");
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert!(components("nosuch:debug").is_err_and(|e| e.contains("nosuch")));
        assert!(components("http:loud").is_err_and(|e| e.contains("loud")));
        assert!(scopes("default").is_err_and(|e| e.contains("NAME:LEVEL")));
        assert_eq!(scopes("default:none").as_deref(), Ok("off"));
    }
}
