//! Sending a request on: cluster, attempts, answer.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use proxy_config::HttpManager;
use rules::headers::{HeaderMutation, Side};
use rules::matching::StringMatch;
use rules::route::{Forward, HashPolicy, PathMatch, Route, WeightedCluster};
use rules::table::VirtualHost;
use telemetry::ResponseFlags;
use tokio::time::Instant;
use upstream::{
    Alpn, Answer, Body, Cause, Cluster, ClusterSlot, Messages, Outcome, PickContext, Protocol, Recording, Registry,
    Target, UpstreamBody, Version,
};

use super::attempt::{self, Attempts, Failed};
use super::exchange::Exchange;
use super::headers as names;
use super::held::ReplyBody;
use super::idle::Idle;
use super::reply::{self, Local};
use super::request::view;
use super::{Connection, awaiting, doubt, mirror, named, upgrade};

/// A request body up to this size is kept so that it can be sent again (Envoy's default buffer limit).
const KEEP: u64 = 1 << 20;

type Slot = Arc<ClusterSlot>;

/// Sends a request on and gives the answer back.
#[expect(clippy::too_many_arguments, reason = "the parts of one matched request, each used here")]
pub(crate) async fn forward(
    connection: &Rc<Connection>,
    manager: &Arc<HttpManager>,
    mut exchange: Box<Exchange>,
    mut request: Request<Incoming>,
    host: &VirtualHost<Slot>,
    route: &Route<Slot>,
    action: &Forward<Slot>,
    upgrading: Option<upgrade::Wanted>,
) -> Response<ReplyBody> {
    let server = manager.server.as_ref();
    let Some(target) = action.pick(fastrand::u64(..)) else {
        let local = Local::new(StatusCode::SERVICE_UNAVAILABLE, ResponseFlags::NC, "no_cluster_has_weight", "");
        return reply::local(exchange, server, local);
    };
    exchange.cluster_name = Some(target.cluster.name.clone());
    exchange.counters.clone_from(&route.counters);
    let Some(cluster) = target.cluster.load() else {
        let local = Local::new(action.not_found, ResponseFlags::NC, "cluster_not_found", "");
        return reply::local(exchange, server, local);
    };
    exchange.cluster = Some(cluster.clone());
    exchange.idle =
        action.idle_timeout.unwrap_or(manager.stream_idle).map(|limit| Idle::new(limit, exchange.started.into()));
    Registry::ready(&cluster).await;
    cluster.note_request();

    let hash = hash(connection, action, &request, exchange.authority.as_ref());
    // Values are made of the request as it came, before it is rewritten (as Envoy).
    mutate(manager, connection, &exchange, (host, route, target), &mut request);
    rewrite(&mut request, route, action);
    if let Some(host) = &target.host_rewrite {
        request.headers_mut().insert(header::HOST, host.clone());
    }
    if [&target.response_headers, &route.response_headers, &host.response_headers].iter().any(|m| m.asks_request()) {
        exchange.keep_request(&request);
    }
    if let Some(trace) = &exchange.trace {
        trace.write(manager, request.headers_mut());
    }
    let name = match named::target(manager, &cluster, request.headers()).await {
        Ok(name) => name,
        Err(local) => return reply::local(exchange, server, local),
    };
    let upgraded = upgrading.map(|wanted| upgrade::Pending::new(wanted, &mut request));
    let upgraded = match upgraded {
        Some(pending) if action.connect_ends && pending.is_connect() => {
            return Box::pin(tunnel(connection, manager, exchange, (&cluster, name.as_ref()), pending)).await;
        }
        other => other,
    };
    let timeout = action.limit(request.headers());
    let deadline = timeout.map(|t| Instant::now() + t);
    if let Some(timeout) = timeout {
        request.headers_mut().insert(names::EXPECTED_TIMEOUT.clone(), HeaderValue::from(millis(timeout)));
    }
    // An upgrade is HTTP/1.1's.
    let version = if upgraded.is_some() { Version::Http1 } else { version(&cluster, connection) };
    let waits = awaiting::answer(manager, &mut request, version);
    let request = recorded(&mut exchange, request, action, upgraded.is_some());
    if upgraded.is_none() {
        mirror::send_copies(connection, manager, action, &request);
    }
    let request = Box::new(awaiting::hold(for_version(request, version), waits));
    let mut attempts = Attempts {
        connection,
        manager,
        cluster: &cluster,
        policy: action.retry.as_deref(),
        deadline,
        hash: hash.value,
        name: name.as_ref(),
        count_header: host.attempt_count,
        version,
    };
    match before_silence(&mut attempts, &mut exchange, request).await {
        Ok(answer) => {
            let mut response =
                respond(connection, manager, exchange, answer, &cluster, (host, route, target), deadline, upgraded);
            if let Some(cookie) = hash.cookie {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(failed) => fail(exchange, server, &cluster, failed),
    }
}

/// Sends the request, and gives up when nothing has moved for too long.
async fn before_silence(
    attempts: &mut Attempts<'_>,
    exchange: &mut Exchange,
    request: Box<Request<Body>>,
) -> Result<Box<Answer>, Failed> {
    let (idle, recording) = (exchange.idle.clone(), exchange.recording.clone());
    let waiting = idle.map(|idle| (attempts.connection.limits.request(idle.clone()), idle));
    // Made in one place only: each place would keep room for it.
    let sending = pin!(attempt::send(attempts, exchange, request));
    let Some((waiting, idle)) = waiting else { return sending.await };
    tokio::select! {
        biased;
        sent = sending => {
            idle.touch();
            sent
        }
        () = waiting.over() => {
            let complete = recording.is_none_or(|recording| recording.borrow().complete);
            Err(Failed::silent(complete))
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What consistent hashing found, and the cookie that makes it stick.
#[derive(Default)]
struct Hashed {
    value: Option<u64>,
    cookie: Option<HeaderValue>,
}

/// The first policy that finds something decides; a missing cookie with a lifetime is made.
fn hash<B>(
    connection: &Connection,
    action: &Forward<Slot>,
    request: &Request<B>,
    authority: Option<&HeaderValue>,
) -> Hashed {
    if action.hash.is_empty() {
        return Hashed::default();
    }
    let view = view(request, authority);
    for policy in &action.hash {
        if let Some(value) = policy.hash(&view, connection.about.source.ip()) {
            return Hashed { value: Some(value), cookie: None };
        }
        if let HashPolicy::Cookie { name, ttl: Some(ttl), path, attributes } = policy {
            let id = format!("{:016x}", fastrand::u64(..));
            let age = if ttl.is_zero() { String::new() } else { format!("; Max-Age={}", ttl.as_secs()) };
            let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
            let cookie = HeaderValue::from_str(&format!("{name}=\"{id}\"{age}{path}{attributes}; HttpOnly")).ok();
            let value = HeaderMap::from_iter(
                [(header::COOKIE, HeaderValue::from_str(&format!("{name}=\"{id}\"")).ok())]
                    .into_iter()
                    .filter_map(|(n, v)| v.map(|v| (n, v))),
            );
            let with_cookie = rules::RequestView { headers: &value, ..view };
            return Hashed { value: policy.hash(&with_cookie, connection.about.source.ip()), cookie };
        }
    }
    Hashed::default()
}

/// Path and host as the route wants them.
fn rewrite(request: &mut Request<Incoming>, route: &Route<Slot>, action: &Forward<Slot>) {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let new = match (&action.prefix_rewrite, &action.regex_rewrite) {
        (Some(new), _) => {
            matched_prefix(route, path).and_then(|old| path.get(old..)).map(|rest| format!("{new}{rest}"))
        }
        (None, Some((regex, replacement))) => {
            let (head, query) = path.split_at(path.find('?').unwrap_or(path.len()));
            Some(format!("{}{query}", regex.replace_all(head, &**replacement)))
        }
        (None, None) => None,
    };
    if let Some(new) = new.and_then(|p| PathAndQuery::try_from(p).ok()) {
        if let Ok(original) = HeaderValue::from_str(path) {
            request.headers_mut().insert(names::ORIGINAL_PATH.clone(), original);
        }
        *request.uri_mut() = Uri::from(new);
    }
    if let Some(host) = &action.host_rewrite {
        request.headers_mut().insert(header::HOST, host.clone());
    }
}

/// Bytes of the path that the route matched.
fn matched_prefix(route: &Route<Slot>, path: &str) -> Option<usize> {
    let whole = path.find('?').unwrap_or(path.len());
    let length = |pattern: &StringMatch| match pattern {
        StringMatch::Prefix(p) => Some(p.len()),
        StringMatch::IgnoreCase(inner) => match &**inner {
            StringMatch::Prefix(p) => Some(p.len()),
            _ => Some(whole),
        },
        _ => Some(whole),
    };
    match &route.matches.path {
        PathMatch::Prefix(pattern) | PathMatch::Whole(pattern) => length(pattern),
        PathMatch::Segments(prefix) => Some(prefix.len()),
        PathMatch::Connect => None,
    }
}

/// Header changes: the cluster's, the route's, the virtual host's, in Envoy's order.
fn mutate(
    manager: &HttpManager,
    connection: &Connection,
    exchange: &Exchange,
    (host, route, target): (&VirtualHost<Slot>, &Route<Slot>, &WeightedCluster<Slot>),
    request: &mut Request<Incoming>,
) {
    let mut headers = std::mem::take(request.headers_mut());
    let side = Side::Request(request.uri().path_and_query().map_or("/", PathAndQuery::as_str));
    for mutation in [&target.request_headers, &route.request_headers, &host.request_headers] {
        mutation.apply(&mut headers, side, || exchange.facts());
    }
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    if let Some(operation) = route.operation.as_ref().filter(|_| !connection.inbound) {
        headers.insert(names::OPERATION.clone(), operation.clone());
    }
    if connection.inbound {
        headers.remove(&names::OPERATION);
    } else if manager.peer_metadata {
        let own = &connection.worker.shared.metadata;
        headers.insert(names::PEER_METADATA.clone(), own.metadata.clone());
        headers.insert(names::PEER_METADATA_ID.clone(), own.id.clone());
    }
}

/// The request with its body counted and, while small, kept.
fn recorded(
    exchange: &mut Exchange,
    request: Request<Incoming>,
    action: &Forward<Slot>,
    upgrading: bool,
) -> Request<Body> {
    request.map(|incoming| {
        if http_body::Body::is_end_stream(&incoming) || upgrading {
            return Body::Empty;
        }
        let recording = Recording::new(if action.retry.is_some() { KEEP } else { 0 });
        recording.borrow_mut().messages = exchange.grpc.then(Messages::default);
        recording.borrow_mut().moved = exchange.idle.as_ref().map(|idle| idle.moved.clone());
        exchange.recording = Some(recording.clone());
        Body::Recorded(incoming, recording)
    })
}

/// The request in the form that the upstream's HTTP version wants.
pub(crate) fn for_version(request: Request<Body>, version: Version) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let connect = parts.method == http::Method::CONNECT;
    match version {
        Version::Http1 => parts.version = http::Version::HTTP_11,
        Version::Http2 => {
            parts.version = http::Version::HTTP_2;
            // HTTP/2 carries the authority in the URI; `host` would say it twice.
            if let Some(host) = parts.headers.remove(header::HOST)
                && !connect
                && let Ok(uri) = Uri::builder()
                    .scheme("http")
                    .authority(host.as_bytes())
                    .path_and_query(parts.uri.path_and_query().map_or("/", PathAndQuery::as_str))
                    .build()
            {
                parts.uri = uri;
            }
        }
    }
    Request::from_parts(parts, body)
}

/// CONNECT that ends here: a plain connection to the cluster, and its bytes.
async fn tunnel(
    connection: &Rc<Connection>,
    manager: &HttpManager,
    mut exchange: Box<Exchange>,
    (cluster, target): (&Arc<Cluster>, Option<&Target>),
    pending: upgrade::Pending,
) -> Response<ReplyBody> {
    let server = manager.server.as_ref();
    let original = connection.about.original;
    let host = match cluster.pick(&PickContext { original, target, ..PickContext::default() }) {
        Ok(host) => host,
        Err(error) => {
            let local =
                Local::new(StatusCode::SERVICE_UNAVAILABLE, error.flag(), "no_healthy_upstream", "no healthy upstream");
            return reply::local(exchange, server, local);
        }
    };
    exchange.host = Some(host.clone());
    match upstream::connect(cluster, &host, Alpn::Configured, Some(&connection.about.proxied())).await {
        Ok(connected) => {
            exchange.status = StatusCode::OK.as_u16();
            exchange.details = Some("via_upstream".into());
            exchange.upstream_local = connected.local;
            exchange.upstream_uri = connected.peer_uri.clone();
            pending.tunnel(exchange, host, connected)
        }
        Err(cause) => {
            cluster.report(&host, Outcome::LocalFailure);
            fail(exchange, server, cluster, Failed::of(&cause))
        }
    }
}

/// HTTP version towards a cluster.
pub(crate) fn version(cluster: &Cluster, connection: &Connection) -> Version {
    match cluster.config.protocol {
        Protocol::Http1 => Version::Http1,
        Protocol::Http2 => Version::Http2,
        Protocol::Downstream if connection.http2 => Version::Http2,
        Protocol::Downstream => Version::Http1,
    }
}

/// The upstream's answer, made ready for the client.
#[expect(clippy::too_many_arguments, reason = "the parts of one answer, each used here")]
fn respond(
    connection: &Rc<Connection>,
    manager: &HttpManager,
    mut exchange: Box<Exchange>,
    answer: Box<Answer>,
    cluster: &Cluster,
    (host, route, target): (&VirtualHost<Slot>, &Route<Slot>, &WeightedCluster<Slot>),
    deadline: Option<Instant>,
    upgraded: Option<upgrade::Pending>,
) -> Response<ReplyBody> {
    let Answer { mut response, local, peer_uri } = *answer;
    if let Err(reason) = doubt::answer(&mut response) {
        exchange.upstream_local = local;
        return fail(exchange, manager.server.as_ref(), cluster, Failed::of(&Cause::Protocol(reason.to_owned())));
    }
    exchange.status = response.status().as_u16();
    exchange.details = Some("via_upstream".into());
    exchange.upstream_local = local;
    exchange.upstream_uri = peer_uri;
    if exchange.grpc {
        exchange.grpc_status = reply::grpc_status(response.headers());
    }
    learn_peer(connection, manager, &mut exchange, response.headers_mut());
    match upgraded {
        Some(pending) if pending.is_agreed(response.status()) => return pending.join(exchange, response),
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            // Nobody asked: the client would take what follows for answers.
            let cause = Cause::Protocol("an upgrade that nobody asked for".to_owned());
            return fail(exchange, manager.server.as_ref(), cluster, Failed::of(&cause));
        }
        _ => {}
    }
    let (mut parts, body) = response.into_parts();
    names::remove_hop_by_hop(parts.version, &mut parts.headers);
    let mutations: [&HeaderMutation; 3] = [&target.response_headers, &route.response_headers, &host.response_headers];
    mutations.into_iter().for_each(|m| m.apply(&mut parts.headers, Side::Response, || exchange.facts()));
    if let Some(server) = &manager.server {
        parts.headers.insert(header::SERVER, server.clone());
    }
    if let Some(time) = exchange.service_time {
        parts.headers.insert(names::SERVICE_TIME.clone(), HeaderValue::from(millis(time)));
    }
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, reply_body(body, exchange, deadline))
}

fn reply_body(body: UpstreamBody, exchange: Box<Exchange>, deadline: Option<Instant>) -> ReplyBody {
    ReplyBody::upstream(body, exchange, deadline)
}

/// Metadata of the workload that answered goes to the log; ours goes to a caller's sidecar that asked.
fn learn_peer(connection: &Connection, manager: &HttpManager, exchange: &mut Exchange, headers: &mut HeaderMap) {
    if !manager.peer_metadata {
        return;
    }
    if connection.inbound {
        if exchange.peer.is_some() {
            let own = &connection.worker.shared.metadata;
            headers.insert(names::PEER_METADATA.clone(), own.metadata.clone());
            headers.insert(names::PEER_METADATA_ID.clone(), own.id.clone());
        }
        return;
    }
    headers.remove(&names::PEER_METADATA_ID);
    if let Some(metadata) = headers.remove(&names::PEER_METADATA) {
        let mut peers = connection.worker.peers.borrow_mut();
        exchange.peer = peers.by_header(&metadata, exchange.upstream_uri.as_deref());
    }
}

/// No answer came: what the client is told, and what the log says.
fn fail(
    mut exchange: Box<Exchange>,
    server: Option<&HeaderValue>,
    cluster: &Cluster,
    failed: Failed,
) -> Response<ReplyBody> {
    cluster.stats.rq_5xx.fetch_add(1, Relaxed);
    exchange.upstream_failure = failed.transport;
    let mut local = Local::new(failed.status, failed.flags, failed.details, "");
    local.body = failed.body.into();
    let mut response = reply::local(exchange, server, local);
    if failed.overflow {
        response.headers_mut().insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    if failed.untouched {
        response.extensions_mut().insert(super::Untouched);
    }
    response
}
