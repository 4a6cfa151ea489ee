//! The agent's own HTTP ports: 15021 and 15020 (health, metrics, quit), 15090 (metrics).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::Proxy;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// What the pages look at.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) proxy: Arc<Proxy>,
    /// Everything the first configuration refers to is in force.
    pub(crate) complete: Arc<AtomicBool>,
    /// The process is about to end.
    pub(crate) draining: AtomicBool,
    /// `/quitquitquit` was asked for.
    pub(crate) quit: Notify,
}

impl Health {
    /// Whether traffic may come: a certificate is there and the configuration is whole.
    pub(crate) fn is_ready(&self) -> bool {
        self.complete.load(Relaxed)
            && self.proxy.secrets().certificate("default").is_set()
            && !self.draining.load(Relaxed)
    }
}

/// Serves the pages until the process ends.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let health = health.clone();
        let local = from.ip().is_loopback();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = page(&health, request.method(), request.uri().path(), local);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn page(health: &Health, method: &Method, path: &str, local: bool) -> Response<Full<Bytes>> {
    let (status, body) = match path {
        "/healthz/ready" if health.is_ready() => (StatusCode::OK, String::new()),
        "/healthz/ready" => {
            (StatusCode::SERVICE_UNAVAILABLE, "the configuration or the certificate has not arrived yet\n".to_owned())
        }
        "/stats/prometheus" | "/metrics" => (StatusCode::OK, health.proxy.telemetry().render_prometheus()),
        "/quitquitquit" if !local => (StatusCode::FORBIDDEN, "only from inside the pod\n".to_owned()),
        "/quitquitquit" if method != Method::POST => (StatusCode::METHOD_NOT_ALLOWED, "use POST\n".to_owned()),
        "/quitquitquit" => {
            health.quit.notify_one();
            (StatusCode::OK, "OK\n".to_owned())
        }
        other => (StatusCode::NOT_FOUND, format!("{other} is not a page here\n")),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
