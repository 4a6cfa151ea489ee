//! Traces and access logs: Telemetry resources and the mesh's providers as Envoy's configuration.

use std::collections::BTreeMap;

use istio_api::mesh::{ExtensionProvider, MeshConfig};
use istio_api::providers::{FileAccessLog, OpenTelemetry, ProviderHeader, ProxyTracing, Zipkin};
use mesh::{Side, Snapshot};
use serde_json::{Value, json};

use crate::{Proxy, access_log, duration, names};

/// Per cent of requests that are traced where nobody says how many (`PILOT_TRACE_SAMPLING`).
const SAMPLING: f64 = 1.0;
/// Where Zipkin takes spans.
const ZIPKIN_PATH: &str = "/api/v2/spans";

/// The logs of requests and connections.
pub(crate) fn access_logs(snapshot: &Snapshot, proxy: &Proxy, side: Side) -> Vec<Value> {
    let mesh = snapshot.mesh_config();
    let chosen = snapshot.access_log_providers(&proxy.namespace, &proxy.labels, side);
    let chosen = chosen.or_else(|| {
        let defaults = mesh.default_providers.as_ref().map(|p| p.access_logging.clone());
        defaults.filter(|names| !names.is_empty())
    });
    match chosen {
        None => access_log::of_mesh(mesh).into_iter().collect(),
        Some(names) => names.iter().filter_map(|name| log_of(mesh, name)).collect(),
    }
}

fn log_of(mesh: &MeshConfig, name: &str) -> Option<Value> {
    let given = mesh.extension_providers.iter().find(|p| p.name == name);
    match given {
        Some(provider) => provider.envoy_file_access_log.as_ref().map(file_log),
        // The one that needs no entry writes where the mesh's log would go.
        None if name == "envoy" => Some(access_log::on_standard_output(mesh)),
        None => None,
    }
}

fn file_log(log: &FileAccessLog) -> Value {
    let format = log.log_format.as_ref();
    access_log::file(&log.path, format.and_then(|f| f.text.as_deref()), format.and_then(|f| f.labels.as_ref()))
}

/// `defaultConfig.tracing`, as the proxy itself was told it.
fn own(snapshot: &Snapshot, proxy: &Proxy) -> ProxyTracing {
    let told = proxy.metadata.pointer("/PROXY_CONFIG/tracing").cloned();
    let told = told.and_then(|value| serde_json::from_value(value).ok());
    let of_mesh = || snapshot.mesh_config().default_config.as_ref().and_then(|c| c.tracing.clone());
    told.or_else(of_mesh).unwrap_or_default()
}

/// The part `tracing` of an HTTP connection manager. Without a provider it decides nothing.
pub(crate) fn tracing(snapshot: &Snapshot, proxy: &Proxy, side: Side) -> Value {
    let rules = snapshot.tracing_rules(&proxy.namespace, &proxy.labels, side);
    let own = own(snapshot, proxy);
    let sampling = rules.spec.random_sampling_percentage.or(own.sampling).unwrap_or(SAMPLING);
    let custom = if rules.spec.custom_tags.is_empty() { &own.custom_tags } else { &rules.spec.custom_tags };
    let mut tags = if rules.spec.enable_istio_tags == Some(false) { Vec::new() } else { istio_tags(proxy) };
    tags.extend(custom_tags(custom));
    let mut value = json!({
        "clientSampling": {"value": 100},
        "customTags": tags,
        "overallSampling": {"value": 100},
        "randomSampling": {"value": sampling}
    });
    if rules.spec.disable_span_reporting == Some(true) || snapshot.mesh_config().enable_tracing == Some(false) {
        return value;
    }
    if let Some((provider, longest)) = provider(snapshot, proxy, rules.provider.as_deref(), &own) {
        value["provider"] = provider;
        if let Some(longest) = longest.or(own.max_path_tag_length) {
            value["maxPathTagLength"] = longest.into();
        }
    }
    value
}

/// The tracer and the longest path in a tag.
fn provider(
    snapshot: &Snapshot,
    proxy: &Proxy,
    named: Option<&str>,
    own: &ProxyTracing,
) -> Option<(Value, Option<u32>)> {
    let mesh = snapshot.mesh_config();
    let default = || mesh.default_providers.as_ref().and_then(|p| p.tracing.first()).map(String::as_str);
    if let Some(name) = named.or_else(default) {
        let provider: &ExtensionProvider = mesh.extension_providers.iter().find(|p| p.name == name)?;
        return match (&provider.zipkin, &provider.opentelemetry) {
            (Some(zipkin), _) => Some((self::zipkin(snapshot, zipkin)?, zipkin.max_tag_length)),
            (None, Some(otel)) => Some((opentelemetry(snapshot, proxy, otel)?, otel.max_tag_length)),
            (None, None) => None,
        };
    }
    let (host, port) = own.zipkin.as_ref()?.address.rsplit_once(':')?;
    let zipkin = Zipkin { service: host.to_owned(), port: port.parse().ok()?, ..Zipkin::default() };
    Some((self::zipkin(snapshot, &zipkin)?, None))
}

/// The cluster of a collector and the collector's name. A collector that the mesh does not know is told nothing.
fn collector(snapshot: &Snapshot, service: &str, port: u16) -> Option<(String, String)> {
    // The namespace in front narrows a search that here has one answer.
    let host = service.rsplit_once('/').map_or(service, |(_, host)| host);
    let full = [host.to_owned(), format!("{host}.svc.cluster.local")];
    let service = full.iter().find_map(|host| snapshot.service(host))?;
    service.ports.iter().find(|p| p.port == port)?;
    Some((names::outbound_cluster(port, "", &service.host), service.host.clone()))
}

fn zipkin(snapshot: &Snapshot, zipkin: &Zipkin) -> Option<Value> {
    let (cluster, host) = collector(snapshot, &zipkin.service, zipkin.port)?;
    let path = if zipkin.path.is_empty() { ZIPKIN_PATH } else { &zipkin.path };
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collectorCluster": cluster,
        "collectorEndpoint": path,
        "collectorEndpointVersion": "HTTP_JSON",
        "collectorHostname": host,
        "sharedSpanContext": false,
        "traceId128bit": true
    });
    if let Some(option) = &zipkin.trace_context_option {
        config["traceContextOption"] = option.as_str().into();
    }
    Some(json!({"name": "envoy.tracers.zipkin", "typedConfig": config}))
}

fn opentelemetry(snapshot: &Snapshot, proxy: &Proxy, otel: &OpenTelemetry) -> Option<Value> {
    let (cluster, host) = collector(snapshot, &otel.service, otel.port)?;
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "serviceName": service_name(proxy)
    });
    let headers = |all: &[ProviderHeader]| -> Vec<Value> {
        all.iter().map(|h| json!({"key": h.name, "value": h.value})).collect()
    };
    match &otel.http {
        Some(http) => {
            let path = http.path.strip_prefix('/').unwrap_or(&http.path);
            let added: Vec<Value> =
                headers(&http.headers).into_iter().map(|header| json!({"header": header})).collect();
            config["httpService"] = json!({
                "httpUri": {
                    "cluster": cluster,
                    "timeout": http.timeout.as_ref().map_or(json!("10s"), duration),
                    "uri": format!("http://{host}:{}/{path}", otel.port)
                }
            });
            if !added.is_empty() {
                config["httpService"]["requestHeadersToAdd"] = added.into();
            }
        }
        None => {
            let grpc = otel.grpc.clone().unwrap_or_default();
            config["grpcService"] = json!({"envoyGrpc": {"authority": host, "clusterName": cluster}});
            if let Some(timeout) = &grpc.timeout {
                config["grpcService"]["timeout"] = duration(timeout);
            }
            if !grpc.initial_metadata.is_empty() {
                config["grpcService"]["initialMetadata"] = headers(&grpc.initial_metadata).into();
            }
        }
    }
    if otel.resource_detectors.as_ref().is_some_and(|d| d.environment.is_some()) {
        let detector = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig";
        config["resourceDetectors"] = json!([{
            "name": "envoy.tracers.opentelemetry.resource_detectors.environment",
            "typedConfig": {"@type": format!("type.googleapis.com/{detector}")}
        }]);
    }
    Some(json!({"name": "envoy.tracers.opentelemetry", "typedConfig": config}))
}

/// The service under which collectors know a workload: label `app` and namespace (Istio's `APP_LABEL_AND_NAMESPACE`).
fn service_name(proxy: &Proxy) -> String {
    let app =
        proxy.labels.get("app").map(String::as_str).or_else(|| proxy.meta("WORKLOAD_NAME")).unwrap_or("istio-proxy");
    format!("{app}.{}", proxy.namespace)
}

fn custom_tags(all: &BTreeMap<String, Value>) -> impl Iterator<Item = Value> {
    all.iter().filter_map(|(tag, from)| {
        let (kind, mut of) = [("literal", "literal"), ("environment", "environment"), ("header", "requestHeader")]
            .into_iter()
            .find_map(|(ours, envoys)| from.get(ours).map(|of| (envoys, of.clone())))?;
        // An empty default is none.
        if of["defaultValue"] == "" || of["defaultValue"].is_null() {
            of.as_object_mut().map(|of| of.remove("defaultValue"));
        }
        Some(json!({"tag": tag, kind: of}))
    })
}

fn istio_tags(proxy: &Proxy) -> Vec<Value> {
    let mut tags: Vec<Value> = ["allow", "deny"].iter().flat_map(|action| dry_run_tags(action)).collect();
    let label = |key: &str| proxy.labels.get(key).map(String::as_str);
    let service =
        label("service.istio.io/canonical-name").or_else(|| label("app.kubernetes.io/name")).or_else(|| label("app"));
    let revision = label("service.istio.io/canonical-revision")
        .or_else(|| label("app.kubernetes.io/version"))
        .or_else(|| label("version"));
    let literals = [
        ("istio.canonical_revision", revision.unwrap_or("latest")),
        ("istio.canonical_service", service.unwrap_or("unknown")),
        ("istio.cluster_id", proxy.cluster_id()),
        ("istio.mesh_id", proxy.meta("MESH_ID").unwrap_or(&proxy.domain_suffix)),
        ("istio.namespace", &proxy.namespace),
    ];
    tags.extend(literals.iter().map(|(tag, value)| json!({"literal": {"value": value}, "tag": tag})));
    tags
}

fn dry_run_tags(action: &str) -> [Value; 2] {
    [("shadow_effective_policy_id", "name"), ("shadow_engine_result", "result")].map(|(key, tag)| {
        json!({
            "metadata": {
                "kind": {"request": {}},
                "metadataKey": {
                    "key": "envoy.filters.http.rbac",
                    "path": [{"key": format!("istio_dry_run_{action}_{key}")}]
                }
            },
            "tag": format!("istio.authorization.dry_run.{action}_policy.{tag}")
        })
    })
}

#[cfg(test)]
mod tests;
