//! The agent's port 15020 beside a stock Envoy: health, merged metrics, quit.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::admin;
use crate::app_probes::AppProbes;
use crate::merge::{self, Scrape};
use crate::options::AgentOptions;
use crate::request::fetch;

/// Where Envoy shows its metrics.
const ENVOY_METRICS: u16 = 15090;

/// What the pages look at.
#[derive(Debug)]
pub(super) struct Pages {
    telemetry: Arc<Telemetry>,
    app_probes: AppProbes,
    scrape: Scrape,
    pod: IpAddr,
    /// The pod is to end: said by `/drain`, or by SIGTERM.
    pub(super) draining: AtomicBool,
    /// `/quitquitquit` was asked for.
    pub(super) quit: Notify,
}

impl Pages {
    /// Pages over the agent's own metrics and its pod's application.
    pub(super) fn new(options: &AgentOptions) -> Self {
        Self {
            telemetry: Telemetry::new(options.telemetry()),
            app_probes: options.app_probes.clone(),
            scrape: options.scrape.clone(),
            pod: options.ip,
            draining: AtomicBool::new(false),
            quit: Notify::new(),
        }
    }

    async fn page(&self, method: &Method, path: &str, headers: &HeaderMap, local: bool) -> (StatusCode, Bytes) {
        match path {
            path if AppProbes::is_path(path) => self.app_probes.answer(path, headers, self.pod).await,
            "/healthz/ready" if self.draining.load(Relaxed) => {
                (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"the pod is about to end\n"))
            }
            "/healthz/ready" => match admin::ready().await {
                Ok(()) => (StatusCode::OK, Bytes::new()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n").into()),
            },
            "/stats/prometheus" | "/metrics" => {
                let mut all = String::new();
                // What does not answer is left out: the others' numbers are still true.
                if let Ok((StatusCode::OK, body)) = fetch(ENVOY_METRICS, "GET", "/stats/prometheus").await {
                    all.push_str(&String::from_utf8_lossy(&body));
                }
                all.push_str(&self.telemetry.render_prometheus());
                all.push_str(&merge::build());
                all.push_str(&self.scrape.read().await);
                (StatusCode::OK, all.into())
            }
            "/quitquitquit" | "/drain" if !local => {
                (StatusCode::FORBIDDEN, Bytes::from_static(b"only from inside the pod\n"))
            }
            "/quitquitquit" | "/drain" if method != Method::POST => {
                (StatusCode::METHOD_NOT_ALLOWED, Bytes::from_static(b"use POST\n"))
            }
            "/quitquitquit" => {
                self.quit.notify_one();
                (StatusCode::OK, Bytes::from_static(b"OK\n"))
            }
            "/drain" => {
                if !self.draining.swap(true, Relaxed) {
                    tracing::info!("the pod is to end: draining");
                    admin::drain().await;
                }
                (StatusCode::OK, Bytes::from_static(b"OK\n"))
            }
            other => (StatusCode::NOT_FOUND, format!("{other} is not a page here\n").into()),
        }
    }
}

/// Serves the pages until the process ends.
pub(super) async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let pages = pages.clone();
        // Envoy's port 15021 comes from here too, but only to ask for health.
        let local = from.ip() == Ipv4Addr::LOCALHOST;
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let pages = pages.clone();
                async move {
                    let (status, body) =
                        pages.page(request.method(), request.uri().path(), request.headers(), local).await;
                    let mut response = Response::new(Full::<Bytes>::new(body));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that breaks off has its reasons.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
