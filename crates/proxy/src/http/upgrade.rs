//! Upgrades, such as WebSocket: after the 101 both sides speak bytes.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proxy_config::HttpManager;
use telemetry::ResponseFlags;
use upstream::UpstreamBody;

use super::body::ReplyBody;
use super::exchange::Exchange;
use super::reply::Local;

/// An upgrade that the client asked for and the configuration allows.
#[derive(Clone, Debug)]
pub(crate) struct Wanted(HeaderValue);

/// Whether the client asks for an upgrade.
///
/// # Errors
/// When it asks for one that is not allowed.
pub(crate) fn wanted<B>(manager: &HttpManager, request: &Request<B>) -> Result<Option<Wanted>, Local> {
    let refused = |details: &'static str| Local::new(StatusCode::FORBIDDEN, ResponseFlags::NONE, details, "");
    if request.method() == Method::CONNECT {
        return Err(refused("upgrade_failed"));
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
    if manager.upgrades.contains(&name) { Ok(Some(Wanted(protocol.clone()))) } else { Err(refused("upgrade_failed")) }
}

/// Joins the two sides; the exchange ends when they do.
pub(crate) fn join(
    mut exchange: Box<Exchange>,
    wanted: Wanted,
    client: OnUpgrade,
    mut response: Response<UpstreamBody>,
) -> Response<ReplyBody> {
    let server = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::UPGRADE, wanted.0);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    exchange.complete = true;
    tokio::task::spawn_local(async move {
        let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
        let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
        if let Ok((up, down)) = tokio::io::copy_bidirectional(&mut client, &mut server).await {
            exchange.bytes_received += up;
            exchange.bytes_sent += down;
        }
    });
    Response::from_parts(parts, ReplyBody::bare(Bytes::new()))
}
