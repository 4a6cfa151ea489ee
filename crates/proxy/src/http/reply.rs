//! Answers that the proxy gives by itself.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use telemetry::ResponseFlags;

use super::exchange::Exchange;
use super::held::ReplyBody;

/// What the proxy answers by itself.
pub(crate) struct Local {
    pub(crate) status: StatusCode,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) body: Bytes,
    pub(crate) grpc: Option<u16>,
    /// `www-authenticate`
    pub(crate) challenge: Option<HeaderValue>,
    /// The connection ends with this answer.
    pub(crate) close: bool,
}

impl Local {
    pub(crate) fn new(
        status: StatusCode,
        flags: ResponseFlags,
        details: impl Into<Cow<'static, str>>,
        body: &'static str,
    ) -> Self {
        Self {
            status,
            flags,
            details: details.into(),
            body: Bytes::from_static(body.as_bytes()),
            grpc: None,
            challenge: None,
            close: false,
        }
    }
}

/// Builds the answer; a gRPC caller gets its status in a 200 (gRPC's HTTP mapping).
pub(crate) fn local(exchange: Box<Exchange>, server: Option<&HeaderValue>, reply: Local) -> Response<ReplyBody> {
    changed(exchange, server, reply, |_, _| {})
}

/// Builds the answer, and changes its headers before it goes.
pub(crate) fn changed(
    mut exchange: Box<Exchange>,
    server: Option<&HeaderValue>,
    reply: Local,
    change: impl FnOnce(&Exchange, &mut HeaderMap),
) -> Response<ReplyBody> {
    exchange.flags.insert(reply.flags);
    exchange.details = Some(reply.details);
    let mut headers = HeaderMap::with_capacity(6);
    if let Some(server) = server {
        headers.insert(header::SERVER, server.clone());
    }
    if let Some(challenge) = reply.challenge {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    let (status, body) = if exchange.grpc {
        let code = reply.grpc.unwrap_or_else(|| grpc_code(reply.status));
        exchange.grpc_status = Some(code);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if let Ok(message) = HeaderValue::from_bytes(&reply.body)
            && !reply.body.is_empty()
        {
            headers.insert("grpc-message", message);
        }
        (StatusCode::OK, Bytes::new())
    } else {
        if !reply.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (reply.status, reply.body)
    };
    if reply.close && !exchange.connection.http2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    change(&exchange, &mut headers);
    exchange.status = status.as_u16();
    let mut response = Response::new(ReplyBody::local(body, exchange));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// gRPC status of an HTTP status (gRPC's `http-grpc-status-mapping`).
fn grpc_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-status` of headers or trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
