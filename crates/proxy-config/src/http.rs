//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use envoy_api::Any;
use envoy_api::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_api::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use envoy_api::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use proto::http_connection_manager::{ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier};
use rules::path::{EscapedSlashes, Normalise};
use rules::rbac::Engine;
use rules::route::Fault;
use telemetry::AccessLog;

use crate::access_log;
use crate::common::{kind, limit, unpack};
use crate::context::{Context, Refusal, Result, RouteSlot, Routes, Under};
use crate::jwt;
use crate::rbac::engine;
use crate::route;
use crate::route_action;

/// Where routes come from.
#[derive(Debug)]
pub enum RouteSource {
    /// From the listener itself.
    Inline(Arc<Routes>),
    /// By RDS.
    Named(Arc<RouteSlot>),
}

/// A filter that may answer or change a request, in configured order.
#[derive(Debug)]
pub enum HttpFilter {
    /// Tokens of end users.
    Jwt(::jwt::Policy),
    /// Authorization.
    Rbac(Engine),
    /// Authorization that only logs what it would do.
    ShadowRbac(Engine),
    /// Fault injection; routes may have faults of their own.
    Fault(Option<Fault>),
    /// Cross-origin rules of routes.
    Cors,
}

/// What happens to `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// Removed.
    Sanitize,
    /// Passed on as it came.
    Forward,
    /// The client's certificate is added.
    Append,
    /// The client's certificate replaces it.
    Replace,
}

/// How HTTP is served on a filter chain.
#[derive(Debug)]
pub struct HttpManager {
    /// For statistics.
    pub stat_prefix: Arc<str>,
    /// Routes.
    pub routes: RouteSource,
    /// Filters that decide.
    pub filters: Vec<HttpFilter>,
    /// Logs.
    pub logs: Vec<Arc<AccessLog>>,
    /// `server` header of answers; `None` passes the upstream's on.
    pub server: Option<HeaderValue>,
    /// How paths are normalised before any decision.
    pub normalise: Normalise,
    /// What happens to `x-forwarded-client-cert`.
    pub client_cert: ClientCert,
    /// Make `x-request-id` when missing.
    pub request_id: bool,
    /// Trust the connection's address rather than `x-forwarded-for`, and append to it.
    pub use_remote_address: bool,
    /// Until the request has arrived whole.
    pub request_timeout: Option<Duration>,
    /// Silence on a stream.
    pub stream_idle: Option<Duration>,
    /// Upgrades allowed, lower case, such as `websocket`.
    pub upgrades: Vec<String>,
    /// The `istio.alpn` filter: offer the mesh's ALPN upstream.
    pub mesh_alpn: bool,
    /// Exchange workload metadata by headers.
    pub peer_metadata: bool,
    /// Report Istio's metrics.
    pub stats: bool,
    /// Largest request head, bytes.
    pub max_head: usize,
}

pub(crate) fn compile(proto: &proto::HttpConnectionManager, context: &Context) -> Result<HttpManager> {
    refuse(proto)?;
    let routes = match &proto.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => RouteSource::Named(context.route_slot(&rds.route_config_name)),
        Some(RouteSpecifier::RouteConfig(inline)) => {
            RouteSource::Inline(Arc::new(route::table(inline, context).under("route_config")?))
        }
        _ => return Err(Refusal::unsupported("scoped_routes")),
    };
    let mut manager = HttpManager {
        stat_prefix: proto.stat_prefix.trim_end_matches(';').into(),
        routes,
        filters: Vec::new(),
        logs: access_log::compile(&proto.access_log)?,
        server: server(proto)?,
        normalise: normalise(proto)?,
        client_cert: match proto.forward_client_cert_details() {
            ForwardClientCertDetails::Sanitize => ClientCert::Sanitize,
            ForwardClientCertDetails::ForwardOnly => ClientCert::Forward,
            ForwardClientCertDetails::AppendForward => ClientCert::Append,
            ForwardClientCertDetails::SanitizeSet => ClientCert::Replace,
            ForwardClientCertDetails::AlwaysForwardOnly => ClientCert::Forward,
        },
        request_id: proto.generate_request_id.is_none_or(|v| v.value),
        use_remote_address: proto.use_remote_address.is_some_and(|v| v.value),
        request_timeout: limit(proto.request_timeout.as_ref()),
        // Envoy's default is five minutes; zero turns it off.
        stream_idle: match proto.stream_idle_timeout {
            None => Some(Duration::from_secs(300)),
            given => limit(given.as_ref()),
        },
        upgrades: proto.upgrade_configs.iter().map(|u| u.upgrade_type.to_ascii_lowercase()).collect(),
        mesh_alpn: false,
        peer_metadata: false,
        stats: false,
        max_head: proto.max_request_headers_kb.map_or(60, |v| v.value) as usize * 1024,
    };
    let mut routed = false;
    for filter in &proto.http_filters {
        routed = add_filter(&mut manager, filter).under(format!("http_filters[{}]", filter.name))?;
    }
    if routed {
        Ok(manager)
    } else {
        Err(Refusal::new("http_filters", "the last filter must be envoy.filters.http.router"))
    }
}

/// Adds one filter; `true` for the router.
fn add_filter(manager: &mut HttpManager, filter: &proto::HttpFilter) -> Result<bool> {
    use proto::http_filter::ConfigType as C;
    if filter.disabled {
        return Ok(false);
    }
    let any = match &filter.config_type {
        Some(C::TypedConfig(any)) => any,
        Some(C::ConfigDiscovery(_)) => return Err(Refusal::unsupported("config_discovery")),
        None => return Err(Refusal::new("typed_config", "is missing")),
    };
    match extension(any)?.as_str() {
        "envoy.extensions.filters.http.router.v3.Router" => return Ok(true),
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            let rbac: Rbac = unpack(any)?;
            if rbac.matcher.is_some() || rbac.shadow_matcher.is_some() {
                return Err(Refusal::unsupported("matcher"));
            }
            if let Some(rules) = &rbac.shadow_rules {
                manager.filters.push(HttpFilter::ShadowRbac(engine(rules).under("shadow_rules")?));
            }
            if let Some(rules) = &rbac.rules {
                manager.filters.push(HttpFilter::Rbac(engine(rules).under("rules")?));
            }
        }
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
            manager.filters.push(HttpFilter::Jwt(jwt::compile(&unpack::<JwtAuthentication>(any)?)?));
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            let fault = route_action::fault(&unpack::<HttpFault>(any)?)?;
            let fault = Some(fault).filter(|f| f.delay.is_some() || f.abort.is_some());
            manager.filters.push(HttpFilter::Fault(fault));
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => manager.filters.push(HttpFilter::Cors),
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => manager.mesh_alpn = true,
        "io.istio.http.peer_metadata.Config" => manager.peer_metadata = true,
        "stats.PluginConfig" => manager.stats = true,
        // Counts gRPC messages for Envoy's own statistics; it changes no traffic.
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {}
        other => return Err(Refusal::new("typed_config", format!("HTTP filter {other} is not supported"))),
    }
    Ok(false)
}

/// The type of an extension; a TypedStruct names the type it stands for.
pub(crate) fn extension(any: &Any) -> Result<String> {
    Ok(match kind(any) {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            let typed: envoy_api::udpa::r#type::v1::TypedStruct = unpack(any)?;
            typed.type_url.rsplit('/').next().unwrap_or_default().to_owned()
        }
        other => other.to_owned(),
    })
}

fn refuse(proto: &proto::HttpConnectionManager) -> Result<()> {
    let unsupported = [
        ("local_reply_config", proto.local_reply_config.is_some()),
        ("original_ip_detection_extensions", !proto.original_ip_detection_extensions.is_empty()),
        ("early_header_mutation_extensions", !proto.early_header_mutation_extensions.is_empty()),
        ("strip_matching_host_port", proto.strip_matching_host_port),
        ("strip_port_mode", proto.strip_port_mode.is_some()),
        ("via", !proto.via.is_empty()),
        ("xff_num_trusted_hops", proto.xff_num_trusted_hops != 0),
        ("http3_protocol_options", proto.http3_protocol_options.is_some()),
        ("tracing.provider", proto.tracing.as_ref().is_some_and(|t| t.provider.is_some())),
    ];
    match unsupported.iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(Refusal::unsupported(field)),
        None => Ok(()),
    }
}

fn server(proto: &proto::HttpConnectionManager) -> Result<Option<HeaderValue>> {
    use proto::http_connection_manager::ServerHeaderTransformation as S;
    match proto.server_header_transformation() {
        S::PassThrough => Ok(None),
        _ if proto.server_name.is_empty() => Ok(Some(HeaderValue::from_static("envoy"))),
        _ => HeaderValue::from_str(&proto.server_name).map(Some).map_err(|e| Refusal::new("server_name", e)),
    }
}

fn normalise(proto: &proto::HttpConnectionManager) -> Result<Normalise> {
    use PathWithEscapedSlashesAction as A;
    Ok(Normalise {
        path: proto.normalize_path.is_some_and(|v| v.value),
        merge_slashes: proto.merge_slashes,
        escaped_slashes: match proto.path_with_escaped_slashes_action() {
            A::ImplementationSpecificDefault | A::KeepUnchanged => EscapedSlashes::Keep,
            A::RejectRequest => EscapedSlashes::Reject,
            A::UnescapeAndForward => EscapedSlashes::Unescape,
            A::UnescapeAndRedirect => {
                return Err(Refusal::unsupported("path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"));
            }
        },
    })
}
