//! What a route does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, StatusCode};
use envoy_api::Any;
use envoy_api::envoy::config::core::v3::{self as core, DataSource, data_source};
use envoy_api::envoy::config::route::v3 as proto;
use envoy_api::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_api::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_api::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_api::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use proto::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use proto::route_action::{ClusterSpecifier, HostRewriteSpecifier, hash_policy::PolicySpecifier};
use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier as ClusterHostRewrite;
use rules::matching::search_regex;
use rules::route::{
    Abort, Action, Cors, Fault, Forward, HashPolicy, Mirror, Redirect, RetryOn, RetryPolicy, WeightedCluster,
};
use upstream::ClusterSlot;

use crate::common::{data_source as text_source, duration, kind, limit, mutation, per_million, string_match, unpack};
use crate::context::{Context, Refusal, Result, Under};
use crate::protocol::{refuse as refuse_fields, refuse_set};

/// Envoy's default route timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) fn compile(
    route: &proto::Route,
    matched: &proto::RouteMatch,
    context: &Context,
) -> Result<Action<Arc<ClusterSlot>>> {
    use proto::route::Action as A;
    match &route.action {
        Some(A::Route(action)) => Ok(Action::Forward(Box::new(forward(action, context).under("route")?))),
        Some(A::Redirect(action)) => Ok(Action::Redirect(Box::new(redirect(action, matched).under("redirect")?))),
        Some(A::DirectResponse(direct)) => {
            refuse_set!(direct; body_format).under("direct_response")?;
            let body = match &direct.body {
                Some(source @ DataSource { specifier: Some(_), .. }) => bytes(source).under("body")?,
                _ => Vec::new(),
            };
            let status = u16::try_from(direct.status).ok().and_then(|s| StatusCode::from_u16(s).ok());
            let status = status.ok_or_else(|| Refusal::new("direct_response.status", "is not a status"))?;
            Ok(Action::Direct { status, body: body.into() })
        }
        Some(A::NonForwardingAction(_)) => Err(Refusal::unsupported("non_forwarding_action")),
        Some(A::FilterAction(_)) => Err(Refusal::unsupported("filter_action")),
        None => Err(Refusal::new("action", "is missing")),
    }
}

fn bytes(source: &DataSource) -> Result<Vec<u8>> {
    match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        _ => text_source(Some(source)).map(String::into_bytes),
    }
}

fn forward(proto: &proto::RouteAction, context: &Context) -> Result<Forward<Arc<ClusterSlot>>> {
    refuse(proto)?;
    let clusters = clusters(proto, context)?;
    let rewrite = proto.regex_rewrite.as_ref().map(regex_rewrite).transpose().under("regex_rewrite")?;
    let retry = proto.retry_policy.as_ref().map(retry).transpose().under("retry_policy")?;
    let host_rewrite = match &proto.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(HeaderValue::from_str(host).map_err(|e| Refusal::new("host_rewrite_literal", e))?)
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(v)) if !v.value => None,
        Some(_) => return Err(Refusal::unsupported("host_rewrite_specifier")),
    };
    let mirrors = proto.request_mirror_policies.iter().map(|m| mirror(m, context)).collect::<Result<_>>();
    let stream = proto.max_stream_duration.as_ref().and_then(|m| limit(m.max_stream_duration.as_ref()));
    let timeout = match duration(proto.timeout.as_ref()) {
        Some(Duration::ZERO) => stream,
        Some(given) => Some(stream.map_or(given, |s| s.min(given))),
        None => Some(stream.map_or(TIMEOUT, |s| s.min(TIMEOUT))),
    };
    use proto::route_action::ClusterNotFoundResponseCode as N;
    Ok(Forward {
        total_weight: clusters.iter().fold(0_u32, |sum, c| sum.saturating_add(c.weight)),
        clusters,
        timeout,
        retry: retry.map(Arc::new),
        prefix_rewrite: Some(proto.prefix_rewrite.as_str()).filter(|p| !p.is_empty()).map(Into::into),
        regex_rewrite: rewrite,
        host_rewrite,
        hash: proto.hash_policy.iter().map(hash).collect::<Result<_>>().under("hash_policy")?,
        mirrors: mirrors.under("request_mirror_policies")?,
        not_found: match proto.cluster_not_found_response_code() {
            N::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            N::NotFound => StatusCode::NOT_FOUND,
            N::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        },
        grpc_max: grpc_max(proto),
        idle_timeout: proto.idle_timeout.as_ref().map(|idle| limit(Some(idle))),
        connect_ends: connect_ends(&proto.upgrade_configs).under("upgrade_configs")?,
    })
}

/// Up to which time a gRPC call may name its own limit.
fn grpc_max(proto: &proto::RouteAction) -> Option<Duration> {
    let new = proto.max_stream_duration.as_ref().and_then(|m| duration(m.grpc_timeout_header_max.as_ref()));
    #[allow(deprecated)] // The older form, which Istio sends.
    new.or_else(|| duration(proto.max_grpc_timeout.as_ref()))
}

/// Whether CONNECT ends here. Which upgrades are allowed at all, the connection manager says.
fn connect_ends(configs: &[proto::route_action::UpgradeConfig]) -> Result<bool> {
    let mut ends = false;
    for config in configs {
        if !config.upgrade_type.eq_ignore_ascii_case("connect") {
            return Err(Refusal::unsupported(&config.upgrade_type));
        }
        refuse_fields(&[("enabled: false", config.enabled.is_some_and(|v| !v.value))])?;
        if let Some(connect) = &config.connect_config {
            refuse_fields(&[
                ("connect_config.proxy_protocol_config", connect.proxy_protocol_config.is_some()),
                ("connect_config.allow_post", connect.allow_post),
            ])?;
            ends = true;
        }
    }
    Ok(ends)
}

fn refuse(proto: &proto::RouteAction) -> Result<()> {
    let unsupported = [
        ("metadata_match", proto.metadata_match.is_some()),
        ("path_rewrite_policy", proto.path_rewrite_policy.is_some()),
        ("path_rewrite", !proto.path_rewrite.is_empty()),
        ("rate_limits", !proto.rate_limits.is_empty()),
        ("hedge_policy", proto.hedge_policy.is_some()),
        ("internal_redirect_policy", proto.internal_redirect_policy.is_some()),
    ];
    refuse_fields(&unsupported)?;
    refuse_old(proto)?;
    refuse_set!(proto; append_x_forwarded_host, priority, retry_policy_typed_config, flush_timeout)?;
    if let Some(limits) = &proto.max_stream_duration {
        refuse_set!(limits; grpc_timeout_header_offset).under("max_stream_duration")?;
    }
    // Envoy joins the values of several policies, unless one ends the search.
    let joined = proto.hash_policy.split_last().is_some_and(|(_, before)| before.iter().any(|p| !p.terminal));
    refuse_fields(&[("hash_policy: several that are not terminal", joined)])
}

#[allow(deprecated)] // Old forms of other fields.
fn refuse_old(proto: &proto::RouteAction) -> Result<()> {
    refuse_set!(proto; cors, grpc_timeout_offset, internal_redirect_action, max_internal_redirects)
}

fn clusters(proto: &proto::RouteAction, context: &Context) -> Result<Vec<WeightedCluster<Arc<ClusterSlot>>>> {
    match &proto.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => Ok(vec![WeightedCluster {
            cluster: context.clusters.slot(name),
            weight: 1,
            request_headers: Default::default(),
            response_headers: Default::default(),
            host_rewrite: None,
        }]),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => refuse_weighted(weighted)
            .map(|()| weighted.clusters.iter())?
            .map(|c| {
                refuse_set!(c; cluster_header, metadata_match, typed_per_filter_config)?;
                Ok(WeightedCluster {
                    cluster: context.clusters.slot(&c.name),
                    weight: c.weight.map_or(0, |w| w.value),
                    request_headers: mutation(&c.request_headers_to_add, &c.request_headers_to_remove)?,
                    response_headers: mutation(&c.response_headers_to_add, &c.response_headers_to_remove)?,
                    host_rewrite: match &c.host_rewrite_specifier {
                        None => None,
                        Some(ClusterHostRewrite::HostRewriteLiteral(host)) => {
                            Some(HeaderValue::from_str(host).map_err(|e| Refusal::new("host_rewrite_literal", e))?)
                        }
                    },
                })
            })
            .collect::<Result<_>>()
            .under("weighted_clusters"),
        _ => Err(Refusal::unsupported("cluster_specifier")),
    }
}

#[allow(deprecated)] // The sum is the sum of the weights.
fn refuse_weighted(proto: &proto::WeightedCluster) -> Result<()> {
    refuse_set!(proto; total_weight, random_value_specifier)
}

fn regex_rewrite(
    proto: &envoy_api::envoy::r#type::matcher::v3::RegexMatchAndSubstitute,
) -> Result<(regex::Regex, Box<str>)> {
    let pattern = proto.pattern.as_ref().ok_or_else(|| Refusal::new("pattern", "is missing"))?;
    let regex = search_regex(&pattern.regex).map_err(|e| Refusal::new("pattern", e))?;
    Ok((regex, re2_substitution(&proto.substitution).into()))
}

/// RE2 writes `\1`, the regex crate `${1}`.
fn re2_substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => out.extend(["${", &digit.to_string(), "}"]),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}

fn retry(proto: &proto::RetryPolicy) -> Result<RetryPolicy> {
    refuse_set!(proto;
        retriable_headers, retriable_request_headers, per_try_idle_timeout, rate_limited_retry_back_off,
        retry_options_predicates, refresh_cluster_on_retry,
    )?;
    let other_priorities = proto.retry_priority.as_ref().map(priorities).transpose().under("retry_priority")?;
    let mut previous_hosts = false;
    for predicate in &proto.retry_host_predicate {
        match predicate.name.as_str() {
            "envoy.retry_host_predicates.previous_hosts" => previous_hosts = true,
            other => return Err(Refusal::new("retry_host_predicate", format!("{other} is not supported"))),
        }
    }
    let backoff = proto.retry_back_off.as_ref();
    let base = backoff.and_then(|b| duration(b.base_interval.as_ref())).unwrap_or(Duration::from_millis(25));
    let statuses = proto.retriable_status_codes.iter().filter_map(|s| u16::try_from(*s).ok()).collect();
    Ok(RetryPolicy {
        on: RetryOn::parse(&proto.retry_on)
            .map_err(|name| Refusal::new("retry_on", format!("unknown condition \"{name}\"")))?,
        statuses,
        retries: proto.num_retries.map_or(1, |n| n.value),
        per_try_timeout: limit(proto.per_try_timeout.as_ref()),
        backoff_base: base,
        backoff_max: backoff.and_then(|b| duration(b.max_interval.as_ref())).unwrap_or(base * 10),
        previous_hosts,
        host_attempts: u32::try_from(proto.host_selection_retry_max_attempts).unwrap_or(1).max(1),
        other_priorities: other_priorities.unwrap_or(0),
        cautious: proto.retry_on == ISTIO_DEFAULT,
    })
}

/// What Istio sends where no user has asked for anything. In these words nobody asks that requests be repeated which the
/// application may have seen; in any others a user has chosen.
const ISTIO_DEFAULT: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// After how many tries other priorities are tried.
fn priorities(proto: &proto::retry_policy::RetryPriority) -> Result<u32> {
    match &proto.config_type {
        Some(proto::retry_policy::retry_priority::ConfigType::TypedConfig(any))
            if kind(any) == "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" =>
        {
            let config: PreviousPrioritiesConfig = unpack(any)?;
            Ok(u32::try_from(config.update_frequency).unwrap_or(1).max(1))
        }
        _ => Err(Refusal::new("name", format!("{} is not supported", proto.name))),
    }
}

fn hash(proto: &proto::route_action::HashPolicy) -> Result<HashPolicy> {
    match &proto.policy_specifier {
        Some(PolicySpecifier::Header(h)) if h.regex_rewrite.is_none() => {
            let name = HeaderName::from_bytes(h.header_name.as_bytes());
            Ok(HashPolicy::Header(name.map_err(|e| Refusal::new("header_name", e))?))
        }
        Some(PolicySpecifier::Cookie(c)) => Ok(HashPolicy::Cookie {
            name: c.name.as_str().into(),
            ttl: duration(c.ttl.as_ref()),
            path: c.path.as_str().into(),
            attributes: c
                .attributes
                .iter()
                .fold(String::new(), |all, a| match a.value.as_str() {
                    "" => format!("{all}; {}", a.name),
                    value => format!("{all}; {}={value}", a.name),
                })
                .into(),
        }),
        Some(PolicySpecifier::ConnectionProperties(p)) if p.source_ip => Ok(HashPolicy::SourceIp),
        Some(PolicySpecifier::QueryParameter(q)) => Ok(HashPolicy::Query(q.name.as_str().into())),
        _ => Err(Refusal::unsupported("policy_specifier")),
    }
}

fn mirror(proto: &proto::route_action::RequestMirrorPolicy, context: &Context) -> Result<Mirror<Arc<ClusterSlot>>> {
    refuse_set!(proto; cluster_header)?;
    refuse_fields(&[
        ("request_headers_mutations", !proto.request_headers_mutations.is_empty()),
        ("host_rewrite_literal", !proto.host_rewrite_literal.is_empty()),
    ])?;
    let fraction = proto.runtime_fraction.as_ref().map(|f| per_million(f.default_value.as_ref()));
    Ok(Mirror {
        cluster: context.clusters.slot(&proto.cluster),
        per_million: fraction.unwrap_or(1_000_000),
        shadow_suffix: !proto.disable_shadow_host_suffix_append,
    })
}

fn redirect(proto: &proto::RedirectAction, matched: &proto::RouteMatch) -> Result<Redirect> {
    use proto::redirect_action::RedirectResponseCode as R;
    let text = |s: &str| Some(s).filter(|s| !s.is_empty()).map(Into::into);
    let status = match proto.response_code() {
        R::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        R::Found => StatusCode::FOUND,
        R::SeeOther => StatusCode::SEE_OTHER,
        R::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        R::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    if proto.strip_query {
        return Err(Refusal::unsupported("strip_query"));
    }
    let (path, prefix) = match (&proto.path_rewrite_specifier, &matched.path_specifier) {
        (None, _) => (None, None),
        (Some(PathRewriteSpecifier::PathRedirect(path)), _) => (text(path), None),
        (Some(PathRewriteSpecifier::PrefixRewrite(new)), Some(proto::route_match::PathSpecifier::Prefix(old))) => {
            (None, Some((old.as_str().into(), new.as_str().into())))
        }
        _ => return Err(Refusal::unsupported("path_rewrite_specifier")),
    };
    let scheme = match &proto.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text(scheme),
        _ => None,
    };
    let port = u16::try_from(proto.port_redirect).ok().filter(|p| *p != 0);
    Ok(Redirect { status, scheme, host: text(&proto.host_redirect), port, path, prefix })
}

/// Per-route settings of filters.
#[derive(Default)]
pub(crate) struct PerFilter {
    pub(crate) fault: Option<Arc<Fault>>,
    pub(crate) cors: Option<Arc<Cors>>,
}

pub(crate) fn per_filter(config: &HashMap<String, Any>) -> Result<PerFilter> {
    let mut found = PerFilter::default();
    for (name, any) in config {
        match kind(any) {
            "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
                found.fault = Some(Arc::new(fault(&unpack(any)?).under(name)?));
            }
            "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
                found.cors = Some(Arc::new(cors(&unpack(any)?).under(name)?));
            }
            other => return Err(Refusal::new("typed_per_filter_config", format!("{name}: {other} is not supported"))),
        }
    }
    Ok(found)
}

/// A fault filter's configuration, on the listener or a route.
pub(crate) fn fault(proto: &HttpFault) -> Result<Fault> {
    refuse_set!(proto; response_rate_limit, headers, upstream_cluster, downstream_nodes, max_active_faults)?;
    if let Some(abort) = &proto.abort {
        refuse_set!(abort; response_body).under("abort")?;
    }
    Ok(Fault {
        delay: proto.delay.as_ref().map(delay).transpose().under("delay")?,
        abort: proto.abort.as_ref().map(abort).transpose().under("abort")?,
    })
}

fn delay(proto: &FaultDelay) -> Result<(Duration, u32)> {
    match &proto.fault_delay_secifier {
        Some(fault_delay::FaultDelaySecifier::FixedDelay(fixed)) => {
            Ok((duration(Some(fixed)).unwrap_or_default(), per_million(proto.percentage.as_ref())))
        }
        _ => Err(Refusal::unsupported("header_delay")),
    }
}

fn abort(proto: &FaultAbort) -> Result<(Abort, u32)> {
    let kind = match &proto.error_type {
        Some(fault_abort::ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(*status).ok().and_then(|s| StatusCode::from_u16(s).ok());
            Abort::Http(status.ok_or_else(|| Refusal::new("http_status", "is not a status"))?)
        }
        Some(fault_abort::ErrorType::GrpcStatus(status)) => Abort::Grpc(u16::try_from(*status).unwrap_or(2)),
        _ => return Err(Refusal::unsupported("header_abort")),
    };
    Ok((kind, per_million(proto.percentage.as_ref())))
}

fn cors(proto: &CorsPolicy) -> Result<Cors> {
    refuse_set!(proto; shadow_enabled, allow_private_network_access)?;
    // Istio names the default: always on.
    let always = |f: &core::RuntimeFractionalPercent| per_million(f.default_value.as_ref()) == 1_000_000;
    refuse_fields(&[("filter_enabled", proto.filter_enabled.as_ref().is_some_and(|f| !always(f)))])?;
    let value = |s: &str| match s {
        "" => Ok(None),
        s => HeaderValue::from_str(s).map(Some).map_err(|e| Refusal::new("cors", e)),
    };
    Ok(Cors {
        origins: proto.allow_origin_string_match.iter().map(string_match).collect::<Result<_>>()?,
        methods: value(&proto.allow_methods)?,
        headers: value(&proto.allow_headers)?,
        expose: value(&proto.expose_headers)?,
        max_age: value(&proto.max_age)?,
        credentials: proto.allow_credentials.is_some_and(|v| v.value),
        forward_unmatched: proto.forward_not_matching_preflights.is_none_or(|v| v.value),
    })
}
