//! A route: when it applies and what it does. Generic over `C`, the handle of a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use regex::Regex;
use xxhash_rust::xxh64::xxh64;

use crate::RequestView;
use crate::headers::HeaderMutation;
use crate::matching::{HeaderMatch, QueryMatch, StringMatch, query_parameter};

/// How a route looks at the path (without query).
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Its beginning; `/` is everything.
    Prefix(StringMatch),
    /// All of it.
    Whole(StringMatch),
    /// The prefix, as whole path segments.
    Segments(Box<str>),
    /// CONNECT, which has no path; no other match takes it.
    Connect,
}

impl PathMatch {
    fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Prefix(pattern) | Self::Whole(pattern) => pattern.is_match(path),
            Self::Segments(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Connect => true,
        }
    }
}

/// When a route applies: all conditions hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters.
    pub query: Vec<QueryMatch>,
    /// Only gRPC (`content-type: application/grpc`).
    pub grpc: bool,
}

impl RouteMatch {
    /// Whether the request meets the conditions.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        matches!(self.path, PathMatch::Connect) == (request.method == "CONNECT")
            && self.path.is_match(request.path_only())
            && self.headers.iter().all(|h| h.is_match(request))
            && (self.query.is_empty() || self.query.iter().all(|q| q.is_match(request.query())))
            && (!self.grpc || is_grpc(request.headers))
    }
}

/// Whether headers are those of a gRPC call.
pub fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// One route of a virtual host.
#[derive(Clone, Debug)]
pub struct Route<C> {
    /// Its name, for the log.
    pub name: Arc<str>,
    /// When it applies.
    pub matches: RouteMatch,
    /// What it does.
    pub action: Action<C>,
    /// Changes to the request.
    pub request_headers: HeaderMutation,
    /// Changes to the response.
    pub response_headers: HeaderMutation,
    /// Faults to inject.
    pub fault: Option<Arc<Fault>>,
    /// Cross-origin rules.
    pub cors: Option<Arc<Cors>>,
    /// Operation name for traces (`x-envoy-decorator-operation`).
    pub operation: Option<http::HeaderValue>,
    /// Counters of its own.
    pub counters: Option<Arc<dyn RouteCounters>>,
}

/// Counters of one route.
pub trait RouteCounters: std::fmt::Debug + Send + Sync {
    /// An upstream, or the proxy in its place, answered with this status.
    fn answered(&self, status: u16);
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action<C> {
    /// Sends the request on.
    Forward(Box<Forward<C>>),
    /// Answers with a redirect.
    Redirect(Box<Redirect>),
    /// Answers.
    Direct {
        /// Status.
        status: StatusCode,
        /// Body.
        body: Arc<[u8]>,
    },
}

/// One cluster a request may go to.
#[derive(Clone, Debug)]
pub struct WeightedCluster<C> {
    /// The cluster.
    pub cluster: C,
    /// Its share of the total.
    pub weight: u32,
    /// Changes to requests that go there.
    pub request_headers: HeaderMutation,
    /// Changes to responses that come from there.
    pub response_headers: HeaderMutation,
    /// Replaces the authority of requests that go there.
    pub host_rewrite: Option<http::HeaderValue>,
}

/// Sends a request on.
#[derive(Clone, Debug)]
pub struct Forward<C> {
    /// Where to; at least one.
    pub clusters: Vec<WeightedCluster<C>>,
    /// Sum of the weights.
    pub total_weight: u32,
    /// Until the whole response has come; `None` is no limit.
    pub timeout: Option<Duration>,
    /// A gRPC call may name its own limit (`grpc-timeout`), up to this; zero is any. `None`: it may not.
    pub grpc_max: Option<Duration>,
    /// The longest silence of a stream: `None` is as the listener has it, `Some(None)` no limit.
    pub idle_timeout: Option<Option<Duration>>,
    /// When and how to try again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<Box<str>>,
    /// Replaces what the expression finds in the path.
    pub regex_rewrite: Option<(Regex, Box<str>)>,
    /// Replaces the authority.
    pub host_rewrite: Option<http::HeaderValue>,
    /// What consistent hashing looks at, in order.
    pub hash: Vec<HashPolicy>,
    /// Who else gets a copy.
    pub mirrors: Vec<Mirror<C>>,
    /// Status when the cluster does not exist.
    pub not_found: StatusCode,
    /// CONNECT ends here: what the client sends through it goes to the cluster as bytes.
    pub connect_ends: bool,
}

impl<C> Forward<C> {
    /// The cluster for a random number; weights divide the range.
    pub fn pick(&self, random: u64) -> Option<&WeightedCluster<C>> {
        if let [only] = self.clusters.as_slice() {
            return Some(only);
        }
        let mut point = random.checked_rem(u64::from(self.total_weight))?;
        self.clusters.iter().find(|c| {
            let weight = u64::from(c.weight);
            let here = point < weight;
            point = point.wrapping_sub(if here { 0 } else { weight });
            here
        })
    }
}

impl<C> Forward<C> {
    /// The limit of one request.
    pub fn limit(&self, headers: &http::HeaderMap) -> Option<Duration> {
        let asked = |max: Duration| {
            let asked =
                headers.get("grpc-timeout").filter(|_| is_grpc(headers)).and_then(|v| grpc_timeout(v.as_bytes()))?;
            Some(if max.is_zero() { asked } else { asked.min(max) })
        };
        self.grpc_max.and_then(asked).or(self.timeout)
    }
}

/// A `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2).
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Gets a copy of some requests; the answer is thrown away.
#[derive(Clone, Debug)]
pub struct Mirror<C> {
    /// Where to.
    pub cluster: C,
    /// How many of a million.
    pub per_million: u32,
    /// The copy's authority tells that it is one: `-shadow` is put behind the host.
    pub shadow_suffix: bool,
}

/// What consistent hashing looks at.
#[derive(Clone, Debug)]
pub enum HashPolicy {
    /// A header's value.
    Header(HeaderName),
    /// A cookie; with `ttl` it is made when missing.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// How long a made cookie lives; `None`: it is not made; zero: for the session.
        ttl: Option<Duration>,
        /// Its path.
        path: Box<str>,
        /// More attributes, as they are written: `; Name=Value`.
        attributes: Box<str>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Box<str>),
}

impl HashPolicy {
    /// The hash of a client's address.
    pub fn source(ip: std::net::IpAddr) -> u64 {
        xxh64(ip.to_string().as_bytes(), 0)
    }

    /// The hash of what the request has there.
    pub fn hash(&self, request: &RequestView<'_>, source: std::net::IpAddr) -> Option<u64> {
        let of = |bytes: &[u8]| Some(xxh64(bytes, 0));
        match self {
            Self::Header(name) => request.headers.get(name).and_then(|v| of(v.as_bytes())),
            Self::Cookie { name, .. } => cookie(request.headers, name).and_then(|v| of(v.as_bytes())),
            Self::SourceIp => Some(Self::source(source)),
            Self::Query(name) => query_parameter(request.query(), name).and_then(|v| of(v.as_bytes())),
        }
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(http::header::COOKIE).iter().filter_map(|v| v.to_str().ok()).find_map(|line| {
        line.split(';').find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then_some(value)
        })
    })
}

/// Answers with a redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New scheme.
    pub scheme: Option<Box<str>>,
    /// New host.
    pub host: Option<Box<str>>,
    /// New port.
    pub port: Option<u16>,
    /// New path (with query).
    pub path: Option<Box<str>>,
    /// Replaces the matched prefix of the path.
    pub prefix: Option<(Box<str>, Box<str>)>,
}

impl Redirect {
    /// The `location` for a request.
    pub fn location(&self, request: &RequestView<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = self.host.as_deref().unwrap_or_else(|| {
            let bare = crate::table::without_port(request.authority);
            let old = request.authority.get(bare.len()..).unwrap_or_default();
            // With a new scheme the old scheme's own port says nothing any more.
            let gone = matches!((request.scheme, old), ("http", ":80") | ("https", ":443"));
            if self.port.is_some() || (self.scheme.is_some() && gone) { bare } else { request.authority }
        });
        let path = match (&self.path, &self.prefix) {
            (Some(path), _) => match request.path.split_once('?') {
                Some((_, query)) if !path.contains('?') => format!("{path}?{query}"),
                _ => path.to_string(),
            },
            (None, Some((old, new))) => match request.path.strip_prefix(&**old) {
                Some(rest) => format!("{new}{rest}"),
                None => request.path.to_owned(),
            },
            (None, None) => request.path.to_owned(),
        };
        let port = self.port.map_or_else(String::new, |p| format!(":{p}"));
        format!("{scheme}://{host}{port}{path}")
    }
}

/// Conditions under which a request is tried again (`x-envoy-retry-on`), as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    const NAMES: [(&'static str, u32); 15] = [
        ("5xx", 1),
        ("gateway-error", 1 << 1),
        ("reset", 1 << 2),
        ("reset-before-request", 1 << 3),
        ("connect-failure", 1 << 4),
        ("retriable-4xx", 1 << 5),
        ("refused-stream", 1 << 6),
        ("retriable-status-codes", 1 << 7),
        ("retriable-headers", 1 << 8),
        ("cancelled", 1 << 9),
        ("deadline-exceeded", 1 << 10),
        ("internal", 1 << 11),
        ("resource-exhausted", 1 << 12),
        ("unavailable", 1 << 13),
        ("http3-post-connect-failure", 1 << 14),
    ];

    /// Reads a comma-separated list.
    ///
    /// # Errors
    /// The first name that is no condition.
    pub fn parse(list: &str) -> Result<Self, String> {
        list.split(',').map(str::trim).filter(|n| !n.is_empty()).try_fold(Self(0), |all, name| {
            let bit = Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, bit)| bit);
            bit.map(|bit| Self(all.0 | bit)).ok_or_else(|| name.to_owned())
        })
    }

    /// Whether a condition is in the list; an unknown name is not.
    pub fn has(self, name: &str) -> bool {
        Self::NAMES.iter().any(|(n, bit)| *n == name && self.0 & bit != 0)
    }
}

/// How one try of a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// No connection came about: the request was not sent.
    ConnectFailure,
    /// The stream was refused before the peer looked at it.
    RefusedStream,
    /// The connection broke; `sent` tells whether the peer may have seen the request.
    Reset {
        /// Whether bytes of the request may have reached the peer.
        sent: bool,
    },
    /// The try took longer than it may.
    PerTryTimeout,
    /// An answer came.
    Response {
        /// Its status.
        status: u16,
        /// `grpc-status` of its headers (trailers-only answers).
        grpc: Option<u16>,
    },
}

/// When and how to try again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Conditions.
    pub on: RetryOn,
    /// Statuses for `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// Tries after the first.
    pub retries: u32,
    /// Limit of one try.
    pub per_try_timeout: Option<Duration>,
    /// First back-off; doubled each time, with full jitter.
    pub backoff_base: Duration,
    /// Longest back-off.
    pub backoff_max: Duration,
    /// Hosts already tried are avoided.
    pub previous_hosts: bool,
    /// Picks before an already tried host is accepted after all.
    pub host_attempts: u32,
    /// After so many tries the priorities tried so far are avoided; 0: never.
    pub other_priorities: u32,
    /// It is the default, not a user's wish: a request that is not idempotent is not sent again once its bytes may have
    /// reached the application.
    pub cautious: bool,
}

impl RetryPolicy {
    /// Whether a try that ended so is tried again (Envoy's router documentation, `x-envoy-retry-on`). `idempotent`: the
    /// request may reach the application twice.
    pub fn applies(&self, end: TryEnd, idempotent: bool) -> bool {
        let unseen = matches!(end, TryEnd::ConnectFailure | TryEnd::RefusedStream | TryEnd::Reset { sent: false });
        if self.cautious && !idempotent && !unseen {
            return false;
        }
        let on = |name| self.on.has(name);
        let gateway = |s: u16| matches!(s, 502..=504);
        match end {
            TryEnd::ConnectFailure => {
                on("connect-failure") || on("reset") || on("5xx") || on("gateway-error") || on("reset-before-request")
            }
            TryEnd::RefusedStream => on("refused-stream") || on("reset") || on("5xx") || on("reset-before-request"),
            TryEnd::Reset { sent: false } => {
                on("reset-before-request") || on("reset") || on("5xx") || on("gateway-error")
            }
            TryEnd::Reset { sent: true } => on("reset") || on("5xx") || on("gateway-error"),
            TryEnd::PerTryTimeout => on("5xx") || on("gateway-error") || on("reset"),
            TryEnd::Response { status, grpc } => {
                (on("5xx") && (500..600).contains(&status))
                    || (on("gateway-error") && gateway(status))
                    || (on("retriable-4xx") && status == 409)
                    || (on("retriable-status-codes") && self.statuses.contains(&status))
                    || match grpc {
                        Some(1) => on("cancelled"),
                        Some(4) => on("deadline-exceeded"),
                        Some(8) => on("resource-exhausted"),
                        Some(13) => on("internal"),
                        Some(14) => on("unavailable"),
                        _ => false,
                    }
            }
        }
    }

    /// How long to wait before the n-th retry (from 1), for a random number.
    pub fn backoff(&self, retry: u32, random: u64) -> Duration {
        let ceiling = self.backoff_base.saturating_mul(1 << retry.saturating_sub(1).min(16)).min(self.backoff_max);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }
}

/// Faults to inject.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Delay, and how many of a million.
    pub delay: Option<(Duration, u32)>,
    /// Status (HTTP or gRPC), and how many of a million.
    pub abort: Option<(Abort, u32)>,
}

/// How an injected abort answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Http(StatusCode),
    /// A gRPC status in a 200 answer.
    Grpc(u16),
}

/// Cross-origin rules.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Origins that may.
    pub origins: Vec<StringMatch>,
    /// `access-control-allow-methods`
    pub methods: Option<http::HeaderValue>,
    /// `access-control-allow-headers`
    pub headers: Option<http::HeaderValue>,
    /// `access-control-expose-headers`
    pub expose: Option<http::HeaderValue>,
    /// `access-control-max-age`
    pub max_age: Option<http::HeaderValue>,
    /// `access-control-allow-credentials`
    pub credentials: bool,
    /// Preflights of other origins are the application's; otherwise they are answered without permission.
    pub forward_unmatched: bool,
}
