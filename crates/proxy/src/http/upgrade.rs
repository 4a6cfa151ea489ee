//! Connections that become something else: WebSocket by upgrade (HTTP/1.1) or extended CONNECT (HTTP/2, RFC 8441), and
//! CONNECT itself. Afterwards both sides speak bytes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use net::{CopyEnd, Moved};
use proxy_config::HttpManager;
use telemetry::ResponseFlags;
use tokio::io::{AsyncRead, AsyncWrite};
use upstream::{Connected, Host, UpstreamBody};

use super::doubt;
use super::exchange::Exchange;
use super::held::ReplyBody;
use super::reply::Local;
use crate::tcp::copy_buffered;

static WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// What the client asked for and the configuration allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// `Upgrade` of HTTP/1.1.
    Upgrade(HeaderValue),
    /// The same by extended CONNECT of HTTP/2; sent on as an upgrade.
    Extended(HeaderValue),
    /// CONNECT.
    Connect,
}

impl Wanted {
    /// The status by which an upstream agrees.
    fn is_agreed(&self, status: StatusCode) -> bool {
        match self {
            Self::Upgrade(_) | Self::Extended(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Self::Connect => status.is_success(),
        }
    }
}

/// Whether the client asks for another protocol.
///
/// # Errors
/// When it asks for one that is not allowed, or sends a body with it.
pub(crate) fn wanted<B: http_body::Body>(manager: &HttpManager, request: &Request<B>) -> Result<Option<Wanted>, Local> {
    let allowed = |name: &str| manager.upgrades.iter().any(|u| u == name);
    let refused = || Local::new(StatusCode::FORBIDDEN, ResponseFlags::NONE, "upgrade_failed", "");
    if request.method() == Method::CONNECT {
        let Some(protocol) = request.extensions().get::<Protocol>() else {
            return if allowed("connect") { Ok(Some(Wanted::Connect)) } else { Err(refused()) };
        };
        let name = protocol.as_str().to_ascii_lowercase();
        let token = HeaderValue::from_str(&name).map_err(|_| refused())?;
        return if allowed(&name) { Ok(Some(Wanted::Extended(token))) } else { Err(refused()) };
    }
    if request.version() != http::Version::HTTP_11 {
        return Ok(None);
    }
    let asks = |list: &HeaderValue| {
        list.to_str().is_ok_and(|l| l.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    };
    let Some(protocol) = request.headers().get(header::UPGRADE) else { return Ok(None) };
    if !request.headers().get_all(header::CONNECTION).iter().any(asks) {
        return Ok(None);
    }
    let name = protocol.to_str().unwrap_or_default().to_ascii_lowercase();
    if name == "h2c" {
        // An offer that may be passed over (RFC 9113, 3.1).
        return Ok(None);
    }
    if !allowed(&name) {
        return Err(refused());
    }
    if doubt::has_body(request) {
        // Where would the body end, and the other protocol begin?
        return Err(doubt::refused(StatusCode::BAD_REQUEST, "upgrade_with_body"));
    }
    Ok(Some(Wanted::Upgrade(protocol.clone())))
}

/// Gives an upgrade the one form it is sent on in: GET with `upgrade` (RFC 6455, 4.1).
pub(crate) fn prepare<B>(wanted: &Wanted, request: &mut Request<B>) {
    let (Wanted::Upgrade(token) | Wanted::Extended(token)) = wanted else { return };
    if matches!(wanted, Wanted::Extended(_)) {
        *request.method_mut() = Method::GET;
        request.extensions_mut().remove::<Protocol>();
        if !request.headers().contains_key(&WEBSOCKET_KEY) {
            // HTTP/2 has no use for the key, HTTP/1.1 servers insist on it (RFC 8441, 5).
            let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
            if let Ok(key) = HeaderValue::from_str(&key) {
                request.headers_mut().insert(WEBSOCKET_KEY.clone(), key);
            }
        }
    }
    let version = request.version();
    let headers = request.headers_mut();
    super::headers::remove_hop_by_hop(version, headers);
    headers.insert(header::UPGRADE, token.clone());
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

/// A client that asked, and its stream to be.
#[derive(Debug)]
pub(crate) struct Pending {
    wanted: Wanted,
    client: OnUpgrade,
}

impl Pending {
    pub(crate) fn new<B>(wanted: Wanted, request: &mut Request<B>) -> Self {
        Self { wanted, client: hyper::upgrade::on(request) }
    }

    /// Whether the upstream's answer means that it agrees.
    pub(crate) fn is_agreed(&self, status: StatusCode) -> bool {
        self.wanted.is_agreed(status)
    }

    pub(crate) fn is_connect(&self) -> bool {
        self.wanted == Wanted::Connect
    }

    /// The upstream agreed: both sides are joined, and the exchange ends when they do.
    pub(crate) fn join(self, mut exchange: Box<Exchange>, mut response: Response<UpstreamBody>) -> Response<ReplyBody> {
        let server = hyper::upgrade::on(&mut response);
        let (mut parts, body) = response.into_parts();
        super::headers::remove_hop_by_hop(parts.version, &mut parts.headers);
        let client = self.client;
        match self.wanted {
            Wanted::Upgrade(token) => {
                parts.headers.insert(header::UPGRADE, token);
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            Wanted::Extended(_) | Wanted::Connect => parts.status = StatusCode::OK,
        }
        exchange.status = parts.status.as_u16();
        exchange.connection.watch.end();
        tokio::task::spawn_local(async move {
            // The lease of the connection lasts as long as the bytes flow.
            let _body = body;
            let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
            relay(exchange, TokioIo::new(client), TokioIo::new(server)).await;
        });
        parts.version = http::Version::HTTP_11;
        Response::from_parts(parts, ReplyBody::bare(Bytes::new()))
    }

    /// CONNECT ends here: the client's bytes go to a plain connection.
    pub(crate) fn tunnel(self, exchange: Box<Exchange>, host: Arc<Host>, connected: Connected) -> Response<ReplyBody> {
        let client = self.client;
        exchange.connection.watch.end();
        tokio::task::spawn_local(async move {
            let _permit = connected.permit;
            let Ok(client) = client.await else { return };
            host.stats.cx_active.fetch_add(1, Relaxed);
            relay(exchange, TokioIo::new(client), connected.stream).await;
            host.stats.cx_active.fetch_sub(1, Relaxed);
        });
        Response::new(ReplyBody::bare(Bytes::new()))
    }
}

async fn relay(
    mut exchange: Box<Exchange>,
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
) {
    exchange.complete = true;
    let moved = Moved::default();
    // How it ended is no news: either side may leave whenever it likes.
    let idle = exchange.idle.as_ref().map(|idle| idle.limit);
    if matches!(copy_buffered(client, server, idle, &moved).await, CopyEnd::Idle) {
        exchange.flags.insert(ResponseFlags::SI);
        exchange.details = Some("stream_idle_timeout".into());
    }
    exchange.bytes_received += moved.a_to_b.get();
    exchange.bytes_sent += moved.b_to_a.get();
}
