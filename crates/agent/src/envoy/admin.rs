//! Questions to Envoy's admin pages.

use std::io;

use bytes::Bytes;
use http::StatusCode;

use crate::request::fetch;

/// Envoy's admin port.
const ADMIN: u16 = 15000;

/// One exchange with the admin port: status and body.
///
/// # Errors
/// When nobody answers there in time.
pub(super) async fn ask(method: &str, path: &str) -> io::Result<(StatusCode, Bytes)> {
    fetch(ADMIN, method, path).await
}

/// Whether Envoy has its configuration and serves.
pub(super) async fn ready() -> Result<(), String> {
    match ask("GET", "/ready").await {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((_, body)) => Err(format!("Envoy is not ready: {}", String::from_utf8_lossy(&body).trim())),
        Err(error) => Err(format!("Envoy does not answer on its admin port: {error}")),
    }
}

/// Whether a request or a TCP connection is under way; an Envoy that does not answer is not busy.
pub(super) async fn busy() -> bool {
    // HTTP connections that only idle do not count, as with our own data plane.
    let filter = "^(http\\..*\\.downstream_rq_active|tcp\\..*\\.downstream_cx_active)$";
    let encoded: String = filter
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let Ok((_, body)) = ask("GET", &format!("/stats?filter={encoded}")).await else { return false };
    let text = String::from_utf8_lossy(&body);
    text.lines()
        .filter(|line| !line.starts_with("http.admin."))
        .filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok())
        .any(|active| active > 0)
}

/// Clients are told to go elsewhere; what they still send is served.
pub(super) async fn drain() {
    if let Err(error) = ask("POST", "/drain_listeners?inboundonly&graceful&skip_exit").await {
        tracing::warn!(%error, "Envoy does not drain");
    }
}
