//! The filters that decide, in configured order.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_config::{HttpFilter, HttpManager};
use rules::RequestView;
use rules::rbac::{Attributes, Effect, Engine};
use rules::route::{Abort, Cors, Fault, Route};
use serde_json::{Map, Value};
use std::sync::Arc;
use telemetry::ResponseFlags;
use upstream::ClusterSlot;

use super::Connection;
use super::headers::remote;
use super::reply::Local;
use super::token;
use crate::connection::denial;

/// Whether the request may go on.
pub(crate) enum Verdict {
    /// It may.
    Pass,
    /// It is answered here.
    Answer(Local),
}

/// Authentication of end users and authorization, which look at the request alone. What the tokens change in the
/// request is given back; none when no filter asks for tokens.
pub(crate) fn authorise(
    connection: &Connection,
    manager: &HttpManager,
    view: &RequestView<'_>,
) -> Result<Option<jwt::Changes>, Local> {
    let mut tokens: Option<jwt::Changes> = None;
    for filter in &manager.filters {
        match filter {
            HttpFilter::Jwt(policy) => {
                let preflight = || *view.method == *"OPTIONS" && is_preflight(&Method::OPTIONS, view.headers);
                if !(policy.bypass_preflight && preflight()) {
                    tokens = Some(token::check(policy, view)?);
                }
            }
            HttpFilter::Rbac(engine) => {
                let claims = tokens.as_ref().map(|t| &t.claims);
                if let Some(reply) = denied(engine, &attributes(connection, manager, view, claims)) {
                    return Err(reply);
                }
            }
            HttpFilter::ShadowRbac(engine) => {
                let claims = tokens.as_ref().map(|t| &t.claims);
                let decision = engine.decide(&attributes(connection, manager, view, claims));
                tracing::debug!(?decision, "dry run");
            }
            HttpFilter::Fault(_) | HttpFilter::Cors => {}
        }
    }
    Ok(tokens)
}

/// What policies look at.
fn attributes<'a>(
    connection: &'a Connection,
    manager: &HttpManager,
    view: &RequestView<'a>,
    claims: Option<&'a Map<String, Value>>,
) -> Attributes<'a> {
    Attributes {
        request: Some(*view),
        path: view.path_only(),
        remote: remote(manager, view.headers, connection.about.source).ip(),
        claims,
        ..connection.about.attributes()
    }
}

fn denied(engine: &Engine, attributes: &Attributes<'_>) -> Option<Local> {
    let decision = engine.decide(attributes);
    (engine.effect != Effect::Log && !decision.allowed).then(|| Local {
        status: StatusCode::FORBIDDEN,
        flags: ResponseFlags::NONE,
        details: Cow::Owned(denial(&decision)),
        body: Bytes::from_static(b"RBAC: access denied"),
        grpc: Some(7),
        challenge: None,
        close: false,
    })
}

/// Faults of the route, or of the listener. Delays here.
pub(crate) async fn fault(manager: &HttpManager, route: &Route<Arc<ClusterSlot>>) -> (ResponseFlags, Verdict) {
    let mut flags = ResponseFlags::NONE;
    for filter in &manager.filters {
        let HttpFilter::Fault(listener) = filter else { continue };
        let Some(fault) = route.fault.as_deref().or(listener.as_ref()) else { continue };
        let Fault { delay, abort } = fault;
        if let Some((time, share)) = delay
            && fastrand::u32(..1_000_000) < *share
        {
            flags.insert(ResponseFlags::DI);
            tokio::time::sleep(*time).await;
        }
        if let Some((abort, share)) = abort
            && fastrand::u32(..1_000_000) < *share
        {
            let (status, grpc) = match abort {
                Abort::Http(status) => (*status, None),
                Abort::Grpc(code) => (StatusCode::OK, Some(*code)),
            };
            let mut reply = Local::new(status, ResponseFlags::FI, "fault_filter_abort", "fault filter abort");
            reply.grpc = grpc;
            return (flags, Verdict::Answer(reply));
        }
    }
    (flags, Verdict::Pass)
}

/// The rules of cross-origin requests that apply to this one, and its origin.
pub(crate) fn cors<'a>(
    manager: &HttpManager,
    route: &'a Route<Arc<ClusterSlot>>,
    headers: &HeaderMap,
) -> Option<(&'a Cors, HeaderValue)> {
    let cors = route.cors.as_deref().filter(|_| manager.filters.iter().any(|f| matches!(f, HttpFilter::Cors)))?;
    let origin = headers.get(header::ORIGIN)?;
    let text = origin.to_str().ok()?;
    cors.origins.iter().any(|o| o.is_match(text)).then(|| (cors, origin.clone()))
}

/// Whether a preflight of an origin that is not allowed ends here, without permission.
pub(crate) fn ends_preflight(manager: &HttpManager, route: &Route<Arc<ClusterSlot>>, headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN)
        && manager.filters.iter().any(|f| matches!(f, HttpFilter::Cors))
        && route.cors.as_deref().is_some_and(|cors| !cors.forward_unmatched)
}

/// Whether a request asks what it would be allowed.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Adds what the browser wants to see.
pub(crate) fn allow_origin(cors: &Cors, origin: HeaderValue, preflight: bool, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let preflight_only = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers),
        (header::ACCESS_CONTROL_MAX_AGE, &cors.max_age),
    ];
    for (name, value) in preflight_only.into_iter().filter(|_| preflight) {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    if let Some(expose) = cors.expose.as_ref().filter(|_| !preflight) {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}
