//! The agent's own HTTP ports: 15021 and 15020 (health, metrics, drain, quit), 15090 (metrics).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy::{Phase, Proxy, Scope};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::app_probes::AppProbes;
use crate::merge::{self, Scrape};

/// What the pages look at.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) proxy: Arc<Proxy>,
    /// Everything the first configuration refers to is in force.
    pub(crate) complete: Arc<AtomicBool>,
    /// The pod's end was announced by `/drain`.
    pub(crate) announced: AtomicBool,
    /// `/quitquitquit` was asked for.
    pub(crate) quit: Notify,
    /// Told when a certificate or configuration has come into force.
    pub(crate) progress: Arc<Notify>,
    /// What the kubelet asks us for.
    pub(crate) app_probes: AppProbes,
    /// Where the application shows metrics.
    pub(crate) scrape: Scrape,
    /// The pod's address.
    pub(crate) pod: IpAddr,
}

impl Health {
    /// Whether traffic may come: a certificate is there, the configuration is whole, and the end has not begun.
    pub(crate) fn is_ready(&self) -> bool {
        self.complete.load(Relaxed)
            && self.proxy.secrets().certificate("default").is_set()
            && self.proxy.phase() == Phase::Serving
    }

    /// Logs how long it took from `started` to be ready, and lets go of what only the start needed.
    pub(crate) async fn tell_when_ready(self: Arc<Self>, started: Instant) {
        /// By then the first requests have been answered, and what they use is not read twice.
        const SETTLED: Duration = Duration::from_secs(5);
        while !self.is_ready() {
            self.progress.notified().await;
        }
        tracing::info!(milliseconds = started.elapsed().as_millis(), "sidecar is ready");
        tokio::time::sleep(SETTLED).await;
        if let Err(error) = net::release_program() {
            tracing::debug!(%error, "the pages of the start stay");
        }
    }

    /// The pod is to end: clients are told to go elsewhere, and served on until SIGTERM.
    fn announce(&self) {
        self.announced.store(true, Relaxed);
        self.proxy.drain(Scope::Inbound);
        tracing::info!("the pod is to end: draining");
    }
}

/// Serves the pages until the process ends. The agent's port speaks for the application too; the others are the proxy's.
pub(crate) async fn serve(listener: TcpListener, health: Arc<Health>, agent: bool) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let health = health.clone();
        let local = from.ip().is_loopback();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let health = health.clone();
                async move {
                    let (method, path) = (request.method(), request.uri().path());
                    if agent && AppProbes::is_path(path) {
                        let (status, body) = health.app_probes.answer(path, request.headers(), health.pod).await;
                        let mut response = Response::new(Full::from(body));
                        *response.status_mut() = status;
                        return Ok::<_, Infallible>(response);
                    }
                    let application = match path {
                        "/stats/prometheus" | "/metrics" if agent => health.scrape.read().await,
                        _ => String::new(),
                    };
                    Ok(page(&health, method, path, local, &application))
                }
            });
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn page(health: &Health, method: &Method, path: &str, local: bool, application: &str) -> Response<Full<Bytes>> {
    let text = |text: &str| text.to_owned();
    let (status, body) = match path {
        "/healthz/ready" if health.is_ready() => (StatusCode::OK, String::new()),
        "/healthz/ready" if health.proxy.phase() != Phase::Serving => {
            (StatusCode::SERVICE_UNAVAILABLE, text("the sidecar is draining\n"))
        }
        "/healthz/ready" => {
            (StatusCode::SERVICE_UNAVAILABLE, text("the configuration or the certificate has not arrived yet\n"))
        }
        "/stats/prometheus" | "/metrics" => {
            (StatusCode::OK, health.proxy.telemetry().render_prometheus() + &merge::build() + application)
        }
        "/quitquitquit" | "/drain" if !local => (StatusCode::FORBIDDEN, text("only from inside the pod\n")),
        "/quitquitquit" | "/drain" if method != Method::POST => (StatusCode::METHOD_NOT_ALLOWED, text("use POST\n")),
        "/quitquitquit" => {
            health.quit.notify_one();
            (StatusCode::OK, text("OK\n"))
        }
        "/drain" => {
            health.announce();
            (StatusCode::OK, text("OK\n"))
        }
        other => (StatusCode::NOT_FOUND, format!("{other} is not a page here\n")),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
