//! Log levels as injected containers are told them, as filters of our own log.

use std::ffi::OsString;
use std::sync::Arc;

use parking_lot::Mutex;
use proxy::admin::Logging;

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

/// Puts a filter of our own log in force, as the program's subscriber takes it.
pub type SetFilter = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The levels of a running sidecar's log, under the names of Envoy's loggers that have a counterpart here.
pub(crate) struct Levels {
    /// Parts with their levels; the empty part is everything else. The longest that fits counts.
    directives: Mutex<Vec<(String, String)>>,
    set: SetFilter,
}

impl Levels {
    /// Levels that are in force by `filter`: directives `TARGET=LEVEL` and `LEVEL` with commas between them.
    pub(crate) fn new(filter: &str, set: SetFilter) -> Self {
        let one = |part: &str| match part.split_once('=') {
            Some((target, level)) => (target.to_owned(), level.to_owned()),
            None => (String::new(), part.to_owned()),
        };
        let directives = filter.split(',').filter(|p| !p.is_empty()).map(one).collect();
        Self { directives: Mutex::new(directives), set }
    }
}

impl Logging for Levels {
    fn levels(&self) -> Vec<(String, String)> {
        let directives = self.directives.lock();
        let level = |target: &str| {
            let fits = directives.iter().filter(|(t, _)| target.starts_with(t.as_str()));
            let ours = fits.max_by_key(|(t, _)| t.len()).map_or("error", |(_, level)| level.as_str());
            LEVELS.iter().find(|(_, l)| *l == ours).map_or(ours, |(name, _)| *name).to_owned()
        };
        let loggers =
            COMPONENTS.iter().filter_map(|(name, targets)| Some(((*name).to_owned(), level(targets.first()?))));
        loggers.collect()
    }

    fn set(&self, logger: Option<&str>, word: &str) -> Result<(), String> {
        let ours = level(word)?;
        let known = |name: &str| COMPONENTS.iter().find(|(n, targets)| *n == name && !targets.is_empty());
        let targets: Vec<&str> = match logger {
            Some(name) => known(name).ok_or_else(|| format!("unknown logger name \"{name}\""))?.1.to_vec(),
            None => {
                PROXY.into_iter().chain(COMPONENTS.iter().flat_map(|(_, targets)| targets.iter().copied())).collect()
            }
        };
        let mut directives = self.directives.lock();
        let mut new: Vec<_> = directives.iter().filter(|(t, _)| !targets.contains(&t.as_str())).cloned().collect();
        let mut changed = targets;
        changed.sort_unstable();
        changed.dedup();
        new.extend(changed.into_iter().map(|target| (target.to_owned(), ours.to_owned())));
        let text: Vec<String> = new
            .iter()
            .map(|(target, level)| if target.is_empty() { level.clone() } else { format!("{target}={level}") })
            .collect();
        (self.set)(&text.join(","))?;
        *directives = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_a_running_sidecar_are_seen_and_set() {
        let in_force: Arc<Mutex<String>> = Arc::default();
        let seen = in_force.clone();
        let levels = Levels::new(
            "info,proxy=warn,upstream=warn",
            Arc::new(move |filter| {
                filter.clone_into(&mut seen.lock());
                Ok(())
            }),
        );
        let shown = |name: &str| levels.levels().into_iter().find(|(n, _)| n == name).map(|(_, level)| level);
        assert_eq!(shown("http").as_deref(), Some("warning"));
        assert_eq!(shown("main").as_deref(), Some("info"));
        assert_eq!(shown("wasm"), None, "nothing here does its work");
        levels.set(Some("http"), "debug").unwrap();
        assert_eq!((shown("http").as_deref(), shown("connection").as_deref()), (Some("debug"), Some("warning")));
        assert!(in_force.lock().ends_with("proxy::http=debug"), "{}", in_force.lock());
        levels.set(None, "error").unwrap();
        assert!(levels.levels().iter().all(|(_, level)| level == "error"), "{:?}", levels.levels());
        assert!(levels.set(Some("wasm"), "debug").is_err_and(|e| e.contains("unknown logger name")));
        assert!(levels.set(None, "loud").is_err_and(|e| e.contains("loud")));
        assert!(levels.levels().iter().all(|(_, level)| level == "error"), "unchanged by mistakes");
    }

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
