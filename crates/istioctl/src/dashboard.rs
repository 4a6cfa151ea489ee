//! `istioctl dashboard`: a local port that leads to the pages of a pod.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command as Process, ExitCode, Stdio};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::Session;
use crate::access::{Access, Method, Pod};

/// Show pages of the mesh in a browser: a local port leads to them until the command is ended.
#[derive(Debug, Args)]
pub(crate) struct Dashboard {
    /// Address of the local port.
    #[arg(long, global = true, default_value = "localhost")]
    address: String,
    /// The local port; the page's own, or a free one, when 0.
    #[arg(short, long, global = true, default_value_t = 0)]
    port: u16,
    /// Open a browser where there is a display.
    #[arg(long, global = true, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
    browser: bool,
    #[command(subcommand)]
    page: Page,
}

#[derive(Debug, Subcommand)]
enum Page {
    /// istiod's ControlZ; ours has none, a stock istiod has.
    Controlz,
    /// Admin pages of a pod's proxy.
    #[command(alias = "proxy")]
    Envoy {
        /// `[TYPE/]NAME[.NAMESPACE]` of a pod.
        target: String,
    },
    /// Grafana.
    Grafana,
    /// istiod's debug pages.
    IstiodDebug,
    /// Jaeger.
    Jaeger,
    /// Kiali.
    Kiali,
    /// Prometheus.
    Prometheus,
    /// SkyWalking.
    Skywalking,
    /// Zipkin.
    Zipkin,
}

impl Page {
    /// Label of the pods, port and path, where the pod is not the user's choice.
    fn place(&self) -> Option<(&'static str, &'static str, u16, &'static str)> {
        Some(match self {
            Self::Envoy { .. } => return None,
            Self::Controlz => ("app", "istiod", 9876, ""),
            Self::IstiodDebug => ("app", "istiod", 15014, "/debug"),
            Self::Grafana => ("app.kubernetes.io/name", "grafana", 3000, ""),
            Self::Jaeger => ("app", "jaeger", 16686, ""),
            Self::Kiali => ("app", "kiali", 20001, "/kiali"),
            Self::Prometheus => ("app.kubernetes.io/name", "prometheus", 9090, ""),
            Self::Skywalking => ("app", "skywalking-ui", 8080, ""),
            Self::Zipkin => ("app", "zipkin", 9411, ""),
        })
    }
}

impl Dashboard {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let access = session.access()?;
        let (pod, port, path) = match (&self.page, self.page.place()) {
            (Page::Envoy { target }, _) => (Some(session.pod(target)?.1), 15000, ""),
            (_, Some((key, name, port, path))) => {
                let space = session.global.namespace.as_deref().unwrap_or(&session.global.istio_namespace);
                let mut pods = access.pods()?;
                pods.retain(|p| p.namespace == space && p.labels.get(key).is_some_and(|v| v == name));
                let found = pods.into_iter().max_by_key(|p| p.ready);
                // The istiod of a laptop mesh is no pod.
                let own = matches!(self.page, Page::IstiodDebug);
                if found.is_none() && !own {
                    return Err(format!("there is no pod with the label {key}={name} in namespace {space}"));
                }
                (found, port, path)
            }
            _ => return Err("name a page".to_owned()),
        };
        let listener = self.listen(port)?;
        let at = listener.local_addr().map_err(|e| e.to_string())?;
        let url = format!(
            "http://{}{path}",
            if self.address == "localhost" { format!("localhost:{}", at.port()) } else { at.to_string() }
        );
        println!("{url}");
        if self.browser {
            open(&url);
        }
        let tunnel = pod.as_ref().and_then(|pod| access.tunnel(pod, port, &listener));
        match tunnel {
            Some(end) => end.map(|()| ExitCode::SUCCESS),
            None => serve(access, pod.as_ref(), port, listener).map(|()| ExitCode::SUCCESS),
        }
    }

    fn listen(&self, own: u16) -> Result<TcpListener, String> {
        let address: IpAddr = match self.address.as_str() {
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            other => other.parse().map_err(|_| format!("--address {other}: write localhost or an IP address"))?,
        };
        let bind = |port| TcpListener::bind((address, port));
        let listener = match self.port {
            0 => bind(own).or_else(|_| bind(0)),
            port => bind(port),
        };
        listener.map_err(|e| format!("cannot listen on {}: {e}", self.address))
    }
}

/// Opens a browser, where there is somebody who could see it.
fn open(url: &str) {
    let display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    if display {
        // The address is printed anyway.
        let _ =
            Process::new("xdg-open").arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

/// Answers each request with the page that the mesh's own way gives, one after the other; without a pod, istiod's.
fn serve(access: &dyn Access, pod: Option<&Pod>, port: u16, listener: TcpListener) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| e.to_string())?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let service = service_fn(|request: Request<Incoming>| {
                let response = page(access, pod, port, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            // A browser that breaks off has its reasons.
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).keep_alive(false);
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        }
    })
}

pub(crate) fn page<B>(
    access: &dyn Access,
    pod: Option<&Pod>,
    port: u16,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let method = match *request.method() {
        http::Method::GET => Some(Method::Get),
        http::Method::POST => Some(Method::Post),
        _ => None,
    };
    let body = match (pod, method) {
        (_, None) => Err(format!("{} is not passed on; only GET and POST are", request.method())),
        (Some(pod), Some(method)) => access.pod_page(pod, method, port, path),
        (None, Some(_)) => access.istiod_page(path),
    };
    let (status, body) = match body {
        Ok(body) => (StatusCode::OK, body),
        Err(reason) => (StatusCode::BAD_GATEWAY, format!("{reason}\n").into_bytes()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
