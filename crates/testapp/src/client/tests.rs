use super::*;
use crate::fault::FaultOptions;
use crate::server::{Running, ServerOptions, start};

async fn app(faults: FaultOptions) -> Running {
    start(ServerOptions {
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        http: vec![0],
        tcp: vec![0],
        banner: Some("220 hello".to_owned()),
        farewell: false,
        name: "payment-api".to_owned(),
        version: "v2".to_owned(),
        pod: "pod-1".to_owned(),
        faults,
        linger: Duration::ZERO,
    })
    .await
    .expect("free ports")
}

fn options(running: &Running, path: &str) -> ClientOptions {
    ClientOptions {
        url: format!("http://{}{path}", running.http[0]).parse().expect("a URL"),
        method: Method::GET,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        count: Some(20),
        duration: None,
        concurrency: 4,
        rate: None,
        h2: false,
        grpc: false,
        fresh: false,
        timeout: Duration::from_secs(10),
    }
}

#[tokio::test]
async fn both_versions_of_http_and_grpc_on_one_port() {
    let running = app(FaultOptions::default()).await;
    let plain = options(&running, "/");
    for (h2, grpc) in [(false, false), (true, false), (true, true)] {
        let report = load(&ClientOptions { h2, grpc, body: Bytes::from_static(b"hello"), ..plain.clone() }, None).await;
        assert_eq!((report.requests, report.failed), (20, 0), "{report}");
        assert_eq!(report.versions.get("v2"), Some(&20));
        assert_eq!(report.pods.get("pod-1"), Some(&20));
    }
}

#[tokio::test]
async fn failures_on_demand_are_counted() {
    let running = app(FaultOptions::default()).await;
    let mut failing = options(&running, "/x");
    failing.headers.insert("x-app-status", HeaderValue::from_static("500"));
    assert_eq!(load(&failing, None).await.statuses.get("500"), Some(&20));
    failing.headers.insert("x-app-reset", HeaderValue::from_static("true"));
    let report = load(&failing, None).await;
    assert_eq!((report.failed, report.statuses.len()), (20, 0), "{report}");
}

#[tokio::test]
async fn answers_tell_what_was_received() {
    let running = app(FaultOptions::default()).await;
    let mut plain = options(&running, "/a?b=c");
    plain.headers.insert("x-canary-user", HeaderValue::from_static("true"));
    let local = LocalSet::new();
    let answer = local.run_until(async { Caller::new(&plain).call().await }).await.expect("an answer");
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(body["path"], "/a?b=c");
    assert_eq!(body["headers"]["x-canary-user"], "true");
    assert_eq!((&body["app"], &body["version"]), (&"payment-api".into(), &"v2".into()));
}

#[tokio::test]
async fn the_switch_is_thrown_over_http() {
    let running = app(FaultOptions::default()).await;
    let throw = ClientOptions { method: Method::POST, count: Some(1), ..options(&running, "/fail?status=500&count=3") };
    assert_eq!(load(&throw, None).await.failed, 0);
    let report = load(&options(&running, "/"), None).await;
    assert_eq!((report.statuses.get("500"), report.statuses.get("200")), (Some(&3), Some(&17)));
}

#[tokio::test]
async fn tcp_speaks_first_and_echoes() {
    let running = app(FaultOptions::default()).await;
    let target = running.tcp[0].to_string();
    let answer = crate::tcp::call(&target, b"", 1, Duration::from_secs(5)).await.expect("an answer");
    assert_eq!(answer.bytes, b"220 hello\r\n");
    let answer = crate::tcp::call(&target, b"ping", 15, Duration::from_secs(5)).await.expect("an answer");
    assert_eq!(answer.bytes, b"220 hello\r\nping");
}

#[tokio::test]
async fn nobody_there_is_an_error_not_a_hang() {
    let running = app(FaultOptions::default()).await;
    let mut nobody = options(&running, "/");
    nobody.url = "http://127.0.0.1:1/".parse().expect("a URL");
    nobody.count = Some(2);
    let report = load(&nobody, None).await;
    assert_eq!(report.failed, 2);
    assert!(report.errors.keys().all(|e| e.contains("127.0.0.1:1")), "{report}");
}

#[test]
fn spans() {
    assert_eq!(crate::parse_span("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(crate::parse_span("2"), Ok(Duration::from_secs(2)));
    assert!(crate::parse_span("soon").is_err());
}
