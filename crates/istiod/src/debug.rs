//! Debug pages, metrics and readiness.

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
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use xds::{ConnectionStatus, TypeStatus, types};

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
const PAGES: [&str; 9] = [
    "/debug/adsz",
    "/debug/config_dump?proxyID=POD.NAMESPACE",
    "/debug/configz",
    "/debug/connections",
    "/debug/endpointz",
    "/debug/problems",
    "/debug/registryz",
    "/debug/syncz",
    "/metrics",
];

fn page(state: &State, path: &str, query: &str) -> Response<Full<Bytes>> {
    match path {
        "/ready" | "/healthz/ready" => text(StatusCode::OK, "ready\n".to_owned()),
        "/version" => text(StatusCode::OK, format!("{}\n", env!("CARGO_PKG_VERSION"))),
        "/metrics" => text(StatusCode::OK, metrics(state)),
        "/debug/syncz" => page_json(&syncz(state)),
        "/debug/adsz" | "/debug/connections" => page_json(&connections(state)),
        "/debug/problems" => page_json(&problems(state)),
        "/debug/registryz" => page_json(&registry(state)),
        "/debug/endpointz" => page_json(&endpoints(state)),
        "/debug/configz" => page_json(&configuration(state)),
        "/debug/config_dump" => dump(state, query),
        "/debug" | "/debug/list" => page_json(&json!(PAGES)),
        other => text(StatusCode::NOT_FOUND, format!("{other} is not a page here; see /debug/list\n")),
    }
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
fn proxy_name(connection: &ConnectionStatus) -> &str {
    connection.node.split('~').nth(2).unwrap_or(&connection.node)
}

fn syncz(state: &State) -> Value {
    let row = |c: &ConnectionStatus| {
        let of = |kind: &str| c.types.get(kind).cloned().unwrap_or_default();
        let mut row = json!({
            "cluster_id": c.cluster, "proxy": proxy_name(c), "proxy_type": c.node.split('~').next(), "istio_version": c.version,
        });
        for (name, kind) in [
            ("cluster", types::CLUSTER),
            ("listener", types::LISTENER),
            ("route", types::ROUTE),
            ("endpoint", types::ENDPOINT),
        ] {
            let TypeStatus { sent, acked, .. } = of(kind);
            row[format!("{name}_sent")] = json!(sent);
            row[format!("{name}_acked")] = json!(acked);
            row[format!("{name}_status")] = json!(of(kind).word());
            row[format!("{name}_error")] = json!(of(kind).error.unwrap_or_default());
        }
        row
    };
    let mut rows: Vec<ConnectionStatus> = state.ads.connections();
    rows.sort_by(|a, b| proxy_name(a).cmp(proxy_name(b)));
    Value::Array(rows.iter().map(row).collect())
}

fn connections(state: &State) -> Value {
    let all: Vec<Value> = state
        .ads
        .connections()
        .iter()
        .map(|c| {
            let since = OffsetDateTime::from(c.connected).format(&Rfc3339).unwrap_or_default();
            let types: Vec<&String> = c.types.keys().collect();
            json!({"connectionId": c.node, "proxy": proxy_name(c), "connectedAt": since, "watches": types})
        })
        .collect();
    json!({"totalClients": all.len(), "clients": all})
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

fn registry(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let services = loaded.snapshot.services().map(|s| {
        let ports: Vec<Value> = s
            .ports
            .iter()
            .map(|p| json!({"name": p.name, "port": p.port, "protocol": format!("{:?}", p.protocol)}))
            .collect();
        json!({"hostname": s.host, "vips": s.vips, "ports": ports})
    });
    Value::Array(services.collect())
}

fn endpoints(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let snapshot = &loaded.snapshot;
    let of = |s: &std::sync::Arc<mesh::Service>, port: u16| {
        let all = snapshot.endpoints(&s.host, port);
        let addresses: Vec<String> = all.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
        json!({"service": s.host, "port": port, "endpoints": addresses})
    };
    Value::Array(snapshot.services().flat_map(|s| s.ports.iter().map(move |p| of(s, p.port))).collect())
}

fn configuration(state: &State) -> Value {
    let loaded = state.loaded.borrow();
    let rows = loaded.resources.iter().map(|(resource, origin)| {
        let (kind, namespace, name) = resource.key();
        json!({"kind": kind, "namespace": namespace, "name": name, "origin": origin.to_string()})
    });
    Value::Array(rows.collect())
}

/// What a workload's proxy is sent now.
fn dump(state: &State, query: &str) -> Response<Full<Bytes>> {
    let wanted = query.split('&').find_map(|p| p.strip_prefix("proxyID=")).unwrap_or_default();
    let loaded = state.loaded.borrow();
    let Some((pod, namespace)) = wanted.rsplit_once('.') else {
        return text(StatusCode::BAD_REQUEST, "name the proxy: ?proxyID=POD.NAMESPACE\n".to_owned());
    };
    let Some(workload) = loaded.snapshot.workload(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("there is no pod {pod} in namespace {namespace}\n"));
    };
    let id = format!("sidecar~{}~{pod}.{namespace}~{namespace}.svc.cluster.local", workload.ip);
    let node = envoy_api::envoy::config::core::v3::Node { id, ..Default::default() };
    let Ok(proxy) = pilot::Proxy::from_node(&node) else {
        return text(StatusCode::NOT_FOUND, "the pod has no address yet\n".to_owned());
    };
    let made = [pilot::clusters(&loaded.snapshot, &proxy), pilot::listeners(&loaded.snapshot, &proxy)].concat();
    let page = page_json(&Value::Array(made.iter().map(|r| envoy_api::any_to_json(&r.body)).collect()));
    envoy_api::release_descriptors();
    page
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
