//! Envoy's format strings, compiled once: `%REQ(X-REQUEST-ID)%` and its like, in access logs and in header values.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::record::{LogRecord, Special};
use crate::time_format::TimeFormat;

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
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Path(PathOf),
    Duration,
    UpstreamServiceTime,
    Protocol,
    Code,
    CodeDetails { spaces: bool },
    Termination,
    Flags,
    LongFlags,
    UpstreamFailure,
    BytesReceived,
    BytesSent,
    UpstreamHost { port: bool },
    UpstreamPort,
    UpstreamCluster,
    UpstreamLocal { port: bool },
    UpstreamLocalPort,
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

impl Piece {
    /// Whether it prints a dash where there is nothing, wherever it stands.
    pub(crate) fn is_flags(&self) -> bool {
        matches!(self, Self::Flags | Self::LongFlags)
    }
}

/// Which path of a request, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathOf {
    original: bool,
    /// That which goes on, where there is no other.
    current: bool,
    query: bool,
    max: usize,
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
    Ok(match (name, argument) {
        ("REQ" | "REQUEST_HEADER", _) => header(HeaderOf::Request)?,
        ("RESP" | "RESPONSE_HEADER", Some(a)) if a.starts_with("X-ENVOY-UPSTREAM-SERVICE-TIME)") => {
            Piece::UpstreamServiceTime
        }
        ("RESP" | "RESPONSE_HEADER", _) => header(HeaderOf::Response)?,
        ("TRAILER" | "RESPONSE_TRAILER", _) => header(HeaderOf::Trailer)?,
        ("START_TIME", _) => Piece::StartTime(time(argument)?),
        ("EMIT_TIME", _) => Piece::EmitTime(time(argument)?),
        ("PATH", _) => Piece::Path(path(argument)?),
        ("ENVIRONMENT", Some(argument)) => environment(argument)?,
        ("RESPONSE_CODE_DETAILS", None) => Piece::CodeDetails { spaces: false },
        ("RESPONSE_CODE_DETAILS", Some("ALLOW_WHITESPACES)")) => Piece::CodeDetails { spaces: true },
        (name, None) => plain(name)?,
        _ => return Err(FormatError::Unsupported(text.to_owned())),
    })
}

/// The operators that take nothing.
fn plain(name: &str) -> Result<Piece, FormatError> {
    Ok(match name {
        "DURATION" => Piece::Duration,
        "PROTOCOL" => Piece::Protocol,
        "RESPONSE_CODE" => Piece::Code,
        "CONNECTION_TERMINATION_DETAILS" => Piece::Termination,
        "RESPONSE_FLAGS" => Piece::Flags,
        "RESPONSE_FLAGS_LONG" => Piece::LongFlags,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Piece::UpstreamFailure,
        "BYTES_RECEIVED" => Piece::BytesReceived,
        "BYTES_SENT" => Piece::BytesSent,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Piece::UpstreamHost { port: true },
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Piece::UpstreamHost { port: false },
        "UPSTREAM_REMOTE_PORT" => Piece::UpstreamPort,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Piece::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Piece::UpstreamLocal { port: true },
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Piece::UpstreamLocal { port: false },
        "UPSTREAM_LOCAL_PORT" => Piece::UpstreamLocalPort,
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
        "HOSTNAME" => Piece::Text(hostname().into()),
        _ => return Err(FormatError::Unsupported(name.to_owned())),
    })
}

/// The machine's name, as it is when the format is read; a dash where it has none.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// What stands in brackets, and how long the value may be: `WHAT):LENGTH`.
fn in_brackets(text: &str) -> Result<(&str, usize), FormatError> {
    let (inside, tail) =
        text.split_once(')').ok_or_else(|| FormatError::Argument(format!("\"{text}\" has no closing bracket")))?;
    let max = match tail.strip_prefix(':') {
        Some(digits) => digits.parse().map_err(|_| FormatError::Argument(format!("\"{digits}\" is not a length")))?,
        None if tail.is_empty() => usize::MAX,
        None => return Err(FormatError::Argument(format!("\"{tail}\" is behind the closing bracket"))),
    };
    Ok((inside, max))
}

/// The form of a time; it may hold brackets itself.
fn time(argument: Option<&str>) -> Result<TimeFormat, FormatError> {
    let Some(text) = argument else { return Ok(TimeFormat::USUAL) };
    let form = text.strip_suffix(')');
    TimeFormat::new(form.ok_or_else(|| FormatError::Argument(format!("\"{text}\" has no closing bracket")))?)
}

/// `X:Y):LENGTH`: with the query or without, the path that came or the one that goes on.
fn path(argument: Option<&str>) -> Result<PathOf, FormatError> {
    let (inside, max) = argument.map_or(Ok(("", usize::MAX)), in_brackets)?;
    let (query, which) = inside.split_once(':').unwrap_or((inside, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(FormatError::Argument(format!("\"{other}\" is neither WQ nor NQ"))),
    };
    let (original, current) = match which {
        "" | "ORIG_OR_PATH" => (true, true),
        "ORIG" => (true, false),
        "PATH" => (false, true),
        other => return Err(FormatError::Argument(format!("\"{other}\" is none of ORIG, PATH, ORIG_OR_PATH"))),
    };
    Ok(PathOf { original, current, query, max })
}

/// A variable of the proxy's own environment, as it is when the format is read; a dash where there is none.
fn environment(argument: &str) -> Result<Piece, FormatError> {
    let (name, max) = in_brackets(argument)?;
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(FormatError::Argument(format!("\"{name}\" is no name of a variable")));
    }
    let value = std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| "-".to_owned());
    Ok(Piece::Text(value.chars().take(max).collect::<String>().into()))
}

/// `NAME?OTHER):LENGTH`, the part behind the opening bracket.
fn header_piece(of: HeaderOf, text: &str) -> Result<Piece, FormatError> {
    let (names, max) = in_brackets(text)?;
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
        Piece::CodeDetails { spaces: true } => text(record.details),
        Piece::CodeDetails { spaces: false } => match record.details.filter(|details| !details.is_empty()) {
            Some(details) => {
                out.extend(details.bytes().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }));
                true
            }
            None => false,
        },
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
        Piece::StartTime(form) => {
            form.write(record.start, out);
            true
        }
        Piece::EmitTime(form) => {
            form.write(std::time::SystemTime::now(), out);
            true
        }
        Piece::Path(of) => path_of(*of, record, out),
        Piece::LongFlags => {
            out.extend_from_slice(record.flags.long().as_bytes());
            !record.flags.is_empty()
        }
        Piece::Flags => {
            if record.flags.is_empty() {
                return false;
            }
            out.extend_from_slice(record.flags.to_string().as_bytes());
            true
        }
        Piece::UpstreamHost { port } => place(record.upstream_pipe, record.upstream_host, *port, out),
        Piece::UpstreamLocal { port } => address(record.upstream_local, *port, out),
        Piece::DownstreamLocal { port } => place(record.downstream_pipe, record.downstream_local, *port, out),
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
        Piece::UpstreamPort => port(record.upstream_host),
        Piece::UpstreamLocalPort => port(record.upstream_local),
        Piece::DownstreamLocalPort => port(record.downstream_local),
        Piece::DownstreamRemotePort => port(record.downstream_remote),
        Piece::DownstreamDirectPort => port(record.downstream_direct),
        Piece::Attempts => Some(u64::from(record.attempts)),
        _ => None,
    }
}

fn path_of(of: PathOf, record: &LogRecord<'_>, out: &mut Vec<u8>) -> bool {
    let find = |wanted: bool, which| record.request_headers.special(which, record).filter(|_| wanted);
    let found = find(of.original, Special::OriginalPath).or_else(|| find(of.current, Special::Path));
    let Some(path) = found else { return false };
    let bare = path.split(|byte| *byte == b'?').next().filter(|_| !of.query).unwrap_or(path);
    out.extend_from_slice(bare.get(..of.max).unwrap_or(bare));
    true
}

/// The path of a Unix socket, or an address.
fn place(pipe: Option<&str>, of_network: Option<SocketAddr>, port: bool, out: &mut Vec<u8>) -> bool {
    match pipe {
        Some(path) => {
            out.extend_from_slice(path.as_bytes());
            true
        }
        None => address(of_network, port, out),
    }
}

fn address(address: Option<SocketAddr>, port: bool, out: &mut Vec<u8>) -> bool {
    let Some(address) = address else { return false };
    write_address(address, port, out);
    true
}

/// Three addresses stand in each line of a log: those of IPv4 are written without the formatter.
fn write_address(address: SocketAddr, port: bool, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let SocketAddr::V4(v4) = address else {
        // Writing to a Vec does not fail.
        let _ = if port { write!(out, "{address}") } else { write!(out, "{}", address.ip()) };
        return;
    };
    let mut number = itoa::Buffer::new();
    for (index, octet) in v4.ip().octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(number.format(octet).as_bytes());
    }
    if port {
        out.push(b':');
        out.extend_from_slice(number.format(v4.port()).as_bytes());
    }
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
