//! Tries of one request: pick a host, send, judge, and try again when the policy says so.

use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode};
use proxy_config::HttpManager;
use rules::route::{RetryPolicy, TryEnd};
use telemetry::ResponseFlags;
use tokio::time::Instant;
use upstream::{
    Answer, Body, Cause, Cluster, Host, Outcome, PickContext, Recording, SendError, SendOptions, Target, Version,
};

use super::Connection;
use super::exchange::Exchange;
use super::headers::ATTEMPTS;
use super::reply::grpc_status;

/// What all tries of a request share.
pub(crate) struct Attempts<'a> {
    pub(crate) connection: &'a Rc<Connection>,
    pub(crate) manager: &'a HttpManager,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) policy: Option<&'a RetryPolicy>,
    /// Of the whole request.
    pub(crate) deadline: Option<Instant>,
    pub(crate) hash: Option<u64>,
    /// Where the request goes, where callers bring the name.
    pub(crate) name: Option<&'a Target>,
    /// Tell the upstream which try it is.
    pub(crate) count_header: bool,
    /// Towards the upstream.
    pub(crate) version: Version,
}

/// No answer to give on.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) status: StatusCode,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) transport: Option<String>,
    pub(crate) body: String,
    /// The upstream certainly saw nothing of the request.
    pub(crate) untouched: bool,
    /// A circuit breaker is open.
    pub(crate) overflow: bool,
}

impl Failed {
    fn new(status: StatusCode, flags: ResponseFlags, details: &'static str, body: &str) -> Self {
        let (details, body) = (details.into(), body.to_owned());
        Self { status, flags, details, transport: None, body, untouched: false, overflow: false }
    }

    fn timeout(details: &'static str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, ResponseFlags::UT, details, "upstream request timeout")
    }

    /// Nothing moved for too long: whose turn it was to speak decides the status (as Envoy).
    pub(crate) fn silent(request_complete: bool) -> Self {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        Self::new(status, ResponseFlags::SI, "stream_idle_timeout", "stream timeout")
    }

    pub(crate) fn of(cause: &Cause) -> Self {
        let reason = match cause {
            Cause::Connect(_) | Cause::Tls(_) => "remote connection failure",
            Cause::ConnectTimeout => "connection timeout",
            Cause::Reset(_) => "connection termination",
            Cause::Refused => "remote refused stream reset",
            Cause::RemoteReset(_) => "remote reset",
            Cause::Protocol(_) => "protocol error",
            Cause::Overflow => "overflow",
        };
        let body = format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
        let transport = cause.transport_failure().map(str::to_owned);
        let status = match cause {
            Cause::Protocol(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self {
            transport,
            untouched: cause.is_connect(),
            overflow: *cause == Cause::Overflow,
            ..Self::new(status, cause.flag(), cause.details(), &body)
        }
    }
}

/// How one try ended, with what the next step needs.
enum Ended {
    Answer(Box<Answer>),
    Error(SendError),
    PerTryTimeout,
    Deadline,
}

/// The head and body of a request, kept so that it can be sent again.
struct Again {
    head: Option<http::request::Parts>,
    recording: Option<Rc<RefCell<Recording>>>,
    empty: bool,
}

impl Again {
    fn keep(policy: bool, request: &Request<Body>) -> Self {
        let recording = match request.body() {
            Body::Recorded(_, recording) => Some(recording.clone()),
            _ => None,
        };
        let head = policy.then(|| copy_head(request));
        Self { head, recording, empty: matches!(request.body(), Body::Empty) }
    }

    /// The request once more, when its body was kept whole.
    fn request(&self) -> Option<Box<Request<Body>>> {
        let head = self.head.clone()?;
        if self.empty {
            return Some(Box::new(Request::from_parts(head, Body::Empty)));
        }
        let recording = self.recording.as_ref()?.borrow();
        if recording.lost || !recording.complete {
            return None;
        }
        Some(Box::new(Request::from_parts(head, Body::Full(join(&recording.kept)))))
    }
}

fn join(chunks: &[Bytes]) -> Bytes {
    match chunks {
        [only] => only.clone(),
        many => {
            let mut all = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
            many.iter().for_each(|chunk| all.extend_from_slice(chunk));
            all.freeze()
        }
    }
}

pub(crate) fn copy_head(request: &Request<Body>) -> http::request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    // How the client wrote the header names is kept there.
    *copy.extensions_mut() = request.extensions().clone();
    copy.into_parts().0
}

/// Sends a request, again if need be, and gives back the answer that counts.
pub(crate) async fn send(
    attempts: &mut Attempts<'_>,
    exchange: &mut Exchange,
    request: Box<Request<Body>>,
) -> Result<Box<Answer>, Failed> {
    let retries = attempts.policy.map_or(0, |p| p.retries);
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    );
    let mut again = Again::keep(retries > 0 || idempotent, &request);
    let mut tried = Tried::default();
    let mut next = request;
    let (mut retry, mut second_chance) = (0, idempotent);
    loop {
        exchange.attempts += 1;
        if attempts.count_header {
            next.headers_mut().insert(ATTEMPTS.clone(), HeaderValue::from(exchange.attempts));
        }
        let host = pick(attempts, &tried)?;
        exchange.host = Some(host.clone());
        let mut ended = one(attempts, exchange, &host, next).await;
        let end = judge(attempts.cluster, &host, &ended);
        let returned = match &mut ended {
            Ended::Error(SendError { request, .. }) => request.take(),
            _ => None,
        };
        let applies = end.is_some_and(|end| attempts.policy.is_some_and(|p| p.applies(end, idempotent)));
        // The connection broke before a byte of an answer came: an idempotent request may go out once more (RFC 9110,
        // 9.2.2), to another host where there is one. A kept connection that the peer closed just as we wrote says nothing
        // of the request. Where a new one broke the peer has failed it: the route's policy decides when it speaks of that, a
        // route without retries wants to see it, and our own application has no other host.
        let elsewhere = !applies && retries > 0 && !attempts.connection.inbound;
        if let Ended::Error(SendError { cause: Cause::Reset(_), reused, .. }) = &ended
            && (*reused || elsewhere)
            && std::mem::take(&mut second_chance)
            && let Some(request) = again.request()
        {
            tried.hosts.push(host.address.clone());
            next = request;
            continue;
        }
        if !applies {
            return finish(ended);
        }
        let Some(request) = (retry < retries).then(|| returned.or_else(|| again.request())).flatten() else {
            exchange.flags.insert(ResponseFlags::URX);
            return finish(ended);
        };
        let Some(permit) = attempts.cluster.retry_permit() else {
            exchange.flags.insert(ResponseFlags::UO);
            return finish(ended);
        };
        retry += 1;
        attempts.cluster.stats.rq_retry.fetch_add(1, Relaxed);
        drop(ended);
        tried.note(attempts.policy, &host, retry);
        wait(attempts, retry).await?;
        exchange.permits.push(permit);
        again.head = again.head.or_else(|| Some(copy_head(&request)));
        next = request;
    }
}

/// The pause before a retry; never beyond the deadline of the whole.
async fn wait(attempts: &Attempts<'_>, retry: u32) -> Result<(), Failed> {
    let Some(policy) = attempts.policy else { return Ok(()) };
    let until = Instant::now() + policy.backoff(retry, fastrand::u64(..));
    match attempts.deadline {
        Some(deadline) if deadline <= until => {
            tokio::time::sleep_until(deadline).await;
            Err(Failed::timeout("response_timeout"))
        }
        _ => {
            tokio::time::sleep_until(until).await;
            Ok(())
        }
    }
}

/// Where a request has been in vain.
#[derive(Default)]
struct Tried {
    /// Hosts to avoid.
    hosts: Vec<upstream::Address>,
    /// Priorities of all hosts so far, and those of them to avoid now.
    seen: Vec<u32>,
    priorities: Vec<u32>,
}

impl Tried {
    fn note(&mut self, policy: Option<&RetryPolicy>, host: &Host, retry: u32) {
        let Some(policy) = policy else { return };
        if policy.previous_hosts {
            self.hosts.push(host.address.clone());
        }
        if policy.other_priorities > 0 {
            self.seen.push(host.config.priority);
            if retry.is_multiple_of(policy.other_priorities) {
                self.priorities.clone_from(&self.seen);
            }
        }
    }
}

fn pick(attempts: &Attempts<'_>, tried: &Tried) -> Result<Arc<Host>, Failed> {
    let original = attempts.connection.about.original;
    let context = PickContext {
        hash: attempts.hash,
        tried: &tried.hosts,
        priorities: &tried.priorities,
        original,
        target: attempts.name,
    };
    attempts.cluster.pick(&context).map_err(|e| {
        Failed::new(StatusCode::SERVICE_UNAVAILABLE, e.flag(), "no_healthy_upstream", "no healthy upstream")
    })
}

/// One try, within the limit of a try and the deadline of the whole.
async fn one(attempts: &Attempts<'_>, exchange: &mut Exchange, host: &Arc<Host>, request: Box<Request<Body>>) -> Ended {
    let cluster = attempts.cluster;
    cluster.stats.rq_total.fetch_add(1, Relaxed);
    host.stats.rq_total.fetch_add(1, Relaxed);
    let options = SendOptions {
        version: attempts.version,
        mesh_alpn: attempts.manager.mesh_alpn,
        proxied: Some(attempts.connection.about.proxied()),
        // The application is ending too, and may close kept connections at any moment.
        fresh: attempts.connection.inbound && attempts.connection.is_draining(),
    };
    let started = Instant::now();
    // Pinned where it is made: a future of some kilobytes that is moved is copied.
    let sending = pin!(attempts.connection.worker.pools.send(cluster, host, request, options));
    let per_try = attempts.policy.and_then(|p| p.per_try_timeout).map(|t| started + t);
    let limit = match (per_try, attempts.deadline) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let sent = match limit {
        None => Ok(sending.await),
        Some(limit) => tokio::time::timeout_at(limit, sending).await,
    };
    match sent {
        Ok(Ok(answer)) => {
            exchange.service_time = Some(started.elapsed());
            Ended::Answer(answer)
        }
        Ok(Err(error)) => Ended::Error(error),
        Err(_) if attempts.deadline.is_some_and(|d| Instant::now() >= d) => Ended::Deadline,
        Err(_) => Ended::PerTryTimeout,
    }
}

/// Tells the cluster how a try ended, and gives it in the retry policy's words; `None` is never retried.
fn judge(cluster: &Cluster, host: &Host, ended: &Ended) -> Option<TryEnd> {
    match ended {
        Ended::Answer(answer) => {
            let status = answer.response.status().as_u16();
            let grpc = grpc_status(answer.response.headers());
            // Outlier detection sees gRPC statuses as their HTTP equivalents.
            let seen = if matches!(grpc, Some(13..=15)) { 503 } else { status };
            cluster.report(host, Outcome::Status(seen));
            Some(TryEnd::Response { status, grpc })
        }
        Ended::PerTryTimeout | Ended::Deadline => {
            cluster.report(host, Outcome::Timeout);
            matches!(ended, Ended::PerTryTimeout).then_some(TryEnd::PerTryTimeout)
        }
        Ended::Error(SendError { cause: Cause::Overflow, .. }) => None,
        Ended::Error(error) => {
            let outcome = if error.cause.is_connect() { Outcome::LocalFailure } else { Outcome::Broken };
            cluster.report(host, outcome);
            Some(match &error.cause {
                cause if cause.is_connect() => TryEnd::ConnectFailure,
                Cause::Refused => TryEnd::RefusedStream,
                _ => TryEnd::Reset { sent: error.request.is_none() },
            })
        }
    }
}

fn finish(ended: Ended) -> Result<Box<Answer>, Failed> {
    match ended {
        Ended::Answer(answer) => Ok(answer),
        Ended::Error(error) => Err(Failed::of(&error.cause)),
        Ended::PerTryTimeout => Err(Failed::timeout("upstream_per_try_timeout")),
        Ended::Deadline => Err(Failed::timeout("response_timeout")),
    }
}
