//! Debug pages, metrics and readiness; the pages also as xDS, for tools that have no way to these ports.

mod dump;
mod model;
mod status;
mod xds_pages;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use xds::{ConnectionStatus, types};

pub(crate) use xds_pages::{identifier, resources};

use crate::server::State;

/// Serves the pages until the process ends.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = page(&state, request.uri().path(), request.uri().query().unwrap_or_default());
                async move { Ok::<_, Infallible>(response) }
            });
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// All pages, for `/debug/list`.
const PAGES: [&str; 19] = [
    "adsz",
    "authorizationz",
    "clusterz",
    "config_dump?proxyID=POD.NAMESPACE",
    "configz",
    "connections",
    "edsz?proxyID=POD.NAMESPACE",
    "endpointz",
    "inject",
    "instancesz",
    "list",
    "mesh",
    "ndsz?proxyID=POD.NAMESPACE",
    "networkz",
    "problems",
    "push_status",
    "registryz",
    "resourcesz",
    "syncz",
];

fn page(state: &State, path: &str, query: &str) -> Response<Full<Bytes>> {
    match path {
        "/ready" | "/healthz/ready" => text(StatusCode::OK, "ready\n".to_owned()),
        "/version" => text(StatusCode::OK, format!("{}\n", env!("CARGO_PKG_VERSION"))),
        "/metrics" => text(StatusCode::OK, metrics(state)),
        "/debug" => page_json(&json!(PAGES)),
        other => match other.strip_prefix("/debug/").map(|name| answer(state, name, query)) {
            Some(Ok(body)) => {
                // Descriptors are needed for dumps alone, and large.
                envoy_api::release_descriptors();
                page_json(&body)
            }
            Some(Err((status, reason))) => text(status, format!("{reason}\n")),
            None => text(StatusCode::NOT_FOUND, format!("{other} is not a page here; see /debug/list\n")),
        },
    }
}

/// A page's body, or why there is none.
pub(crate) type Answer = Result<Value, (StatusCode, String)>;

/// The debug page of a name.
pub(crate) fn answer(state: &State, name: &str, query: &str) -> Answer {
    let parameter = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
    let proxy = || {
        parameter("proxyID")
            .filter(|id| !id.is_empty())
            .ok_or_else(|| (StatusCode::BAD_REQUEST, "name the proxy: ?proxyID=POD.NAMESPACE".to_owned()))
    };
    Ok(match name {
        "syncz" => status::syncz(state),
        "adsz" | "connections" => status::connections(state),
        "config_dump" => dump::config_dump(state, proxy()?)?,
        "edsz" => dump::endpoints(state, proxy()?)?,
        "ndsz" => dump::names(state, proxy()?)?,
        "list" => json!(PAGES),
        "problems" => problems(state),
        "registryz" => model::registry(state),
        "endpointz" => model::endpoints(state),
        "instancesz" => model::instances(state),
        "configz" => model::configuration(state, parameter("resource")),
        "resourcesz" => model::counts(state),
        "authorizationz" => model::authorization(state),
        "mesh" => model::mesh(state),
        "networkz" => model::networks(state),
        "clusterz" => model::clusters(state),
        "push_status" => model::push_status(state),
        "inject" => model::templates(state)?,
        other => return Err((StatusCode::NOT_FOUND, format!("{other} is not a page here; see /debug/list"))),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

fn page_json(body: &Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, format!("{body:#}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// `POD.NAMESPACE` of a node id.
pub(crate) fn proxy_name(connection: &ConnectionStatus) -> &str {
    connection.node.split('~').nth(2).unwrap_or(&connection.node)
}

fn problems(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let refused =
        loaded.problems.iter().map(|p| json!({"file": p.file, "line": p.line, "column": p.column, "reason": p.reason}));
    let unbuilt = pilot::unsupported(&loaded.snapshot).into_iter().map(|u| {
        let key = (u.kind.to_string(), u.namespace.to_string(), u.name.to_string());
        let origin = loaded.resources.iter().find(|(r, _)| r.key() == key).map(|(_, o)| o.clone()).unwrap_or_default();
        let field = u.pointer.trim_start_matches('/').replace('/', ".");
        let reason = format!("{} {}/{}: {field}: {}", u.kind, u.namespace, u.name, u.reason);
        json!({"file": origin.file, "line": origin.line, "column": origin.column, "reason": reason})
    });
    Value::Array(refused.chain(unbuilt).collect())
}

/// Prometheus text, under istiod's names.
fn metrics(state: &State) -> String {
    let loaded = state.loaded.borrow();
    let mut out = String::new();
    let mut line = |name: &str, kind: &str, labels: &str, value: u64| {
        if !out.contains(&format!("# TYPE {name} ")) {
            let _ = writeln!(out, "# TYPE {name} {kind}");
        }
        let _ = writeln!(out, "{name}{labels} {value}");
    };
    let connections = state.ads.connections().len() as u64;
    let build = format!("{{component=\"pilot\",tag=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    line("istio_build", "gauge", &build, 1);
    line("pilot_xds", "gauge", &format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), connections);
    for (kind, count) in state.ads.pushes() {
        let short = match kind.as_str() {
            types::CLUSTER => "cds",
            types::ENDPOINT => "eds",
            types::LISTENER => "lds",
            types::ROUTE => "rds",
            types::NAME_TABLE => "nds",
            _ => "other",
        };
        line("pilot_xds_pushes", "counter", &format!("{{type=\"{short}\"}}"), count);
    }
    line("pilot_total_xds_rejects", "counter", "", state.ads.rejects());
    line("pilot_services", "gauge", "", loaded.snapshot.services().count() as u64);
    line("pilot_virt_services", "gauge", "", loaded.snapshot.virtual_services().count() as u64);
    line("citadel_server_csr_count", "counter", "", state.csr.asked.load(Relaxed));
    line("citadel_server_success_cert_issuance_count", "counter", "", state.csr.signed.load(Relaxed));
    line("galley_validation_failed", "gauge", "", loaded.problems.len() as u64);
    line("istiod_uptime_seconds", "gauge", "", state.started.elapsed().as_secs());
    out
}
