//! Route configurations: virtual hosts and when a route applies.

use std::sync::Arc;

use ::http::HeaderValue;
use envoy_api::envoy::config::route::v3 as proto;
use proto::query_parameter_matcher::QueryParameterMatchSpecifier as Q;
use proto::route_match::PathSpecifier as P;
use rules::matching::{QueryMatch, StringMatch};
use rules::route::{PathMatch, Route, RouteCounters, RouteMatch};
use rules::table::VirtualHost;
use telemetry::Counter;
use upstream::ClusterSlot;

use crate::common::{header_match, mutation, string_match};
use crate::context::{ConfigError, Context, Refusal, Result, Under};
use crate::protocol::{refuse, refuse_set};
use crate::route_action;
use crate::routes::Routes;

/// Compiles a route configuration that came by its name; `former` is what it takes the place of.
///
/// # Errors
/// With the field that is malformed or not supported.
pub fn compile_routes(
    proto: &proto::RouteConfiguration,
    context: &Context,
    former: Option<&Routes>,
) -> std::result::Result<Arc<Routes>, ConfigError> {
    let made = refuse_table(proto).and_then(|()| Routes::resting(proto, context, former));
    made.map(Arc::new).map_err(|e| e.of(&proto.name))
}

/// Compiles the route configuration of a listener.
pub(crate) fn table(proto: &proto::RouteConfiguration, context: &Context) -> Result<Routes> {
    refuse_table(proto)?;
    Routes::inline(proto, context)
}

fn refuse_table(proto: &proto::RouteConfiguration) -> Result<()> {
    refuse_set!(proto;
        vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove, request_headers_to_add,
        request_headers_to_remove, most_specific_header_mutations_wins, cluster_specifier_plugins,
        request_mirror_policies, ignore_path_parameters_in_path_matching, typed_per_filter_config, vhost_header,
        route_specifiers,
    )
}

pub(crate) fn virtual_host(proto: &proto::VirtualHost, context: &Context) -> Result<VirtualHost<Arc<ClusterSlot>>> {
    let unsupported = [
        ("matcher", proto.matcher.is_some()),
        ("require_tls", proto.require_tls != 0),
        ("rate_limits", !proto.rate_limits.is_empty()),
        ("retry_policy", proto.retry_policy.is_some()),
        ("hedge_policy", proto.hedge_policy.is_some()),
        ("request_mirror_policies", !proto.request_mirror_policies.is_empty()),
    ];
    refuse(&unsupported)?;
    refuse_old_host(proto)?;
    refuse_set!(proto;
        include_attempt_count_in_response, include_is_timeout_retry_header, request_body_buffer_limit,
        retry_policy_typed_config, route_specifiers,
    )?;
    let extra = route_action::per_filter(&proto.typed_per_filter_config)?;
    let routes = proto.routes.iter().enumerate().map(|(i, r)| {
        let mut route = route(r, &proto.name, context).under(format!("routes[{i}]"))?;
        route.cors = route.cors.or_else(|| extra.cors.clone());
        route.fault = route.fault.or_else(|| extra.fault.clone());
        Ok(route)
    });
    Ok(VirtualHost {
        name: proto.name.as_str().into(),
        domains: proto.domains.clone(),
        routes: routes.collect::<Result<_>>()?,
        request_headers: mutation(&proto.request_headers_to_add, &proto.request_headers_to_remove)?,
        response_headers: mutation(&proto.response_headers_to_add, &proto.response_headers_to_remove)?,
        attempt_count: proto.include_request_attempt_count,
    })
}

#[allow(deprecated)] // Old forms of a filter's settings and of `request_body_buffer_limit`.
fn refuse_old_host(proto: &proto::VirtualHost) -> Result<()> {
    refuse_set!(proto; cors, per_request_buffer_limit_bytes)
}

#[allow(deprecated)] // The old form of `request_body_buffer_limit`.
fn refuse_route(proto: &proto::Route) -> Result<()> {
    refuse_set!(proto; tracing, per_request_buffer_limit_bytes, request_body_buffer_limit, route_specifiers)?;
    let hidden = proto.decorator.as_ref().is_some_and(|d| d.propagate.is_some_and(|p| !p.value));
    refuse(&[("decorator.propagate: false", hidden)])
}

fn route(proto: &proto::Route, host: &str, context: &Context) -> Result<Route<Arc<ClusterSlot>>> {
    refuse_route(proto)?;
    let given = proto.r#match.as_ref().ok_or_else(|| Refusal::new("match", "is missing"))?;
    let extra = route_action::per_filter(&proto.typed_per_filter_config)?;
    let operation = proto.decorator.as_ref().and_then(|d| HeaderValue::from_str(&d.operation).ok());
    Ok(Route {
        name: proto.name.as_str().into(),
        matches: matches(given).under("match")?,
        action: route_action::compile(proto, given, context)?,
        request_headers: mutation(&proto.request_headers_to_add, &proto.request_headers_to_remove)?,
        response_headers: mutation(&proto.response_headers_to_add, &proto.response_headers_to_remove)?,
        fault: extra.fault,
        cors: extra.cors,
        operation,
        counters: counters(host, &proto.stat_prefix, context),
    })
}

/// Envoy's counters of a route, `vhost.HOST.route.PREFIX.upstream_rq_*`.
#[derive(Debug)]
struct Counters {
    completed: Arc<Counter>,
    classes: [Arc<Counter>; 5],
}

impl RouteCounters for Counters {
    fn answered(&self, status: u16) {
        self.completed.inc();
        if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|class| self.classes.get(class)) {
            class.inc();
        }
    }
}

fn counters(host: &str, prefix: &str, context: &Context) -> Option<Arc<dyn RouteCounters>> {
    if prefix.is_empty() {
        return None;
    }
    let counter = |leaf: &str| context.telemetry.counter(&format!("vhost.{host}.route.{prefix}.upstream_rq_{leaf}"));
    Some(Arc::new(Counters {
        completed: counter("completed"),
        classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter),
    }))
}

fn matches(proto: &proto::RouteMatch) -> Result<RouteMatch> {
    let unsupported = [
        ("runtime_fraction", proto.runtime_fraction.is_some()),
        ("tls_context", proto.tls_context.is_some()),
        ("dynamic_metadata", !proto.dynamic_metadata.is_empty()),
        ("filter_state", !proto.filter_state.is_empty()),
        ("cookies", !proto.cookies.is_empty()),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Refusal::unsupported(field));
    }
    let folds = proto.case_sensitive.is_some_and(|c| !c.value);
    let text = |of: fn(Box<str>) -> StringMatch, s: &str| {
        if folds { StringMatch::IgnoreCase(Box::new(of(s.to_ascii_lowercase().into()))) } else { of(s.into()) }
    };
    let path = match &proto.path_specifier {
        Some(P::Prefix(prefix)) => PathMatch::Prefix(text(StringMatch::Prefix, prefix)),
        Some(P::Path(path)) => PathMatch::Whole(text(StringMatch::Exact, path)),
        Some(P::SafeRegex(regex)) => {
            PathMatch::Whole(StringMatch::regex(&regex.regex).map_err(|e| Refusal::new("safe_regex", e))?)
        }
        Some(P::PathSeparatedPrefix(prefix)) => PathMatch::Segments(prefix.as_str().into()),
        Some(P::ConnectMatcher(_)) => PathMatch::Connect,
        Some(P::PathMatchPolicy(_)) => return Err(Refusal::unsupported("path_match_policy")),
        None => return Err(Refusal::new("path_specifier", "is missing")),
    };
    let headers = proto.headers.iter().map(header_match).collect::<Result<_>>().under("headers")?;
    let query = proto.query_parameters.iter().map(query).collect::<Result<_>>().under("query_parameters")?;
    Ok(RouteMatch { path, headers, query, grpc: proto.grpc.is_some() })
}

fn query(proto: &proto::QueryParameterMatcher) -> Result<QueryMatch> {
    let value = match &proto.query_parameter_match_specifier {
        Some(Q::StringMatch(m)) => Some(string_match(m)?),
        Some(Q::PresentMatch(true)) | None => None,
        Some(Q::PresentMatch(false)) => return Err(Refusal::unsupported("present_match: false")),
    };
    Ok(QueryMatch { name: proto.name.as_str().into(), value })
}
