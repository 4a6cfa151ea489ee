//! Copies of requests for other clusters; what they answer is thrown away.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, Request, header};
use proxy_config::HttpManager;
use rules::route::{Forward, Mirror};
use upstream::{Body, Cluster, ClusterSlot, PickContext, SendOptions};

use super::Connection;
use super::attempt::copy_head;
use super::forward::{for_version, version};

/// Sends copies where the route asks for them. A body is copied as it passes by; a copy that cannot keep up breaks off,
/// and the request that counts never waits for one.
pub(crate) fn send_copies(
    connection: &Rc<Connection>,
    manager: &Arc<HttpManager>,
    action: &Forward<Arc<ClusterSlot>>,
    request: &Request<Body>,
) {
    for mirror in &action.mirrors {
        if mirror.per_million < 1_000_000 && fastrand::u32(..1_000_000) >= mirror.per_million {
            continue;
        }
        let Some(cluster) = mirror.cluster.load() else { continue };
        let copy = copy(request, mirror);
        let (connection, mesh_alpn) = (connection.clone(), manager.mesh_alpn);
        let timeout = action.timeout;
        tokio::task::spawn_local(async move {
            let sending = deliver(&connection, &cluster, copy, mesh_alpn);
            match timeout {
                Some(limit) => tokio::time::timeout(limit, sending).await.unwrap_or(()),
                None => sending.await,
            }
        });
    }
}

fn copy(request: &Request<Body>, mirror: &Mirror<Arc<ClusterSlot>>) -> Request<Body> {
    let body = match request.body() {
        Body::Recorded(_, recording) => recording.borrow_mut().copy(),
        _ => Body::Empty,
    };
    let mut copy = Request::from_parts(copy_head(request), body);
    // Nobody waits for the copy's word: its body comes when the original's does.
    copy.headers_mut().remove(header::EXPECT);
    if mirror.shadow_suffix
        && let Some(host) = copy.headers().get(header::HOST).and_then(shadow)
    {
        copy.headers_mut().insert(header::HOST, host);
    }
    copy
}

/// The authority of a copy, as Envoy names it: `-shadow` behind the host, before the port.
fn shadow(authority: &HeaderValue) -> Option<HeaderValue> {
    let authority = authority.to_str().ok()?;
    let port = authority.rfind(':').filter(|colon| !authority.get(*colon..).unwrap_or_default().contains(']'));
    let (host, port) = authority.split_at(port.unwrap_or(authority.len()));
    HeaderValue::from_str(&format!("{host}-shadow{port}")).ok()
}

async fn deliver(connection: &Connection, cluster: &Arc<Cluster>, copy: Request<Body>, mesh_alpn: bool) {
    upstream::Registry::ready(cluster).await;
    let original = connection.about.original;
    let Ok(host) = cluster.pick(&PickContext { original, ..PickContext::default() }) else { return };
    let proxied = Some(connection.about.proxied());
    let options = SendOptions { version: version(cluster, connection), mesh_alpn, proxied, fresh: false };
    let copy = for_version(copy, options.version);
    if let Ok(answer) = connection.worker.pools.send(cluster, &host, Box::new(copy), options).await {
        drain(answer.response.into_body()).await;
    }
}

/// Reads an answer to its end, so that its connection can serve again.
pub(crate) async fn drain(body: upstream::UpstreamBody) {
    let mut body = std::pin::pin!(body);
    while let Some(Ok(_)) = std::future::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx)).await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_that_it_is_one() {
        for (authority, wanted) in [
            ("reviews", "reviews-shadow"),
            ("reviews:9080", "reviews-shadow:9080"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("[::1]", "[::1]-shadow"),
        ] {
            let given = HeaderValue::from_static(authority);
            assert_eq!(shadow(&given).as_ref().map(HeaderValue::as_bytes), Some(wanted.as_bytes()));
        }
    }
}
