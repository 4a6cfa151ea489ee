//! Requests that are not believed: what could mean one thing to us and another to the application is never sent on.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use proxy_config::{HttpManager, Underscores};
use rules::framing::{Doubt, Framing};
use telemetry::ResponseFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::reply::Local;
use crate::stream::{Farewell, Stream};

/// What the raw bytes of a client's HTTP/1 requests say of their framing.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The first request, counted from 0, that is not believed.
    doubt: OnceLock<(u64, Doubt)>,
    /// The connection has become a tunnel.
    over: AtomicBool,
}

impl Watch {
    /// What follows is not HTTP/1.
    pub(crate) fn end(&self) {
        self.over.store(true, Relaxed);
    }

    /// Whether the framing of a request is beyond doubt (RFC 9112, 6). `number` counts the connection's requests from 0.
    pub(crate) fn believe(&self, number: u64) -> Result<(), Local> {
        match self.doubt.get() {
            Some((first, doubt)) if *first <= number => Err(match doubt {
                // What we cannot decode we may not pass on as if it were plain (RFC 9112, 6.1).
                Doubt::Encoding => refused(StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding"),
                Doubt::LengthAndEncoding => bad("http1.content_length_and_chunked_not_allowed"),
                Doubt::Length => bad("http1.invalid_content_length"),
                Doubt::Chunk => bad("http1.invalid_chunk"),
            }),
            _ => Ok(()),
        }
    }
}

/// A client's stream, its incoming bytes looked at before the parser gets them.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: Stream,
    framing: Framing,
    watch: Arc<Watch>,
    farewell: Farewell,
}

impl Watched {
    /// `delayed` is how long the connection is read on once it is to end.
    pub(crate) fn new(stream: Stream, delayed: Option<Duration>) -> (Self, Arc<Watch>) {
        let watch = Arc::<Watch>::default();
        (Self { stream, framing: Framing::default(), watch: watch.clone(), farewell: Farewell::new(delayed) }, watch)
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(new) = buf.filled().get(before..)
            && !this.watch.over.load(Relaxed)
        {
            this.framing.read(new);
            if let Some(doubt) = this.framing.doubt() {
                this.watch.doubt.get_or_init(|| doubt);
            }
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.over.load(Relaxed) {
            return Pin::new(&mut this.stream).poll_shutdown(cx);
        }
        this.farewell.poll(&mut this.stream, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The refusal of a request whose sender can no longer be followed: answered, and its connection closed.
pub(crate) fn refused(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Local {
    Local {
        status,
        flags: ResponseFlags::DPE,
        details: details.into(),
        body: Bytes::new(),
        grpc: None,
        challenge: None,
        close: true,
    }
}

fn bad(details: &'static str) -> Local {
    refused(StatusCode::BAD_REQUEST, details)
}

/// The one authority that a request is for: of its target, else of its one `host` header (RFC 9112, 3.2; RFC 9113, 8.3.1).
pub(crate) fn authority<B>(request: &Request<B>) -> Result<HeaderValue, Local> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        // Two hosts: one for the policy, one for the application.
        return Err(bad("duplicate_host_header"));
    }
    let uri = request.uri();
    let http2 = request.version() == Version::HTTP_2;
    let found = match (uri.authority(), host) {
        (Some(target), host) => {
            if !http2 && uri.scheme().is_none() && request.method() != Method::CONNECT {
                // `GET example.com`: the authority form belongs to CONNECT alone.
                return Err(bad("http1.invalid_url"));
            }
            match host {
                None if request.version() == Version::HTTP_11 => return Err(bad("missing_host_header")),
                // HTTP/2 says it once; where it is said twice, it must be the same.
                Some(host) if http2 && !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()) => {
                    return Err(bad("http2.host_differs_from_authority"));
                }
                // HTTP/1: the target's counts, whatever `host` says.
                _ => HeaderValue::from_str(target.as_str()).map_err(|_| bad("invalid_authority"))?,
            }
        }
        (None, Some(host)) => host.clone(),
        (None, None) if request.version() == Version::HTTP_10 => HeaderValue::from_static(""),
        (None, None) => return Err(bad("missing_host_header")),
    };
    let text = found.as_bytes();
    // User names before the host are for people's eyes, and to deceive them (RFC 9110, 4.2.4).
    if text.contains(&b'@') || (!text.is_empty() && Authority::try_from(text).is_err()) {
        return Err(bad("invalid_authority"));
    }
    Ok(found)
}

/// Whether the target is a path, or the `*` that belongs to OPTIONS alone.
pub(crate) fn path<B>(request: &Request<B>) -> Result<&str, Local> {
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    match path {
        "*" if request.method() == Method::OPTIONS => Ok(path),
        _ if path.starts_with('/') || request.method() == Method::CONNECT => Ok(path),
        _ => Err(bad("invalid_path")),
    }
}

/// Names with an underscore, which some applications cannot tell from a dash.
pub(crate) fn underscores(manager: &HttpManager, headers: &mut HeaderMap) -> Result<(), Local> {
    if manager.common.underscores == Underscores::Allow {
        return Ok(());
    }
    let suspicious: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    if manager.common.underscores == Underscores::Reject && !suspicious.is_empty() {
        return Err(bad("http1.unexpected_underscore"));
    }
    for name in suspicious {
        headers.remove(name);
    }
    Ok(())
}

/// Whether a body follows a request that asks for another protocol: where would it end?
pub(crate) fn has_body<B: http_body::Body>(request: &Request<B>) -> bool {
    !request.body().is_end_stream()
}

/// An upstream's answer that cannot be passed on: its client and we might see different ends of it.
pub(crate) fn answer<B>(response: &mut Response<B>) -> Result<(), &'static str> {
    let headers = response.headers_mut();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next().cloned();
    let several = lengths.next().is_some();
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if length.is_some() {
            return Err("http1.content_length_and_chunked_not_allowed");
        }
        if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("http1.invalid_transfer_encoding");
        }
    }
    match length {
        // The parser has seen that they agree; one is enough.
        Some(length) if several => {
            headers.insert(header::CONTENT_LENGTH, length);
        }
        _ => {}
    }
    Ok(())
}
