//! Errors as data: what went wrong, whether the peer may have seen the request, and what to log.

use std::error::Error as _;
use std::fmt;

use http::Request;
use telemetry::ResponseFlags;

use crate::body::Body;

/// What went wrong between us and the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No connection: refused, unreachable.
    Connect(String),
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// The TLS handshake failed.
    Tls(String),
    /// The connection broke before an answer came.
    Reset(String),
    /// The peer refused the stream without looking at it.
    Refused,
    /// The peer reset the stream before an answer came; its connection lives on.
    RemoteReset(String),
    /// The peer does not speak the protocol.
    Protocol(String),
    /// A circuit breaker is open.
    Overflow,
}

impl Cause {
    /// What an error of an HTTP/1 connection means.
    pub(crate) fn of_http1(error: &hyper::Error) -> Self {
        if error.is_parse() || error.is_parse_too_large() {
            return Self::Protocol(error.to_string());
        }
        Self::Reset(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    }

    /// What an error of an HTTP/2 connection or stream means.
    pub(crate) fn of_http2(error: &h2::Error) -> Self {
        match error {
            // GOAWAY reaches only streams beyond the last one that the peer looked at (RFC 9113, 6.8).
            e if e.is_remote() && e.is_go_away() => Self::Refused,
            e if e.is_remote() && e.reason() == Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
            e if e.is_remote() && e.is_reset() => Self::RemoteReset(e.to_string()),
            e if e.is_library() => Self::Protocol(e.to_string()),
            e => Self::Reset(e.to_string()),
        }
    }

    /// Envoy's response flag.
    pub fn flag(&self) -> ResponseFlags {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_) => ResponseFlags::UF,
            Self::Reset(_) => ResponseFlags::UC,
            Self::Refused | Self::RemoteReset(_) => ResponseFlags::UR,
            Self::Protocol(_) => ResponseFlags::UPE,
            Self::Overflow => ResponseFlags::UO,
        }
    }

    /// Envoy's `%RESPONSE_CODE_DETAILS%`.
    pub fn details(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Tls(_) => "upstream_reset_before_response_started{connection_failure}",
            Self::ConnectTimeout => "upstream_reset_before_response_started{connection_timeout}",
            Self::Reset(_) => "upstream_reset_before_response_started{connection_termination}",
            Self::Refused => "upstream_reset_before_response_started{remote_refused_stream_reset}",
            Self::RemoteReset(_) => "upstream_reset_before_response_started{remote_reset}",
            Self::Protocol(_) => "upstream_reset_before_response_started{protocol_error}",
            Self::Overflow => "upstream_reset_before_response_started{overflow}",
        }
    }

    /// Why the transport failed, for `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub fn transport_failure(&self) -> Option<&str> {
        match self {
            Self::Connect(why) | Self::Tls(why) => Some(why),
            _ => None,
        }
    }

    /// Whether no connection came about.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::ConnectTimeout | Self::Tls(_))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "connection failure: {why}"),
            Self::ConnectTimeout => f.write_str("connection timeout"),
            Self::Tls(why) => write!(f, "TLS failure: {why}"),
            Self::Reset(why) => write!(f, "connection termination: {why}"),
            Self::Refused => f.write_str("the peer refused the stream"),
            Self::RemoteReset(why) => write!(f, "stream reset: {why}"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::Overflow => f.write_str("overflow"),
        }
    }
}

/// Why the body of an answer broke off.
#[derive(Debug)]
pub enum AnswerError {
    /// Its HTTP/1 connection did.
    Http1(hyper::Error),
    /// Its stream or its HTTP/2 connection did.
    Http2(h2::Error),
}

impl AnswerError {
    /// Whether only one HTTP/2 stream failed, and its connection serves on.
    pub fn is_stream_reset(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_reset())
    }
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(error) => write!(f, "the answer broke off: {error}"),
            Self::Http2(error) => write!(f, "the answer broke off: {error}"),
        }
    }
}

impl std::error::Error for AnswerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http1(error) => Some(error),
            Self::Http2(error) => Some(error),
        }
    }
}

/// A request that got no answer.
#[derive(Debug)]
pub struct SendError {
    /// Why.
    pub cause: Cause,
    /// The request, when it certainly was not sent.
    pub request: Option<Box<Request<Body>>>,
    /// It went out on a connection that had served before: the peer may have closed it in the same moment.
    pub reused: bool,
}
