//! `expect: 100-continue` (RFC 9110, 10.1.1): who says that the body may come.
//!
//! By Envoy's default the proxy does, at once. Where it is the upstream's business (Istio's configuration), the body is
//! held back until the upstream has said 100; an upstream that answers for good without it never gets the body, and the
//! client need not send it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, header};
use proxy_config::HttpManager;
use tokio::sync::Notify;
use upstream::{Body, Version};

/// An upstream that knows nothing of 100 waits for the body, and so would we for ever; a client that got no 100 goes on
/// by itself too (curl waits as long).
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the client waits for a word before it sends the body.
fn expects(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Decides who answers the expectation: we (the header goes, the body is asked for as soon as it is sent on), or the
/// upstream, whose 100 the returned signal tells. HTTP/2 has no 100 that hyper would show us.
pub(crate) fn answer<B>(manager: &HttpManager, request: &mut Request<B>, upstream: Version) -> Option<Arc<Notify>> {
    if !expects(request.headers()) {
        return None;
    }
    if !manager.proxy_continue || upstream == Version::Http2 || request.version() == http::Version::HTTP_2 {
        request.headers_mut().remove(header::EXPECT);
        return None;
    }
    Some(Arc::new(Notify::new()))
}

/// Holds the body back until the signal.
pub(crate) fn hold(mut request: Request<Body>, signal: Option<Arc<Notify>>) -> Request<Body> {
    let Some(signal) = signal else { return request };
    let told = signal.clone();
    hyper::ext::on_informational(&mut request, move |answer| {
        if answer.status() == http::StatusCode::CONTINUE {
            told.notify_one();
        }
    });
    request.map(|body| match body {
        Body::Empty | Body::Full(_) => body,
        body => body.after(async move {
            // Told or not: the body goes on.
            let _ = tokio::time::timeout(PATIENCE, signal.notified()).await;
        }),
    })
}
