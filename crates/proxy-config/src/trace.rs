//! Tracing of requests: what is traced, what a span says, and who is told.

use std::sync::Arc;
use std::time::Duration;

use ::http::uri::PathAndQuery;
use ::http::{HeaderName, HeaderValue};
use envoy_api::Any;
use envoy_api::envoy::config::core::v3 as core;
use envoy_api::envoy::config::trace::v3 as api;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use envoy_api::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_api::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_api::envoy::r#type::v3::Percent;
use manager::http_connection_manager as proto;
use spans::{Origin, Propagation, Sampling};
use telemetry::Workload;
use upstream::ClusterSlot;

use crate::common::{duration, kind, unpack};
use crate::context::{Context, Refusal, Result, Under};
use crate::protocol;

/// How the requests of a manager are traced.
#[derive(Debug)]
pub struct Tracing {
    /// Which.
    pub sampling: Sampling,
    /// By which headers traces travel.
    pub propagation: Propagation,
    /// Longest path that a tag prints, bytes.
    pub max_path: usize,
    /// Tags beside the usual ones.
    pub tags: Vec<(String, TagValue)>,
    /// Who is told.
    pub exporter: Arc<Exporter>,
}

/// Where a tag's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagValue {
    /// It is always the same.
    Literal(String),
    /// A request header, or else this; without either there is no tag.
    Header(HeaderName, Option<String>),
}

/// Who is told of spans. One exists for all listeners that name the same.
#[derive(Debug)]
pub struct Exporter {
    /// The collector.
    pub cluster: Arc<ClusterSlot>,
    /// What spans of this proxy have in common.
    pub origin: Origin,
    /// How it is spoken to.
    pub report: Report,
}

impl PartialEq for Exporter {
    fn eq(&self, other: &Self) -> bool {
        self.cluster.name == other.cluster.name && self.origin == other.origin && self.report == other.report
    }
}

/// How a collector is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The format.
    pub format: Format,
    /// Where it is posted to.
    pub path: PathAndQuery,
    /// The collector's name in the request.
    pub authority: HeaderValue,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The longest wait for an answer.
    pub timeout: Duration,
}

/// What a collector reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Zipkin's JSON.
    Zipkin,
    /// OpenTelemetry's protobuf over HTTP.
    OtlpHttp,
    /// OpenTelemetry's gRPC.
    OtlpGrpc,
}

/// Longest path in a tag, and the longest wait for a collector (Envoy's defaults).
const MAX_PATH: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(5);
const OTLP_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Without a provider nothing is traced (as with Envoy).
pub(crate) fn compile(proto: &proto::Tracing, context: &Context) -> Result<Option<Tracing>> {
    let Some(provider) = &proto.provider else { return Ok(None) };
    protocol::refuse(&[
        ("verbose", proto.verbose),
        ("spawn_upstream_span", proto.spawn_upstream_span.is_some_and(|v| v.value)),
    ])?;
    let Some(api::tracing::http::ConfigType::TypedConfig(any)) = &provider.config_type else {
        return Err(Refusal::new("provider.typed_config", "is missing"));
    };
    let (exporter, propagation) = exporter(any, context).under("provider.typed_config")?;
    let mut tags = Vec::new();
    for tag in &proto.custom_tags {
        let value = tag_value(tag).under(format!("custom_tags[{}]", tag.tag))?;
        tags.extend(value.map(|value| (tag.tag.clone(), value)));
    }
    Ok(Some(Tracing {
        sampling: Sampling {
            client: share(proto.client_sampling.as_ref()),
            random: share(proto.random_sampling.as_ref()),
            overall: share(proto.overall_sampling.as_ref()),
        },
        propagation,
        max_path: proto.max_path_tag_length.map_or(MAX_PATH, |v| v.value as usize),
        tags,
        exporter: context.exporter(exporter),
    }))
}

/// Which requests are traced is always decided by their id, and written into it.
pub(crate) fn by_request_id(proto: Option<&manager::RequestIdExtension>) -> Result<()> {
    let Some(any) = proto.and_then(|p| p.typed_config.as_ref()) else { return Ok(()) };
    let config: UuidRequestIdConfig = match kind(any) {
        "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" => unpack(any)?,
        other => return Err(Refusal::new("typed_config", format!("{other} is not supported"))),
    };
    protocol::refuse(&[
        ("typed_config.pack_trace_reason: false", config.pack_trace_reason.is_some_and(|v| !v.value)),
        (
            "typed_config.use_request_id_for_trace_sampling: false",
            config.use_request_id_for_trace_sampling.is_some_and(|v| !v.value),
        ),
    ])
}

/// Of 10,000; nothing said means all.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn share(percent: Option<&Percent>) -> u32 {
    percent.map_or(10_000, |p| (p.value.clamp(0.0, 100.0) * 100.0).round() as u32)
}

fn exporter(any: &Any, context: &Context) -> Result<(Exporter, Propagation)> {
    let local = context.telemetry.local();
    match kind(any) {
        "envoy.config.trace.v3.ZipkinConfig" => {
            // Envoy sends the node's cluster, which for an injected pod is its label `app`, or else its workload's name.
            let app = if *local.app == *Workload::unknown().app { &local.name } else { &local.app };
            zipkin(&unpack(any)?, format!("{app}.{}", local.namespace), context)
        }
        "envoy.config.trace.v3.OpenTelemetryConfig" => {
            opentelemetry(&unpack(any)?, context).map(|exporter| (exporter, Propagation::W3c))
        }
        other => Err(Refusal::new("", format!("tracer {other} is not supported; use zipkin or opentelemetry"))),
    }
}

fn zipkin(proto: &api::ZipkinConfig, service: String, context: &Context) -> Result<(Exporter, Propagation)> {
    use api::zipkin_config::{CollectorEndpointVersion as Version, TraceContextOption as Option};
    protocol::refuse(&[
        ("shared_span_context", proto.shared_span_context.is_none_or(|v| v.value)),
        ("collector_endpoint_version", proto.collector_endpoint_version() != Version::HttpJson),
        ("trace_id_128bit: false", !proto.trace_id_128bit),
        ("timestamp_trace_ids", proto.timestamp_trace_ids),
    ])?;
    let propagation = match proto.trace_context_option() {
        Option::UseB3 => Propagation::B3,
        Option::UseB3WithW3cPropagation => Propagation::B3AndW3c,
    };
    let (cluster, report) = match &proto.collector_service {
        Some(service) => http_service(service, Format::Zipkin).under("collector_service")?,
        None => {
            let host = [&proto.collector_hostname, &proto.collector_cluster].into_iter().find(|h| !h.is_empty());
            let report = Report {
                format: Format::Zipkin,
                path: path(&proto.collector_endpoint).under("collector_endpoint")?,
                authority: header(host.map_or("", String::as_str)).under("collector_hostname")?,
                headers: Vec::new(),
                timeout: TIMEOUT,
            };
            (proto.collector_cluster.clone(), report)
        }
    };
    if cluster.is_empty() {
        return Err(Refusal::new("collector_cluster", "is missing"));
    }
    let origin = Origin { service: service.into(), attributes: Vec::new() };
    Ok((Exporter { cluster: context.clusters.slot(&cluster), origin, report }, propagation))
}

fn opentelemetry(proto: &api::OpenTelemetryConfig, context: &Context) -> Result<Exporter> {
    let off = |v: &Option<envoy_api::google::protobuf::BoolValue>| v.as_ref().is_some_and(|v| !v.value);
    protocol::refuse(&[
        ("exporter", proto.exporter.is_some()),
        ("sampler", proto.sampler.is_some()),
        ("set_service_name_resource_attribute: false", off(&proto.set_service_name_resource_attribute)),
    ])?;
    let mut attributes = Vec::new();
    for detector in &proto.resource_detectors {
        let of = detector.typed_config.as_ref().map_or("", kind);
        if !of.ends_with(".EnvironmentResourceDetectorConfig") {
            return Err(Refusal::new("resource_detectors", format!("detector {} is not supported", detector.name)));
        }
        attributes.extend(environment(&std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default()));
    }
    let (cluster, report) = match (&proto.grpc_service, &proto.http_service) {
        (Some(grpc), None) => grpc_service(grpc).under("grpc_service")?,
        (None, Some(http)) => http_service(http, Format::OtlpHttp).under("http_service")?,
        _ => return Err(Refusal::new("grpc_service", "exactly one of grpc_service and http_service is needed")),
    };
    let service = if proto.service_name.is_empty() { "unknown_service:envoy" } else { &proto.service_name };
    let origin = Origin { service: service.into(), attributes };
    Ok(Exporter { cluster: context.clusters.slot(&cluster), origin, report })
}

/// `KEY=VALUE` pairs with commas between (the OpenTelemetry specification of `OTEL_RESOURCE_ATTRIBUTES`).
fn environment(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

fn grpc_service(proto: &core::GrpcService) -> Result<(String, Report)> {
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) = &proto.target_specifier else {
        return Err(Refusal::new("target_specifier", "only envoy_grpc can be used"));
    };
    protocol::refuse(&[
        ("retry_policy", proto.retry_policy.is_some() || grpc.retry_policy.is_some()),
        ("envoy_grpc.skip_envoy_headers", grpc.skip_envoy_headers),
    ])?;
    let authority = if grpc.authority.is_empty() { &grpc.cluster_name } else { &grpc.authority };
    let mut headers = Vec::new();
    for pair in &proto.initial_metadata {
        headers.push(pair_of(pair).under("initial_metadata")?);
    }
    let report = Report {
        format: Format::OtlpGrpc,
        path: PathAndQuery::from_static(OTLP_METHOD),
        authority: header(authority).under("envoy_grpc.authority")?,
        headers,
        timeout: duration(proto.timeout.as_ref()).filter(|t| !t.is_zero()).unwrap_or(TIMEOUT),
    };
    Ok((grpc.cluster_name.clone(), report))
}

fn http_service(proto: &core::HttpService, format: Format) -> Result<(String, Report)> {
    protocol::refuse(&[("formatters", !proto.formatters.is_empty())])?;
    let uri = proto.http_uri.as_ref().ok_or_else(|| Refusal::new("http_uri", "is missing"))?;
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        return Err(Refusal::new("http_uri.cluster", "is missing"));
    };
    let parsed: ::http::Uri = uri.uri.parse().map_err(|e| Refusal::new("http_uri.uri", e))?;
    let host = parsed.authority().map_or(cluster.as_str(), ::http::uri::Authority::as_str);
    let mut headers = Vec::new();
    for option in &proto.request_headers_to_add {
        let pair = option.header.as_ref().ok_or_else(|| Refusal::new("request_headers_to_add.header", "is missing"))?;
        headers.push(pair_of(pair).under("request_headers_to_add")?);
    }
    let report = Report {
        format,
        path: parsed.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        authority: header(host).under("http_uri.uri")?,
        headers,
        timeout: duration(uri.timeout.as_ref()).filter(|t| !t.is_zero()).unwrap_or(TIMEOUT),
    };
    Ok((cluster.clone(), report))
}

fn pair_of(proto: &core::HeaderValue) -> Result<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(proto.key.as_bytes()).map_err(|e| Refusal::new(&proto.key, e))?;
    let bytes = if proto.raw_value.is_empty() { proto.value.as_bytes() } else { &proto.raw_value };
    Ok((name, HeaderValue::from_bytes(bytes).map_err(|e| Refusal::new(&proto.key, e))?))
}

fn path(text: &str) -> Result<PathAndQuery> {
    text.parse().map_err(|e| Refusal::new("", e))
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|e| Refusal::new("", e))
}

/// `None` where a tag can have no value here: an environment variable that is not set, and metadata of filters, which this
/// proxy does not keep.
fn tag_value(proto: &CustomTag) -> Result<Option<TagValue>> {
    use custom_tag::Type as T;
    let given = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    Ok(match &proto.r#type {
        Some(T::Literal(literal)) => Some(TagValue::Literal(literal.value.clone())),
        Some(T::Environment(of)) => {
            std::env::var(&of.name).ok().or_else(|| given(&of.default_value)).map(TagValue::Literal)
        }
        Some(T::RequestHeader(of)) => {
            let name =
                HeaderName::from_bytes(of.name.as_bytes()).map_err(|e| Refusal::new("request_header.name", e))?;
            Some(TagValue::Header(name, given(&of.default_value)))
        }
        Some(T::Metadata(of)) => given(&of.default_value).map(TagValue::Literal),
        Some(T::Value(_)) => return Err(Refusal::unsupported("value")),
        None => return Err(Refusal::new("type", "is missing")),
    })
}
