//! The cluster half of the commands against an API server of our own: lists, port-forward over WebSocket, logs.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::experimental::tests_of_access as checks;
use crate::global::Global;

/// An API server in a thread of its own, and a configuration that leads to it.
struct Server {
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
                sender.send(listener.local_addr().expect("an address")).expect("a test that waits");
                while let Ok((stream, _)) = listener.accept().await {
                    let http = http1::Builder::new();
                    tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades());
                }
            });
        });
        let at: SocketAddr = receiver.recv().expect("an address");
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{at}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            "users": [{"name": "c", "user": {}}],
        });
        std::fs::write(folder.path().join("config"), config.to_string()).expect("a file");
        Self { folder }
    }

    fn global(&self) -> Global {
        let file = self.folder.path().join("config");
        Global {
            kubeconfig: Some(file.to_string_lossy().into_owned()),
            istio_namespace: "istio-system".to_owned(),
            ..Global::default()
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let pods = |app: Option<&str>| {
        let one = |name: &str, space: &str, app: &str| {
            json!({
                "metadata": {"name": name, "namespace": space, "labels": {"app": app}},
                "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy"}]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let all = [
            one("istiod-1", "istio-system", "istiod"),
            one("istiod-2", "istio-system", "istiod"),
            one("pay-1", "prod", "pay"),
        ];
        let items: Vec<Value> =
            all.into_iter().filter(|p| app.is_none_or(|a| p["metadata"]["labels"]["app"] == a)).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}).to_string()
    };
    let body = match path.as_str() {
        "/api/v1/pods" => pods(None),
        "/api/v1/namespaces/istio-system/pods" if query == "labelSelector=app=istiod" => pods(Some("istiod")),
        "/apis/networking.istio.io/v1/virtualservices" => json!({"items": [{"metadata": {"name": "pay"}}]}).to_string(),
        "/version" => json!({"major": "1", "minor": "33+"}).to_string(),
        p if p.ends_with("/log") => format!("log of {p} {query}"),
        p if p.ends_with("/portforward") && !p.contains("/forbidden/") => return Ok(upgrade(request)),
        p => {
            let code = if p.contains("/forbidden/") { 403 } else { 404 };
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": format!("no {p} for you"),
                "reason": "No", "code": code,
            });
            let mut response = Response::new(Full::from(status.to_string()));
            *response.status_mut() = StatusCode::from_u16(code).expect("a status");
            return Ok(response);
        }
    };
    Ok(Response::new(Full::from(body)))
}

/// Port-forward as Kubernetes has it: channels 0 and 1 are data and error of the one port, each begun by its number.
fn upgrade(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let pod = request.uri().path().split('/').nth(6).unwrap_or_default().to_owned();
    let port: u16 = request
        .uri()
        .query()
        .and_then(|q| q.trim_start_matches('&').strip_prefix("ports=")?.parse().ok())
        .unwrap_or_default();
    let key =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes())).unwrap_or_default();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        let send = |channel: u8, data: &[u8]| Message::Binary([&[channel], data].concat().into());
        for channel in [0, 1] {
            let _ = socket.send(send(channel, &port.to_le_bytes())).await;
        }
        if port == 1 {
            let _ = socket.send(send(1, b"connection refused")).await;
        }
        let mut asked = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message
                && let Some((0, data)) = data.split_first()
            {
                asked.extend_from_slice(data);
            }
            if asked.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&asked).into_owned();
                let line = text.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
                let page = format!("{line} of {pod} at {port}");
                let status = if line.contains("/missing") { "404 Not Found" } else { "200 OK" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{page}", page.len());
                let _ = socket.send(send(0, head.as_bytes())).await;
                asked.clear();
            }
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io");
    response.body(Full::default()).expect("a response")
}

fn connect(global: &Global) -> Result<ByCluster, String> {
    ByCluster::connect(&global.access())
}

fn said(result: Result<Vec<u8>, String>) -> String {
    result.map(|body| String::from_utf8_lossy(&body).into_owned()).unwrap_or_else(|reason| format!("Error: {reason}"))
}

#[test]
fn pages_of_pods_and_of_every_istiod_come_through_the_api_server() {
    let server = Server::start();
    let mesh = connect(&server.global()).expect("a configuration");
    let pods = mesh.pods().expect("pods");
    let names: Vec<String> = pods.iter().map(Pod::proxy_id).collect();
    assert_eq!(names, ["istiod-1.istio-system", "istiod-2.istio-system", "pay-1.prod"]);
    let pay = &pods[2];
    assert_eq!(said(mesh.pod_page(pay, Method::Get, 15000, "/clusters")), "GET /clusters of pay-1 at 15000");
    assert_eq!(
        said(mesh.pod_page(pay, Method::Post, 15000, "/logging?level=debug")),
        "POST /logging?level=debug of pay-1 at 15000"
    );
    assert_eq!(said(mesh.istiod_page("/debug/syncz")), "GET /debug/syncz of istiod-1 at 15014");
    assert_eq!(mesh.objects("networking.istio.io/v1", "virtualservices").expect("objects").len(), 1);
    assert_eq!(mesh.objects("networking.istio.io/v1", "sidecars"), Ok(Vec::new()), "a kind that is not installed");
    assert!(said(mesh.log(Some(pay), "istio-proxy", 7)).contains("tailLines=7"));
}

#[test]
fn what_is_refused_says_by_whom_and_why() {
    let server = Server::start();
    let mesh = connect(&server.global()).expect("a configuration");
    let pod = |namespace: &str| Pod { namespace: namespace.to_owned(), name: "pay-1".to_owned(), ..Pod::default() };
    let missing = said(mesh.pod_page(&pod("prod"), Method::Get, 15000, "/missing"));
    assert!(missing.starts_with("Error: pay-1.prod says 404"), "{missing}");
    let forbidden = said(mesh.pod_page(&pod("forbidden"), Method::Get, 15000, "/clusters"));
    assert!(forbidden.contains("port 15000 of pod forbidden/pay-1"), "{forbidden}");
    let nobody = Global { kubeconfig: Some("/nowhere/config".to_owned()), ..Global::default() };
    assert!(connect(&nobody).is_err_and(|e| e.contains("/nowhere/config") && e.contains("--kubeconfig")));
    let elsewhere = Global { istio_namespace: "other".to_owned(), ..server.global() };
    let other = connect(&elsewhere).expect("a configuration");
    assert!(said(other.istiod_page("/debug/syncz")).starts_with("Error: "));
}

#[test]
fn a_local_port_leads_to_a_pod() {
    let server = Server::start();
    let global = server.global();
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let at = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mesh = connect(&global).expect("a configuration");
        let pod = Pod { namespace: "prod".to_owned(), name: "pay-1".to_owned(), ..Pod::default() };
        mesh.tunnel(&pod, 3000, &listener)
    });
    let mut stream = std::net::TcpStream::connect(at).expect("a connection");
    stream.write_all(b"GET /d HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
    let mut read = [0; 256];
    let mut text = String::new();
    while !text.contains("of pay-1 at 3000") {
        let count = stream.read(&mut read).expect("an answer");
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&read[..count]));
    }
    assert!(text.contains("GET /d of pay-1"), "{text}");
}

#[test]
fn flags_choose_the_cluster_over_the_laptop() {
    let server = Server::start();
    let laptop = || Some(Box::new(checks::Fake::default()) as Box<dyn Access>);
    let session = crate::Session::new(Global::default(), laptop());
    assert!(session.access().expect("the laptop").pods().expect("pods").is_empty());
    let session = crate::Session::new(server.global(), laptop());
    assert_eq!(session.access().expect("the cluster").pods().map(|p| p.len()), Ok(3));
    assert_eq!(session.pod("pay-1").map(|(_, p)| p.namespace), Ok("prod".to_owned()));
}

#[test]
fn pods_are_read_and_answers_joined() {
    let object = json!({
        "metadata": {"name": "pay-5d-x", "namespace": "prod", "labels": {"pod-template-hash": "5d"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "pay-5d", "controller": true}]},
        "spec": {"containers": [{"name": "app"}], "initContainers": [
            {"name": "istio-init"}, {"name": "istio-proxy", "restartPolicy": "Always"}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let pod = pod(&object);
    assert_eq!((pod.workload.as_str(), pod.ready, pod.in_mesh()), ("pay", true, true));
    assert_eq!(pod.containers, ["app", "istio-proxy"]);

    let page = |value: Value| Ok(value.to_string().into_bytes());
    let both = joined(vec![page(json!([1, 2])), Err("gone".to_owned()), page(json!([2, 3]))]).unwrap();
    assert_eq!(both, json!([1, 2, 3]).to_string().into_bytes());
    assert_eq!(joined(vec![Err("404".to_owned()), page(json!({"a": 1}))]).unwrap(), br#"{"a":1}"#);
    assert_eq!(joined(vec![Err("404".to_owned())]), Err("404".to_owned()));
}
