//! Envoy's format strings, compiled once: `%REQ(X-REQUEST-ID)%` and its like, in access logs and in header values.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::clock::rfc3339_millis;
use crate::record::{LogRecord, Special};

/// Why a format string was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("the operator that starts at byte {0} has no closing %")]
    Unclosed(usize),
    /// An operator this proxy does not know.
    #[error("operator %{0}% is not supported")]
    Unsupported(String),
    /// Something in the brackets of an operator is wrong.
    #[error("{0}")]
    Argument(String),
    /// The file of the log cannot be opened.
    #[error("access log file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
}

/// One piece of a compiled format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Text(Box<str>),
    Header { of: HeaderOf, name: HeaderRef, or: Option<HeaderRef>, max: usize },
    StartTime,
    Duration,
    UpstreamServiceTime,
    Protocol,
    Code,
    CodeDetails,
    Termination,
    Flags,
    UpstreamFailure,
    BytesReceived,
    BytesSent,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocal,
    DownstreamLocal { port: bool },
    DownstreamRemote { port: bool },
    DownstreamDirect { port: bool },
    DownstreamLocalPort,
    DownstreamRemotePort,
    DownstreamDirectPort,
    Sni,
    RouteName,
    DownstreamPeerUri,
    DownstreamPeerSubject,
    DownstreamPeerSha256,
    DownstreamLocalUri,
    UpstreamPeerUri,
    Attempts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderOf {
    Request,
    Response,
    Trailer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderRef {
    Special(Special),
    Named(HeaderName),
}

/// Compiles one format string.
pub(crate) fn compile(format: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut rest = format;
    let mut at = 0;
    while let Some(start) = rest.find('%') {
        if start > 0 {
            pieces.push(Piece::Text(rest[..start].into()));
        }
        let body = &rest[start + 1..];
        let end = end_of(body).ok_or(FormatError::Unclosed(at + start))?;
        if end == 0 {
            pieces.push(Piece::Text("%".into()));
        } else {
            pieces.push(operator(&body[..end])?);
        }
        at += start + end + 2;
        rest = &body[end + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// Where the operator that begins a text ends: at the next percent sign that is not inside its brackets.
fn end_of(body: &str) -> Option<usize> {
    let end = body.find('%')?;
    match body.find('(').filter(|open| *open < end) {
        Some(open) => {
            let close = open + body[open..].find(')')?;
            Some(close + body[close..].find('%')?)
        }
        None => Some(end),
    }
}

fn operator(text: &str) -> Result<Piece, FormatError> {
    let (name, argument) = match text.split_once('(') {
        Some((name, rest)) => (name, Some(rest)),
        None => (text, None),
    };
    let header = |of| header_piece(of, argument.unwrap_or_default());
    Ok(match name {
        "REQ" => header(HeaderOf::Request)?,
        "RESP" if argument.is_some_and(|a| a.starts_with("X-ENVOY-UPSTREAM-SERVICE-TIME)")) => {
            Piece::UpstreamServiceTime
        }
        "RESP" => header(HeaderOf::Response)?,
        "TRAILER" => header(HeaderOf::Trailer)?,
        "START_TIME" if argument.is_none() => Piece::StartTime,
        "DURATION" => Piece::Duration,
        "PROTOCOL" => Piece::Protocol,
        "RESPONSE_CODE" => Piece::Code,
        "RESPONSE_CODE_DETAILS" => Piece::CodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Piece::Termination,
        "RESPONSE_FLAGS" => Piece::Flags,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Piece::UpstreamFailure,
        "BYTES_RECEIVED" => Piece::BytesReceived,
        "BYTES_SENT" => Piece::BytesSent,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Piece::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Piece::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Piece::UpstreamLocal,
        "DOWNSTREAM_LOCAL_ADDRESS" => Piece::DownstreamLocal { port: true },
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Piece::DownstreamLocal { port: false },
        "DOWNSTREAM_LOCAL_PORT" => Piece::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" => Piece::DownstreamRemote { port: true },
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Piece::DownstreamRemote { port: false },
        "DOWNSTREAM_REMOTE_PORT" => Piece::DownstreamRemotePort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Piece::DownstreamDirect { port: true },
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Piece::DownstreamDirect { port: false },
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => Piece::DownstreamDirectPort,
        "REQUESTED_SERVER_NAME" => Piece::Sni,
        "ROUTE_NAME" => Piece::RouteName,
        "DOWNSTREAM_PEER_URI_SAN" => Piece::DownstreamPeerUri,
        "DOWNSTREAM_PEER_SUBJECT" => Piece::DownstreamPeerSubject,
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Piece::DownstreamPeerSha256,
        "DOWNSTREAM_LOCAL_URI_SAN" => Piece::DownstreamLocalUri,
        "UPSTREAM_PEER_URI_SAN" => Piece::UpstreamPeerUri,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Piece::Attempts,
        _ => return Err(FormatError::Unsupported(text.to_owned())),
    })
}

/// `NAME?OTHER):LENGTH`, the part behind the opening bracket.
fn header_piece(of: HeaderOf, text: &str) -> Result<Piece, FormatError> {
    let (names, tail) =
        text.split_once(')').ok_or_else(|| FormatError::Argument(format!("\"{text}\" has no closing bracket")))?;
    let max = match tail.strip_prefix(':') {
        Some(digits) => digits.parse().map_err(|_| FormatError::Argument(format!("\"{digits}\" is not a length")))?,
        None => usize::MAX,
    };
    let (name, or) = match names.split_once('?') {
        Some((name, or)) => (header_ref(name)?, Some(header_ref(or)?)),
        None => (header_ref(names)?, None),
    };
    Ok(Piece::Header { of, name, or, max })
}

fn header_ref(name: &str) -> Result<HeaderRef, FormatError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => HeaderRef::Special(Special::Method),
        ":path" => HeaderRef::Special(Special::Path),
        "x-envoy-original-path" => HeaderRef::Special(Special::OriginalPath),
        ":authority" | "host" => HeaderRef::Special(Special::Authority),
        ":scheme" => HeaderRef::Special(Special::Scheme),
        other => HeaderRef::Named(
            HeaderName::from_bytes(other.as_bytes())
                .map_err(|_| FormatError::Argument(format!("\"{name}\" is not a header name")))?,
        ),
    })
}

/// Writes the value of a piece; `false` when there is none.
pub(crate) fn write_value(piece: &Piece, record: &LogRecord<'_>, out: &mut Vec<u8>) -> bool {
    let mut text =
        |value: Option<&str>| value.filter(|v| !v.is_empty()).map(|v| out.extend_from_slice(v.as_bytes())).is_some();
    match piece {
        Piece::Text(value) => text(Some(value)),
        Piece::Protocol => text(record.protocol),
        Piece::CodeDetails => text(record.details),
        Piece::Termination => text(record.connection_termination),
        Piece::UpstreamFailure => text(record.upstream_failure),
        Piece::UpstreamCluster => text(record.upstream_cluster),
        Piece::Sni => text(record.sni),
        Piece::RouteName => text(record.route_name),
        Piece::DownstreamPeerUri => text(record.downstream_peer_uri),
        Piece::DownstreamPeerSubject => text(record.downstream_peer_subject),
        Piece::DownstreamPeerSha256 => text(record.downstream_peer_sha256),
        Piece::DownstreamLocalUri => text(record.downstream_local_uri),
        Piece::UpstreamPeerUri => text(record.upstream_peer_uri),
        Piece::Header { of, name, or, max } => {
            let value = header(record, *of, name).or_else(|| or.as_ref().and_then(|or| header(record, *of, or)));
            value.map(|v| out.extend_from_slice(&v[..v.len().min(*max)])).is_some()
        }
        Piece::StartTime => {
            rfc3339_millis(record.start, out);
            true
        }
        Piece::Flags => {
            if record.flags.is_empty() {
                return false;
            }
            out.extend_from_slice(record.flags.to_string().as_bytes());
            true
        }
        Piece::UpstreamHost => match record.upstream_pipe {
            Some(path) => {
                out.extend_from_slice(path.as_bytes());
                true
            }
            None => address(record.upstream_host, true, out),
        },
        Piece::UpstreamLocal => address(record.upstream_local, true, out),
        Piece::DownstreamLocal { port } => address(record.downstream_local, *port, out),
        Piece::DownstreamRemote { port } => address(record.downstream_remote, *port, out),
        Piece::DownstreamDirect { port } => address(record.downstream_direct, *port, out),
        numeric => match number(numeric, record) {
            Some(value) => {
                out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
                true
            }
            None => false,
        },
    }
}

/// The value of a piece that is a number, for JSON logs that keep its type.
pub(crate) fn number(piece: &Piece, record: &LogRecord<'_>) -> Option<u64> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let port = |address: Option<SocketAddr>| address.map(|a| u64::from(a.port()));
    match piece {
        Piece::Duration => Some(millis(record.duration)),
        Piece::Code => Some(u64::from(record.response_code)),
        Piece::BytesReceived => Some(record.bytes_received),
        Piece::BytesSent => Some(record.bytes_sent),
        Piece::UpstreamServiceTime => record.upstream_service_time.map(millis),
        Piece::DownstreamLocalPort => port(record.downstream_local),
        Piece::DownstreamRemotePort => port(record.downstream_remote),
        Piece::DownstreamDirectPort => port(record.downstream_direct),
        Piece::Attempts => Some(u64::from(record.attempts)),
        _ => None,
    }
}

fn address(address: Option<SocketAddr>, port: bool, out: &mut Vec<u8>) -> bool {
    use std::io::Write as _;
    let Some(address) = address else { return false };
    // Writing to a Vec does not fail.
    let _ = if port { write!(out, "{address}") } else { write!(out, "{}", address.ip()) };
    true
}

fn header<'a>(record: &LogRecord<'a>, of: HeaderOf, name: &HeaderRef) -> Option<&'a [u8]> {
    match (name, of) {
        (HeaderRef::Special(name), HeaderOf::Request) => record.request_headers.special(*name, record),
        (HeaderRef::Special(_), _) => None,
        (HeaderRef::Named(name), of) => match of {
            HeaderOf::Request => record.request_headers.value(name),
            HeaderOf::Response => record.response_headers.and_then(|h| h.get(name)),
            HeaderOf::Trailer => record.response_trailers.and_then(|h| h.get(name)),
        }
        .map(HeaderValue::as_bytes),
    }
}
