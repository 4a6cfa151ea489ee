//! The HTTP connection manager.

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use envoy_api::Any;
use envoy_api::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_api::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
use envoy_api::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_api::envoy::extensions::filters::http::router::v3::Router;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use envoy_api::istio::envoy::config::filter::http::alpn::v2alpha1::{FilterConfig, filter_config};
use proto::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
};
use rules::path::{EscapedSlashes, Normalise};
use rules::rbac::Engine;
use rules::route::Fault;
use telemetry::AccessLog;
use upstream::NameLimits;

use crate::access_log;
use crate::common::{kind, limit, limit_or, unpack};
use crate::context::{Context, Refusal, Result, RouteSlot, Under};
use crate::jwt;
use crate::names;
use crate::protocol::{self, Common, Http2, refuse_set};
use crate::rbac::engine;
use crate::route;
use crate::route_action;
use crate::routes::Routes;
use crate::trace::{self, Tracing};

/// Envoy's default of `stream_idle_timeout`.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// Envoy's default of `delayed_close_timeout`.
const DELAYED_CLOSE: Duration = Duration::from_secs(1);

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
    /// Passed on as it came from a client with a certificate, else removed.
    Forward,
    /// Passed on as it came, whoever sent it.
    AlwaysForward,
    /// The client's certificate is added.
    Append,
    /// The client's certificate replaces it.
    Replace,
}

/// What is told of the client's certificate, beside its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertDetails {
    /// The subject.
    pub subject: bool,
    /// The names that are URIs.
    pub uri: bool,
    /// The names that are DNS names.
    pub dns: bool,
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
    /// What is told of the client's certificate.
    pub cert_details: CertDetails,
    /// Make `x-request-id` when missing.
    pub request_id: bool,
    /// Trust the connection's address rather than `x-forwarded-for`, and append to it.
    pub use_remote_address: bool,
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
    /// `expect: 100-continue` is the upstream's to answer, not ours.
    pub proxy_continue: bool,
    /// HTTP/1 header names keep the case they came in.
    pub preserve_case: bool,
    /// The longest silence of one stream, where its route says nothing else; `None` is no limit.
    pub stream_idle: Option<Duration>,
    /// How long a connection that we end is read on, so that its client gets our last words; `None`: not at all.
    pub delayed_close: Option<Duration>,
    /// How long connections live, and what heads may hold.
    pub common: Common,
    /// HTTP/2.
    pub http2: Http2,
    /// How requests are traced, if they are.
    pub tracing: Option<Tracing>,
    /// Requests bring the names of hosts, where a cluster is for such; within these limits.
    pub names: Option<NameLimits>,
    /// Whether a plain connection is HTTP/2; `None`: its first bytes tell.
    pub plain_http2: Option<bool>,
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
            ForwardClientCertDetails::AlwaysForwardOnly => ClientCert::AlwaysForward,
        },
        cert_details: cert_details(proto.set_current_client_cert_details.as_ref())
            .under("set_current_client_cert_details")?,
        request_id: proto.generate_request_id.is_none_or(|v| v.value),
        use_remote_address: proto.use_remote_address.is_some_and(|v| v.value),
        upgrades: upgrades(&proto.upgrade_configs).under("upgrade_configs")?,
        mesh_alpn: false,
        peer_metadata: false,
        stats: false,
        max_head: proto.max_request_headers_kb.map_or(60, |v| v.value) as usize * 1024,
        proxy_continue: proto.proxy_100_continue,
        stream_idle: limit_or(proto.stream_idle_timeout.as_ref(), Some(STREAM_IDLE)),
        delayed_close: limit_or(proto.delayed_close_timeout.as_ref(), Some(DELAYED_CLOSE)),
        preserve_case: protocol::http1(proto.http_protocol_options.as_ref()).under("http_protocol_options")?,
        common: protocol::common(proto.common_http_protocol_options.as_ref()).under("common_http_protocol_options")?,
        tracing: match &proto.tracing {
            Some(tracing) => {
                trace::by_request_id(proto.request_id_extension.as_ref()).under("request_id_extension")?;
                trace::compile(tracing, context).under("tracing")?
            }
            None => None,
        },
        names: None,
        plain_http2: match proto.codec_type() {
            CodecType::Http1 => Some(false),
            CodecType::Http2 => Some(true),
            CodecType::Auto | CodecType::Http3 => None,
        },
        http2: protocol::http2(proto.http2_protocol_options.as_ref()).under("http2_protocol_options")?,
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
        "envoy.extensions.filters.http.router.v3.Router" => return refuse_router(&unpack(any)?).map(|()| true),
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
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
            alpn(&unpack(any)?)?;
            manager.mesh_alpn = true;
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig" => {
            manager.names = Some(names::http(&unpack(any)?)?);
        }
        "io.istio.http.peer_metadata.Config" => manager.peer_metadata = true,
        "stats.PluginConfig" => manager.stats = true,
        // Counts gRPC messages for Envoy's own statistics; it changes no traffic.
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {}
        other => return Err(Refusal::new("typed_config", format!("HTTP filter {other} is not supported"))),
    }
    Ok(false)
}

fn refuse_router(proto: &Router) -> Result<()> {
    refuse_set!(proto;
        suppress_envoy_headers, respect_expected_rq_timeout, strict_check_headers, upstream_http_filters, upstream_log,
        upstream_log_options, reject_connect_request_early_data,
    )
}

/// `istio.alpn`: what is offered upstream is Istio's, by the protocol of the request.
fn alpn(proto: &FilterConfig) -> Result<()> {
    use filter_config::Protocol as P;
    for given in &proto.alpn_override {
        let offered: [&str; 3] = match given.upstream_protocol() {
            P::Http10 => ["istio-http/1.0", "istio", "http/1.0"],
            P::Http11 => ["istio-http/1.1", "istio", "http/1.1"],
            P::Http2 => ["istio-h2", "istio", "h2"],
        };
        if given.alpn_override != offered {
            return Err(Refusal::new(
                "alpn_override",
                format!("only Istio's own offers are built, such as {offered:?}"),
            ));
        }
    }
    Ok(())
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
    use proto::http_connection_manager::ServerHeaderTransformation as S;
    refuse_set!(proto;
        drain_timeout, drain_timeout_jitter, preserve_external_request_id, append_local_overload,
        stream_error_on_invalid_http_message, http1_safe_max_connection_duration, add_proxy_protocol_connection_state,
    )?;
    if let Some(addresses) = &proto.internal_address_config {
        refuse_set!(addresses; unix_sockets, cidr_ranges).under("internal_address_config")?;
    }
    if let Some(any) = proto.request_id_extension.as_ref().and_then(|e| e.typed_config.as_ref())
        && kind(any) != "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"
    {
        return Err(Refusal::unsupported("request_id_extension"));
    }
    let present = proto.server_header_transformation() == S::AppendIfAbsent;
    protocol::refuse(&[("server_header_transformation: APPEND_IF_ABSENT", present)])?;
    protocol::refuse(&[
        ("codec_type: HTTP3", proto.codec_type() == CodecType::Http3),
        ("add_user_agent", proto.add_user_agent.is_some_and(|v| v.value)),
        ("local_reply_config", proto.local_reply_config.is_some()),
        ("original_ip_detection_extensions", !proto.original_ip_detection_extensions.is_empty()),
        ("early_header_mutation_extensions", !proto.early_header_mutation_extensions.is_empty()),
        ("strip_matching_host_port", proto.strip_matching_host_port),
        ("strip_port_mode", proto.strip_port_mode.is_some()),
        ("strip_trailing_host_dot", proto.strip_trailing_host_dot),
        ("via", !proto.via.is_empty()),
        ("xff_num_trusted_hops", proto.xff_num_trusted_hops != 0),
        ("skip_xff_append", proto.skip_xff_append),
        ("append_x_forwarded_port", proto.append_x_forwarded_port),
        ("represent_ipv4_remote_address_as_ipv4_mapped_ipv6", proto.represent_ipv4_remote_address_as_ipv4_mapped_ipv6),
        ("http3_protocol_options", proto.http3_protocol_options.is_some()),
        ("scheme_header_transformation", proto.scheme_header_transformation.is_some()),
        ("forward_proto_config", proto.forward_proto_config.is_some()),
        ("stream_flush_timeout", proto.stream_flush_timeout.is_some()),
        ("request_timeout", limit(proto.request_timeout.as_ref()).is_some()),
        ("request_headers_timeout", limit(proto.request_headers_timeout.as_ref()).is_some()),
        ("access_log_flush_interval", log_interval(proto)),
        ("flush_access_log_on_new_request", log_on_new(proto)),
        ("access_log_options", log_options(proto)),
        ("always_set_request_id_in_response", proto.always_set_request_id_in_response),
        ("forward_client_cert_matcher", proto.forward_client_cert_matcher.is_some()),
        ("path_normalization_options", proto.path_normalization_options.is_some()),
        ("proxy_status_config", proto.proxy_status_config.is_some()),
        ("typed_header_validation_config", proto.typed_header_validation_config.is_some()),
    ])
}

#[allow(deprecated)] // The old place of `access_log_options`.
fn log_interval(proto: &proto::HttpConnectionManager) -> bool {
    proto.access_log_flush_interval.is_some()
}

#[allow(deprecated)] // The old place of `access_log_options`.
fn log_on_new(proto: &proto::HttpConnectionManager) -> bool {
    proto.flush_access_log_on_new_request
}

/// Log lines before the end of a request.
fn log_options(proto: &proto::HttpConnectionManager) -> bool {
    proto.access_log_options.as_ref().is_some_and(|o| {
        o.access_log_flush_interval.is_some()
            || o.flush_access_log_on_new_request
            || o.flush_log_on_tunnel_successfully_established
    })
}

/// Upgrades that are allowed, lower case.
fn upgrades(configs: &[proto::http_connection_manager::UpgradeConfig]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for config in configs.iter().filter(|c| c.enabled.is_none_or(|v| v.value)) {
        let name = config.upgrade_type.to_ascii_lowercase();
        protocol::refuse(&[("filters", !config.filters.is_empty())])?;
        if matches!(name.as_str(), "connect-udp" | "connect-ip") {
            return Err(Refusal::unsupported(&config.upgrade_type));
        }
        names.push(name);
    }
    Ok(names)
}

fn cert_details(proto: Option<&proto::http_connection_manager::SetCurrentClientCertDetails>) -> Result<CertDetails> {
    let Some(proto) = proto else { return Ok(CertDetails::default()) };
    refuse_set!(proto; cert, chain, issuer, format)?;
    Ok(CertDetails { subject: proto.subject.is_some_and(|v| v.value), uri: proto.uri, dns: proto.dns })
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
