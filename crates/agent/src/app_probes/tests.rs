//! Real questions to real applications on loopback.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An application that tells on itself.
async fn application() -> u16 {
    let listener = TcpListener::bind((POD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, from)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| {
                let told = |name: header::HeaderName| {
                    request.headers().get(name).map_or("", |v| v.to_str().unwrap_or("?")).to_owned()
                };
                let (status, to, body) = match request.uri().path() {
                    "/ok" => {
                        let own = request.headers().get("x-own").map_or("", |v| v.to_str().unwrap_or("?")).to_owned();
                        let (host, agent) = (told(header::HOST), told(header::USER_AGENT));
                        (200, "", format!("{} {host} {agent} {own}", from.ip()))
                    }
                    "/moved" => (302, "/ok", String::new()),
                    "/round" => (302, "/round", String::new()),
                    "/away" => (307, "http://elsewhere.test/", String::new()),
                    "/big" => (200, "", "x".repeat(1 << 20)),
                    _ => (503, "", "not yet".to_owned()),
                };
                async move {
                    let response = Response::builder().status(status).header(header::LOCATION, to);
                    Ok::<_, Infallible>(response.body(Full::<Bytes>::from(body)).expect("a response"))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

async fn asked(probe: Value) -> (u16, String) {
    let probes = AppProbes::parse(&json!({"/app-health/app/readyz": probe}).to_string()).expect("a table of probes");
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.33"));
    headers.insert(header::HOST, HeaderValue::from_static("10.0.0.1:15020"));
    let (status, body) = probes.answer("/app-health/app/readyz", &headers, POD).await;
    (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn http_is_asked_as_the_kubelet_would() {
    let port = application().await;
    let get = |path: &str| json!({"httpGet": {"path": path, "port": port}});
    let plain = asked(get("/ok")).await;
    assert_eq!(plain, (200, format!("127.0.0.6 127.0.0.1:{port} kube-probe/1.33 ")), "uncaptured, with its headers");
    let headers = json!([{"name": "Host", "value": "shop.test"}, {"name": "x-own", "value": "1"}]);
    let own = asked(json!({"httpGet": {"path": "ok", "port": port, "httpHeaders": headers}})).await;
    assert_eq!(own, (200, "127.0.0.6 shop.test kube-probe/1.33 1".to_owned()));
    assert_eq!(asked(get("/not-yet")).await, (503, "not yet".to_owned()));
    assert_eq!(asked(get("/moved")).await.0, 200, "within the application");
    assert_eq!(asked(get("/away")).await.0, 307, "the kubelet counts it as a success");
    let (status, said) = asked(get("/round")).await;
    assert!(status == 500 && said.contains("redirects"), "{said}");
    assert_eq!(asked(get("/big")).await.1.len(), 10 << 10);
    let tls = asked(json!({"httpGet": {"path": "/ok", "port": port, "scheme": "HTTPS"}})).await;
    assert_eq!(tls.0, 500, "the application speaks no TLS");
}

#[tokio::test]
async fn https_needs_no_certificate_of_note() {
    let key = rcgen::generate_simple_self_signed(vec!["whoever".to_owned()]).expect("a certificate");
    let slot = std::sync::Arc::new(mtls::CertSlot::default());
    slot.set(&key.cert.pem(), &key.signing_key.serialize_pem()).expect("in use");
    let server = mtls::ServerTls {
        cert: slot,
        roots: None,
        require_client_cert: false,
        sans: Vec::new(),
        revoked: Vec::new(),
        alpn: Vec::new(),
    };
    let server = server.build().expect("TLS");
    let listener = TcpListener::bind((POD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = tokio_rustls::TlsAcceptor::from(server.clone()).accept(stream).await else { continue };
            let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("safe"))) });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let answer = asked(json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS"}})).await;
    assert_eq!(answer, (200, "safe".to_owned()));
}

#[tokio::test]
async fn tcp_is_asked_by_connecting() {
    let listener = TcpListener::bind((POD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    assert_eq!(asked(json!({"tcpSocket": {"port": port}})).await.0, 200);
    drop(listener);
    let (status, said) = asked(json!({"tcpSocket": {"port": port}})).await;
    assert!(status == 500 && said.contains("cannot connect"), "{said}");
}

#[tokio::test]
async fn grpc_is_asked_for_the_health_of_a_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.Orders", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind((POD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    assert_eq!(asked(json!({"grpc": {"port": port}})).await.0, 200);
    let (status, said) = asked(json!({"grpc": {"port": port, "service": "shop.Orders"}})).await;
    assert!(status == 500 && said.contains("NOT_SERVING"), "{said}");
    assert_eq!(asked(json!({"grpc": {"port": port, "service": "shop.Other"}})).await.0, 500);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_has_failed() {
    let listener = TcpListener::bind((POD, 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (status, said) = asked(json!({"httpGet": {"port": port}, "timeoutSeconds": 3})).await;
    assert!(status == 500 && said.contains("no answer within 3s"), "{said}");
    drop(listener);
}

#[tokio::test]
async fn what_is_no_probe_is_named() {
    let unknown = AppProbes::default().answer("/app-health/app/livez", &HeaderMap::new(), POD).await;
    assert_eq!(unknown.0, StatusCode::BAD_REQUEST);
    for (text, says) in [
        ("[]", "invalid type"),
        ("{\"/app-health/a/livez\": {\"exec\": {}}}", "/app-health/a/livez: it has none of"),
        ("{\"/app-health/a/livez\": {\"tcpSocket\": {\"port\": \"web\"}}}", "its port \"web\""),
        ("{\"/app-health/a/livez\": {\"httpGet\": {\"port\": 0}}}", "its port 0"),
    ] {
        let error = AppProbes::parse(text).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

/// The agent of a pod on loopback, whose one application shows probes and metrics at `port`.
fn agent(port: u16) -> crate::AgentOptions {
    let probes = json!({"/app-health/app/livez": {"httpGet": {"path": "/ok", "port": port}}});
    let scrape = json!({"scrape": "true", "path": "/ok", "port": port.to_string()});
    crate::AgentOptions {
        ip: POD,
        app_probes: AppProbes::parse(&probes.to_string()).expect("a table of probes"),
        scrape: crate::Scrape::parse(&scrape.to_string()).expect("annotations"),
        ..crate::AgentOptions::sample()
    }
}

async fn speaks_for_the_application(pages: u16) {
    let (status, body) = crate::request::fetch(pages, "GET", "/app-health/app/livez").await.expect("an answer");
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with(b"127.0.0.6 "), "{body:?}");
    let (status, _) = crate::request::fetch(pages, "GET", "/app-health/other/livez").await.expect("an answer");
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, body) = crate::request::fetch(pages, "GET", "/stats/prometheus").await.expect("an answer");
    let text = String::from_utf8_lossy(&body);
    assert_eq!(status, StatusCode::OK);
    assert!(
        text.contains("envoy_server_state 0") && text.lines().any(|l| l.starts_with("127.0.0.1 localhost")),
        "{text}"
    );
}

#[tokio::test]
async fn the_agents_port_speaks_for_the_application() {
    let options = agent(application().await);
    let telemetry = telemetry::Telemetry::new(options.telemetry());
    telemetry.gauge("server.state").set(0);
    let proxy = proxy::Proxy::start(proxy::ProxyOptions {
        workers: 1,
        node_id: options.node_id(),
        telemetry,
        secrets: std::sync::Arc::default(),
        undecided: proxy::UNDECIDED,
    });
    let health = std::sync::Arc::new(crate::health::Health {
        proxy: proxy.expect("a proxy"),
        complete: std::sync::Arc::default(),
        announced: false.into(),
        quit: tokio::sync::Notify::new(),
        progress: std::sync::Arc::default(),
        app_probes: options.app_probes,
        scrape: options.scrape,
        pod: options.ip,
    });
    let listen = async || {
        let listener = TcpListener::bind((POD, 0)).await.expect("a port");
        (listener.local_addr().expect("an address").port(), listener)
    };
    let (port, listener) = listen().await;
    tokio::spawn(crate::health::serve(listener, health.clone(), true));
    speaks_for_the_application(port).await;
    let (port, listener) = listen().await;
    tokio::spawn(crate::health::serve(listener, health, false));
    let (status, _) = crate::request::fetch(port, "GET", "/app-health/app/livez").await.expect("an answer");
    assert_eq!(status, StatusCode::NOT_FOUND, "the proxy's ports do not");
}
