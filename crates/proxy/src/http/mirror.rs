//! Copies of requests for other clusters; what they answer is thrown away.

use std::rc::Rc;
use std::sync::Arc;

use http::Request;
use proxy_config::HttpManager;
use rules::route::Forward;
use upstream::{Body, ClusterSlot, PickContext, SendOptions};

use super::Connection;
use super::attempt::copy_head;
use super::forward::version;

/// Sends copies where the route asks for them. A request with a body is copied only once the body is known whole, so
/// bodies are mirrored for requests that carry none.
pub(crate) fn send_copies(
    connection: &Rc<Connection>,
    manager: &Arc<HttpManager>,
    action: &Forward<Arc<ClusterSlot>>,
    request: &Request<Body>,
) {
    for mirror in &action.mirrors {
        let bodyless = matches!(request.body(), Body::Empty);
        if !bodyless || fastrand::u32(..1_000_000) >= mirror.per_million {
            continue;
        }
        let Some(cluster) = mirror.cluster.load() else { continue };
        let copy = Request::from_parts(copy_head(request), Body::Empty);
        let (connection, mesh_alpn) = (connection.clone(), manager.mesh_alpn);
        tokio::task::spawn_local(async move {
            let original = Some(connection.about.destination);
            let Ok(host) = cluster.pick(&PickContext { original, ..PickContext::default() }) else { return };
            let options = SendOptions { version: version(&cluster, &connection), mesh_alpn };
            if let Ok(answer) = connection.worker.pools.send(&cluster, &host, copy, options).await {
                drain(answer.response.into_body()).await;
            }
        });
    }
}

/// Reads an answer to its end, so that its connection can serve again.
async fn drain(body: upstream::UpstreamBody) {
    let mut body = std::pin::pin!(body);
    while let Some(Ok(_)) = std::future::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx)).await {}
}
