//! A request's way: prepare, authorise, route, fault, then forward, redirect or answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use proxy_config::{HttpManager, RouteSource, Routes};
use rules::RequestView;
use rules::headers::Side;
use rules::path::normalise;
use rules::route::{Action, Route, is_grpc};
use rules::table::VirtualHost;
use telemetry::ResponseFlags;
use upstream::ClusterSlot;

use super::exchange::Exchange;
use super::filters::{self, Verdict};
use super::forward::forward;
use super::headers;
use super::held::ReplyBody;
use super::reply::{self, Local};
use super::trace::Trace;
use super::{Connection, doubt, token, upgrade};

/// Answers one request.
pub(crate) async fn handle(
    connection: &Rc<Connection>,
    manager: &Arc<HttpManager>,
    mut request: Request<Incoming>,
) -> Response<ReplyBody> {
    let mut exchange = Exchange::new(connection.clone(), manager.clone(), &request);
    let answer = |exchange, local| reply::local(exchange, manager.server.as_ref(), local);
    let number = connection.served.replace(connection.served.get() + 1);
    if let Err(local) = connection.watch.believe(number) {
        return answer(exchange, local);
    }
    let upgrading = match upgrade::wanted(manager, &request) {
        Ok(upgrading) => upgrading,
        Err(local) => return answer(exchange, local),
    };
    if let Err(local) = tidy(&mut exchange, manager, &mut request, upgrading.as_ref()) {
        return answer(exchange, local);
    }
    headers::prepare(manager, &connection.about, connection.inbound, request.headers_mut());
    exchange.remote = headers::remote(manager, request.headers(), connection.about.source);
    exchange.trace = Trace::begin(manager, connection, request.headers_mut());
    exchange.keep_headers(request.headers());
    learn_peer(connection, manager, &mut exchange, request.headers_mut());

    let routes = match routes(manager).await {
        Some(routes) => routes,
        None => {
            let body = "the routes of this listener have not arrived yet";
            return answer(
                exchange,
                Local::new(StatusCode::SERVICE_UNAVAILABLE, ResponseFlags::NR, "route_configuration_not_found", body),
            );
        }
    };
    let authority = exchange.authority.clone();
    let view = view(&request, authority.as_ref());
    let tokens = match filters::authorise(connection, manager, &view) {
        Ok(tokens) => tokens,
        Err(local) => return answer(exchange, local),
    };
    if let Some(tokens) = tokens {
        token::apply(tokens, &mut request);
    }
    let view = self::view(&request, authority.as_ref());
    let Some((host, route)) = routes.select(&view, &connection.worker.shared.context) else {
        return answer(exchange, Local::new(StatusCode::NOT_FOUND, ResponseFlags::NR, "route_not_found", ""));
    };
    exchange.route = Some(route.name.clone()).filter(|n| !n.is_empty());
    if let Some(trace) = &mut exchange.trace {
        trace.route(route.operation.as_ref());
    }
    let cors = filters::cors(manager, route, request.headers());
    let preflight = filters::is_preflight(request.method(), request.headers());
    if let Some((rules, origin)) = &cors
        && preflight
    {
        let mut response = answer(exchange, Local::new(StatusCode::OK, ResponseFlags::NONE, "cors_preflight", ""));
        filters::allow_origin(rules, origin.clone(), true, response.headers_mut());
        return response;
    }
    if cors.is_none() && preflight && filters::ends_preflight(manager, route, request.headers()) {
        return answer(exchange, Local::new(StatusCode::OK, ResponseFlags::NONE, "cors_preflight", ""));
    }
    let (flags, verdict) = filters::fault(manager, route).await;
    exchange.flags.insert(flags);
    if let Verdict::Answer(local) = verdict {
        return answer(exchange, local);
    }
    let mut response = act(connection, manager, exchange, request, (host, route), upgrading).await;
    if let Some((rules, origin)) = cors {
        filters::allow_origin(rules, origin, false, response.headers_mut());
    }
    response
}

async fn act(
    connection: &Rc<Connection>,
    manager: &Arc<HttpManager>,
    mut exchange: Box<Exchange>,
    request: Request<Incoming>,
    (host, route): (&VirtualHost<Arc<ClusterSlot>>, &Route<Arc<ClusterSlot>>),
    upgrading: Option<upgrade::Wanted>,
) -> Response<ReplyBody> {
    let changes = [&route.response_headers, &host.response_headers];
    if !matches!(route.action, Action::Forward(_)) && changes.iter().any(|change| change.asks_request()) {
        exchange.keep_request(&request);
    }
    let change = |exchange: &Exchange, headers: &mut HeaderMap| {
        changes.into_iter().for_each(|change| change.apply(headers, Side::Response, || exchange.facts()));
    };
    match &route.action {
        Action::Forward(action) => {
            forward(connection, manager, exchange, request, host, route, action, upgrading).await
        }
        Action::Redirect(redirect) => {
            let authority = exchange.authority.clone();
            let location = redirect.location(&view(&request, authority.as_ref()));
            let local = Local::new(redirect.status, ResponseFlags::NONE, "direct_response", "");
            reply::changed(exchange, manager.server.as_ref(), local, |exchange, headers| {
                if let Ok(location) = HeaderValue::from_str(&location) {
                    headers.insert(header::LOCATION, location);
                }
                change(exchange, headers);
            })
        }
        Action::Direct { status, body } => {
            let mut local = Local::new(*status, ResponseFlags::NONE, "direct_response", "");
            local.body = Bytes::copy_from_slice(body);
            reply::changed(exchange, manager.server.as_ref(), local, change)
        }
    }
}

/// One form for what HTTP/1 and HTTP/2 say differently: authority in a `host` header, path alone in the URI, path
/// normalised, hop-by-hop headers gone.
fn tidy(
    exchange: &mut Exchange,
    manager: &HttpManager,
    request: &mut Request<Incoming>,
    upgrading: Option<&upgrade::Wanted>,
) -> Result<(), Local> {
    let authority = doubt::authority(request)?;
    doubt::underscores(manager, request.headers_mut())?;
    request.headers_mut().insert(header::HOST, authority.clone());
    exchange.authority = Some(authority);
    exchange.grpc = is_grpc(request.headers());
    match upgrading {
        Some(wanted) => upgrade::prepare(wanted, request),
        None => headers::remove_hop_by_hop(request.version(), request.headers_mut()),
    }
    if request.method() != Method::CONNECT {
        let bad = || doubt::refused(StatusCode::BAD_REQUEST, "path_normalization_failed");
        let normal = normalise(doubt::path(request)?, manager.normalise).ok_or_else(bad)?;
        let target = PathAndQuery::try_from(normal.as_ref()).map_err(|_| bad())?;
        *request.uri_mut() = Uri::from(target);
    }
    Ok(())
}

/// A request as decisions see it.
pub(crate) fn view<'a, B>(request: &'a Request<B>, authority: Option<&'a HeaderValue>) -> RequestView<'a> {
    RequestView {
        authority: authority.and_then(|a| a.to_str().ok()).unwrap_or_default(),
        path: request.uri().path_and_query().map_or("/", PathAndQuery::as_str),
        method: request.method().as_str(),
        scheme: request.headers().get(&headers::FORWARDED_PROTO).and_then(|v| v.to_str().ok()).unwrap_or("http"),
        headers: request.headers(),
    }
}

/// Who calls, from the metadata the caller's sidecar sent; the application does not see it.
fn learn_peer(connection: &Connection, manager: &HttpManager, exchange: &mut Exchange, headers: &mut HeaderMap) {
    if !connection.inbound || !manager.peer_metadata {
        return;
    }
    headers.remove(&headers::PEER_METADATA_ID);
    if let Some(metadata) = headers.remove(&headers::PEER_METADATA) {
        let principal = connection.about.peer.as_ref().and_then(|p| p.uri_sans.first());
        let mut peers = connection.worker.peers.borrow_mut();
        exchange.peer = peers.by_header(&metadata, principal.map(String::as_str));
    }
}

/// The routes in force; a listener that is new waits a little for its routes.
async fn routes(manager: &HttpManager) -> Option<Arc<Routes>> {
    /// The longest wait, and between two looks.
    const WAIT: (u32, Duration) = (250, Duration::from_millis(20));
    match &manager.routes {
        RouteSource::Inline(routes) => Some(routes.clone()),
        RouteSource::Named(slot) => {
            for _ in 0..WAIT.0 {
                if let Some(routes) = slot.load() {
                    return Some(routes);
                }
                tokio::time::sleep(WAIT.1).await;
            }
            None
        }
    }
}
