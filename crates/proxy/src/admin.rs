//! The admin pages of port 15000, under Envoy's paths.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Phase, Proxy, Scope};

mod dump;
#[cfg(test)]
mod tests;

/// Tells whether the sidecar is ready.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

/// What the pages show and change.
pub struct Admin {
    /// The data plane.
    pub proxy: Arc<Proxy>,
    /// Whether traffic may come.
    pub ready: Ready,
    /// From `/drain_listeners?graceful` to the closing of listeners.
    pub drain: Duration,
    /// How the proxy was started, as JSON of Envoy's Bootstrap.
    pub bootstrap: Value,
    /// Levels of the log.
    pub logging: Arc<dyn Logging>,
}

/// Levels of the log, by the names of Envoy's loggers.
pub trait Logging: Send + Sync {
    /// All loggers with their levels, in order of their names.
    fn levels(&self) -> Vec<(String, String)>;

    /// Sets the level of one logger, or of all.
    ///
    /// # Errors
    /// When the logger or the level is unknown; nothing has changed then.
    fn set(&self, logger: Option<&str>, level: &str) -> Result<(), String>;
}

/// Serves the pages until the process ends.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let query = request.uri().query().unwrap_or_default().to_owned();
                let response = page(&admin, request.method(), request.uri().path(), &query);
                async move { Ok::<_, Infallible>(response) }
            });
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Page = Response<crate::http::AdminBody>;

fn page(admin: &Admin, method: &Method, path: &str, query: &str) -> Page {
    let Admin { proxy, ready, drain, .. } = admin;
    let json_wanted = query.split('&').any(|p| p == "format=json");
    let parameter = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
    match path {
        "/clusters" if json_wanted => json_page(&clusters_json(proxy)),
        "/clusters" => text(StatusCode::OK, clusters(proxy)),
        "/listeners" if json_wanted => json_page(&listeners_json(proxy)),
        "/listeners" => text(StatusCode::OK, listeners(proxy)),
        "/config_dump" => dump::page(admin, query),
        "/certs" => json_page(&certificates(proxy)),
        "/stats/prometheus" => text(StatusCode::OK, proxy.telemetry().render_prometheus()),
        "/stats" => text(StatusCode::OK, proxy.telemetry().render_stats(parameter("filter"))),
        "/server_info" => json_page(&server_info(state(proxy, ready()))),
        "/ready" => {
            let status = if ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, format!("{}\n", state(proxy, ready())))
        }
        "/memory" => json_page(&memory()),
        "/drain_listeners" | "/healthcheck/fail" | "/healthcheck/ok" | "/logging" | "/quitquitquit"
            if method != Method::POST =>
        {
            text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".to_owned())
        }
        "/logging" => logging(&*admin.logging, query),
        "/drain_listeners" => {
            drain_listeners(proxy, *drain, query);
            text(StatusCode::OK, "OK\n".to_owned())
        }
        "/healthcheck/fail" => {
            proxy.drain(Scope::All);
            text(StatusCode::OK, "OK\n".to_owned())
        }
        "/healthcheck/ok" => {
            proxy.resume();
            text(StatusCode::OK, "OK\n".to_owned())
        }
        "/quitquitquit" => {
            proxy.quit.notify_one();
            text(StatusCode::OK, "OK\n".to_owned())
        }
        "/" | "/help" => text(StatusCode::OK, format!("{}\n", PAGES.join("\n"))),
        other => text(StatusCode::NOT_FOUND, format!("{other} is not a page here; see /help\n")),
    }
}

/// All pages.
const PAGES: [&str; 15] = [
    "/certs",
    "/clusters",
    "/config_dump (?include_eds, ?resource=FIELD, ?name_regex=PART)",
    "/drain_listeners (POST; ?inboundonly, ?graceful, &skip_exit)",
    "/healthcheck/fail (POST)",
    "/healthcheck/ok (POST)",
    "/help",
    "/listeners",
    "/logging (POST; ?level=LEVEL, ?LOGGER=LEVEL, ?paths=LOGGER:LEVEL,LOGGER:LEVEL)",
    "/memory",
    "/quitquitquit (POST)",
    "/ready",
    "/server_info",
    "/stats",
    "/stats/prometheus",
];

/// Envoy's three forms of a change; whatever is asked, the answer is all levels as they are now.
fn logging(logging: &dyn Logging, query: &str) -> Page {
    for part in query.split('&').filter(|p| !p.is_empty()) {
        let changed = match part.split_once('=') {
            Some(("level", level)) => logging.set(None, level),
            Some(("paths", list)) => list.split(',').try_for_each(|pair| match pair.split_once(':') {
                Some((logger, level)) => logging.set(Some(logger), level),
                None => Err(format!("\"{pair}\" is not LOGGER:LEVEL")),
            }),
            Some((logger, level)) => logging.set(Some(logger), level),
            None => Err(format!("\"{part}\" is not LOGGER=LEVEL")),
        };
        if let Err(reason) = changed {
            return text(StatusCode::BAD_REQUEST, format!("error: {reason}\n"));
        }
    }
    let levels = logging.levels().into_iter().fold(String::new(), |mut out, (logger, level)| {
        let _ = writeln!(out, "  {logger}: {level}");
        out
    });
    text(StatusCode::OK, format!("active loggers:\n{levels}\n"))
}

/// Envoy's meaning: at once, or `graceful`, which announces first; then `skip_exit` leaves the listeners open.
fn drain_listeners(proxy: &Arc<Proxy>, drain: Duration, query: &str) {
    let asked = |name: &str| query.split('&').any(|p| p == name);
    let scope = if asked("inboundonly") { Scope::Inbound } else { Scope::All };
    proxy.drain(scope);
    if !asked("graceful") {
        proxy.close(scope);
    } else if !asked("skip_exit") {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            tokio::time::sleep(drain).await;
            proxy.close(scope);
        });
    }
}

/// Envoy's word for how far the process is.
fn state(proxy: &Proxy, ready: bool) -> &'static str {
    match (proxy.phase(), ready) {
        (Phase::Serving, true) => "LIVE",
        (Phase::Serving, false) => "PRE_INITIALIZING",
        _ => "DRAINING",
    }
}

fn text(status: StatusCode, body: String) -> Page {
    let mut response = Response::new(crate::http::AdminBody::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

fn json_page(body: &Value) -> Page {
    let mut response = text(StatusCode::OK, format!("{body:#}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// `CLUSTER::HOST::name::value` lines, as Envoy prints them.
fn clusters(proxy: &Proxy) -> String {
    let mut out = String::new();
    for cluster in proxy.clusters().look() {
        let name = &cluster.config.name;
        let limits = cluster.config.thresholds;
        let breakers = [
            ("max_connections", limits.connections),
            ("max_pending_requests", limits.pending),
            ("max_requests", limits.requests),
            ("max_retries", limits.retries),
        ];
        let _ = writeln!(out, "{name}::observability_name::{name}");
        for (what, limit) in breakers {
            let _ = writeln!(out, "{name}::default_priority::{what}::{limit}");
        }
        for host in cluster.hosts() {
            let stats = &host.stats;
            let counters: [(&str, &AtomicU64); 8] = [
                ("cx_active", &stats.cx_active),
                ("cx_connect_fail", &stats.cx_connect_fail),
                ("cx_total", &stats.cx_total),
                ("rq_active", &stats.rq_active),
                ("rq_error", &stats.rq_error),
                ("rq_success", &stats.rq_success),
                ("rq_timeout", &stats.rq_timeout),
                ("rq_total", &stats.rq_total),
            ];
            let at = &host.address;
            for (what, counter) in counters {
                let _ = writeln!(out, "{name}::{at}::{what}::{}", counter.load(Relaxed));
            }
            let _ = writeln!(out, "{name}::{at}::hostname::\n{name}::{at}::health_flags::{}", health(&host));
            let _ = writeln!(
                out,
                "{name}::{at}::weight::{}\n{name}::{at}::priority::{}",
                host.config.weight, host.config.priority
            );
        }
    }
    out
}

fn health(host: &upstream::Host) -> &'static str {
    match (host.config.healthy, host.is_ejected()) {
        (true, false) => "healthy",
        (_, true) => "/failed_outlier_check",
        (false, false) => "/failed_eds_health",
    }
}

fn address_json(of: &upstream::Address) -> Value {
    match of {
        upstream::Address::Ip(at) => {
            json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
        }
        upstream::Address::Pipe(path) => json!({"pipe": {"path": &**path}}),
    }
}

fn clusters_json(proxy: &Proxy) -> Value {
    let host = |h: &Arc<upstream::Host>| {
        let eds = if h.config.healthy { "HEALTHY" } else { "UNHEALTHY" };
        let address = address_json(&h.address);
        json!({
            "address": address,
            "health_status": {"eds_health_status": eds, "failed_outlier_check": h.is_ejected()},
            "weight": h.config.weight,
            "stats": [
                {"name": "rq_total", "value": h.stats.rq_total.load(Relaxed).to_string()},
                {"name": "rq_error", "value": h.stats.rq_error.load(Relaxed).to_string()},
                {"name": "cx_active", "value": h.stats.cx_active.load(Relaxed).to_string(), "type": "GAUGE"},
            ],
        })
    };
    let cluster = |c: Arc<upstream::Cluster>| {
        let hosts: Vec<Value> = c.hosts().iter().map(host).collect();
        json!({"name": &*c.config.name, "observability_name": &*c.config.name, "host_statuses": hosts})
    };
    json!({"cluster_statuses": proxy.clusters().look().map(cluster).collect::<Vec<_>>()})
}

fn sorted_listeners(proxy: &Proxy) -> Vec<Arc<proxy_config::Listener>> {
    let mut all: Vec<_> = proxy.shared.listeners.load().by_name.values().cloned().collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn listeners(proxy: &Proxy) -> String {
    sorted_listeners(proxy).iter().fold(String::new(), |mut out, l| {
        let _ = writeln!(out, "{}::{}", l.name, l.address);
        out
    })
}

fn listeners_json(proxy: &Proxy) -> Value {
    let one = |l: &Arc<proxy_config::Listener>| json!({"name": &*l.name, "local_address": address_json(&l.address)});
    json!({"listener_statuses": sorted_listeners(proxy).iter().map(one).collect::<Vec<_>>()})
}

fn certificates(proxy: &Proxy) -> Value {
    let show = |c: &mtls::CertInfo| {
        let sans: Vec<Value> =
            c.sans.iter().map(|s| if s.contains("://") { json!({"uri": s}) } else { json!({"dns": s}) }).collect();
        json!({
            "serial_number": c.serial, "subject_alt_names": sans,
            "valid_from": c.not_before.to_string(), "expiration_time": c.not_after.to_string(),
        })
    };
    let secrets = proxy.secrets();
    let roots =
        |names: Vec<String>| names.iter().flat_map(|n| secrets.roots(n).info()).map(|c| show(&c)).collect::<Vec<_>>();
    let chains = secrets.certificate_names();
    let chains: Vec<Value> = chains.iter().flat_map(|n| secrets.certificate(n).info()).map(|c| show(&c)).collect();
    json!({"certificates": [{"ca_cert": roots(secrets.root_names()), "cert_chain": chains}]})
}

fn server_info(state: &str) -> Value {
    json!({"version": format!("meltemi/{}", env!("CARGO_PKG_VERSION")), "state": state})
}

fn memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    json!({"resident_kib": resident})
}
