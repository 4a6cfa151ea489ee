//! What is known of one request or connection, for logs and header values.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::flags::ResponseFlags;

/// Request headers that a format may ask for.
#[derive(Clone, Copy, Debug)]
pub enum RequestHeaders<'a> {
    /// Those that somebody asked for, kept beyond the request; its method, path and authority are the record's.
    Kept(&'a [(HeaderName, HeaderValue)]),
    /// All, as they are now, the authority as `host`, and the path as it is now.
    All {
        /// The headers.
        headers: &'a HeaderMap,
        /// `:path`
        path: &'a str,
    },
}

impl<'a> RequestHeaders<'a> {
    pub(crate) fn value(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        match *self {
            Self::Kept(kept) => kept.iter().find(|(n, _)| n == name).map(|(_, value)| value),
            Self::All { headers, .. } => headers.get(name),
        }
    }

    /// The value of one of the names that begin with a colon, or of `x-envoy-original-path`.
    pub(crate) fn special(&self, name: Special, record: &LogRecord<'a>) -> Option<&'a [u8]> {
        static ORIGINAL: HeaderName = HeaderName::from_static("x-envoy-original-path");
        match (name, *self) {
            (Special::Method, _) => record.method.map(str::as_bytes),
            (Special::Path, Self::All { path, .. }) => Some(path.as_bytes()),
            (Special::OriginalPath, Self::All { headers, .. }) => headers.get(&ORIGINAL).map(HeaderValue::as_bytes),
            (Special::Path | Special::OriginalPath, Self::Kept(_)) => record.path.map(str::as_bytes),
            (Special::Authority, Self::All { headers, .. }) => headers.get(header::HOST).map(HeaderValue::as_bytes),
            (Special::Authority, Self::Kept(_)) => record.authority.map(str::as_bytes),
            (Special::Scheme, _) => record.scheme.map(str::as_bytes),
        }
    }
}

/// What a request says outside its header fields, and the path before a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Method,
    Path,
    /// `x-envoy-original-path`: set by us when a path is rewritten; the record of a log keeps the path as it came.
    OriginalPath,
    Authority,
    Scheme,
}

/// What is known of a request or connection when it has ended; what is not known prints as `-`.
#[derive(Clone, Debug)]
pub struct LogRecord<'a> {
    /// When the first byte came.
    pub start: SystemTime,
    /// Until the last byte went.
    pub duration: Duration,
    /// `:method`
    pub method: Option<&'a str>,
    /// `:path` as it came, before any rewrite.
    pub path: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: Option<&'a str>,
    /// `:authority`
    pub authority: Option<&'a str>,
    /// `:scheme`
    pub scheme: Option<&'a str>,
    /// Status sent downstream; 0 when none was.
    pub response_code: u16,
    /// Why it ended so.
    pub flags: ResponseFlags,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`, such as `via_upstream`.
    pub details: Option<&'a str>,
    /// Why the connection was closed, by us.
    pub connection_termination: Option<&'a str>,
    /// Why the upstream connection or its TLS failed.
    pub upstream_failure: Option<&'a str>,
    /// Body bytes from downstream.
    pub bytes_received: u64,
    /// Body bytes to downstream.
    pub bytes_sent: u64,
    /// Time the upstream took to its first byte.
    pub upstream_service_time: Option<Duration>,
    /// Request headers.
    pub request_headers: RequestHeaders<'a>,
    /// Response headers as they were sent downstream.
    pub response_headers: Option<&'a HeaderMap>,
    /// Response trailers.
    pub response_trailers: Option<&'a HeaderMap>,
    /// The chosen endpoint.
    pub upstream_host: Option<SocketAddr>,
    /// Its path, of one that is a Unix socket.
    pub upstream_pipe: Option<&'a str>,
    /// The chosen cluster.
    pub upstream_cluster: Option<&'a str>,
    /// Our end of the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// The path of the Unix socket the client came by.
    pub downstream_pipe: Option<&'a str>,
    /// The address the client dialled.
    pub downstream_local: Option<SocketAddr>,
    /// The client, as a trusted proxy in front may have named it.
    pub downstream_remote: Option<SocketAddr>,
    /// The other end of the connection.
    pub downstream_direct: Option<SocketAddr>,
    /// Server name of the TLS hello.
    pub sni: Option<&'a str>,
    /// The route that matched.
    pub route_name: Option<&'a str>,
    /// URI SAN of the client's certificate.
    pub downstream_peer_uri: Option<&'a str>,
    /// Subject of the client's certificate (RFC 2253).
    pub downstream_peer_subject: Option<&'a str>,
    /// SHA-256 of the client's certificate, in hexadecimal digits.
    pub downstream_peer_sha256: Option<&'a str>,
    /// URI SAN of our certificate towards the client.
    pub downstream_local_uri: Option<&'a str>,
    /// URI SAN of the server's certificate.
    pub upstream_peer_uri: Option<&'a str>,
    /// Times the request was sent upstream.
    pub attempts: u32,
}

impl LogRecord<'_> {
    /// A record with nothing known but when it began.
    pub fn new(start: SystemTime) -> Self {
        Self {
            start,
            duration: Duration::ZERO,
            method: None,
            path: None,
            protocol: None,
            authority: None,
            scheme: None,
            response_code: 0,
            flags: ResponseFlags::NONE,
            details: None,
            connection_termination: None,
            upstream_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_service_time: None,
            request_headers: RequestHeaders::Kept(&[]),
            response_headers: None,
            response_trailers: None,
            upstream_host: None,
            upstream_pipe: None,
            downstream_pipe: None,
            upstream_cluster: None,
            upstream_local: None,
            downstream_local: None,
            downstream_remote: None,
            downstream_direct: None,
            sni: None,
            route_name: None,
            downstream_peer_uri: None,
            downstream_peer_subject: None,
            downstream_peer_sha256: None,
            downstream_local_uri: None,
            upstream_peer_uri: None,
            attempts: 0,
        }
    }
}
