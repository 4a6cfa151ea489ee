//! MeshConfig's parties outside the mesh, and who gets telemetry by default.

use http::{HeaderName, HeaderValue};

use crate::mesh::{ExtensionProvider, MeshConfig};
use crate::providers::{FileAccessLog, OpenTelemetry, ProviderHeader, ProxyTracing, Zipkin};

/// Providers that need no entry, and what they give.
const BUILT_IN: [(&str, Gives); 2] = [("prometheus", Gives::Metrics), ("envoy", Gives::AccessLogs)];

/// What a provider is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gives {
    Metrics,
    Traces,
    AccessLogs,
}

/// What is wrong, one sentence each, with the field in front.
pub(super) fn providers(spec: &MeshConfig) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for (at, provider) in spec.extension_providers.iter().enumerate() {
        let name = provider.name.as_str();
        let kinds = provider.kinds();
        if name.is_empty() {
            wrong.push(format!("extensionProviders[{at}].name: a provider needs a name"));
        } else if kinds.len() != 1 {
            let found = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
            wrong.push(format!("extensionProviders[{at}]: \"{name}\" needs exactly one kind; found {found}"));
        }
        if names.contains(&name) {
            wrong.push(format!("extensionProviders[{at}].name: there are two providers \"{name}\""));
        }
        if let Some(message) = settings(provider) {
            wrong.push(format!("extensionProviders[{at}].{message}"));
        }
        names.push(name);
    }
    wrong.extend(defaults(spec));
    wrong
}

fn settings(provider: &ExtensionProvider) -> Option<String> {
    let of = |kind: &str, message: Option<String>| message.map(|m| format!("{kind}.{m}"));
    of("zipkin", provider.zipkin.as_ref().and_then(zipkin))
        .or_else(|| of("opentelemetry", provider.opentelemetry.as_ref().and_then(opentelemetry)))
        .or_else(|| of("envoyFileAccessLog", provider.envoy_file_access_log.as_ref().and_then(file)))
}

fn defaults(spec: &MeshConfig) -> Vec<String> {
    let given = |name: &str| {
        let own = spec.extension_providers.iter().find(|p| p.name == name).map(|p| match p.kinds().first() {
            Some(&"prometheus") => Gives::Metrics,
            Some(&"envoyFileAccessLog") => Gives::AccessLogs,
            _ => Gives::Traces,
        });
        own.or_else(|| BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, gives)| *gives))
    };
    let Some(all) = &spec.default_providers else { return Vec::new() };
    let mut wrong = Vec::new();
    let none: &[String] = &[];
    for (field, names, gives, hint) in [
        ("metrics", all.metrics.as_deref().unwrap_or(none), Gives::Metrics, "no provider of metrics; prometheus is"),
        ("tracing", &all.tracing, Gives::Traces, "no tracing provider of extensionProviders"),
        ("accessLogging", &all.access_logging, Gives::AccessLogs, "no provider of access logs; envoy is"),
    ] {
        for name in names.iter().filter(|name| given(name) != Some(gives)) {
            wrong.push(format!("defaultProviders.{field}: \"{name}\" is {hint}"));
        }
    }
    if all.tracing.len() > 1 {
        wrong.push("defaultProviders.tracing: only one provider can be told of spans".to_owned());
    }
    wrong
}

fn service(name: &str, port: u16) -> Option<String> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Some(format!("service: \"{name}\" is no host of a service; write [NAMESPACE/]HOST"));
    }
    (port == 0).then(|| "port: the port of the service is missing".to_owned())
}

fn zipkin(spec: &Zipkin) -> Option<String> {
    let known = ["USE_B3", "USE_B3_WITH_W3C_PROPAGATION"];
    let unknown = spec.trace_context_option.as_ref().filter(|o| !known.contains(&o.as_str()));
    let unknown = unknown.map(|o| format!("traceContextOption: \"{o}\" is not one of {}", known.join(", ")));
    service(&spec.service, spec.port).or(unknown).or_else(|| path("path", &spec.path))
}

fn opentelemetry(spec: &OpenTelemetry) -> Option<String> {
    let both =
        (spec.http.is_some() && spec.grpc.is_some()).then(|| "http: only one of http and grpc can be set".to_owned());
    let of_http = || {
        let http = spec.http.as_ref()?;
        let empty = http.path.is_empty().then(|| "http.path: the path is missing, such as /v1/traces".to_owned());
        empty.or_else(|| path("http.path", &http.path)).or_else(|| headers("http.headers", &http.headers))
    };
    let of_grpc = || headers("grpc.initialMetadata", &spec.grpc.as_ref()?.initial_metadata);
    service(&spec.service, spec.port).or(both).or_else(of_http).or_else(of_grpc)
}

fn path(field: &str, path: &str) -> Option<String> {
    let odd = path.contains(char::is_whitespace) || path.contains('#') || !path.is_ascii();
    odd.then(|| format!("{field}: \"{path}\" is no path of a URL"))
}

fn headers(field: &str, all: &[ProviderHeader]) -> Option<String> {
    let odd = |h: &&ProviderHeader| {
        HeaderName::from_bytes(h.name.as_bytes()).is_err() || HeaderValue::from_str(&h.value).is_err()
    };
    all.iter().find(odd).map(|h| format!("{field}: \"{}\" is no header, or its value cannot be sent", h.name))
}

fn file(spec: &FileAccessLog) -> Option<String> {
    if !spec.path.starts_with('/') {
        return Some(format!("path: \"{}\" is no file; write an absolute path, such as /dev/stdout", spec.path));
    }
    let both = spec.log_format.as_ref().is_some_and(|f| f.text.is_some() && f.labels.is_some());
    both.then(|| "logFormat: only one of text and labels can be set".to_owned())
}

/// What is wrong with the older place of tracing settings.
pub(super) fn proxy_tracing(spec: &ProxyTracing) -> Option<String> {
    if spec.sampling.is_some_and(|p| !(0.0..=100.0).contains(&p)) {
        return Some("sampling: a percentage lies between 0 and 100".to_owned());
    }
    let address = spec.zipkin.as_ref().map(|z| z.address.as_str())?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    (!matches!(port, Some(Ok(1..)))).then(|| format!("zipkin.address: \"{address}\" is not HOST:PORT"))
}
