//! Traces: what goes on to the upstream, and what a collector is told.

use serde_json::{Value, json};

use crate::proxy::{Config, cluster};
use crate::wire::{Upstream, Wire, field};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// A request id that draws the lot 9,990 of 10,000.
const ID: &str = "00002706-0000-4000-8000-000000000000";

/// A proxy that traces this share of requests, for one side of a call.
fn config(up: &Upstream, collector: &Upstream, provider: Value, per_cent: f64, inbound: bool) -> Config {
    let mut config = Config::http(up.address);
    config.clusters.push(cluster("collector", collector.address));
    if inbound {
        config.listener["traffic_direction"] = json!("INBOUND");
    }
    config.manager()["tracing"] = json!({
        "random_sampling": {"value": per_cent},
        "custom_tags": [
            {"tag": "tenant", "request_header": {"name": "x-tenant", "default_value": "nobody"}},
            {"tag": "zone", "literal": {"value": "a"}}
        ],
        "provider": provider
    });
    config.route()["decorator"] = json!({"operation": "pay:8080/*"});
    config
}

fn zipkin() -> Value {
    json!({
        "name": "envoy.tracers.zipkin",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
            "collector_cluster": "collector",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
            "trace_id_128bit": true,
            "shared_span_context": false
        }
    })
}

/// A collector of OpenTelemetry's, reached by this service.
fn opentelemetry(by: &str, service: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": "order.shop"
    });
    config[by] = service;
    json!({"name": "envoy.tracers.opentelemetry", "typed_config": config})
}

/// Sends a request and gives the head that the upstream saw.
async fn exchange(client: &mut Wire, server: &mut Option<Wire>, up: &Upstream, headers: &str, answer: &str) -> String {
    client.send(format!("GET /a?b=c HTTP/1.1\r\nhost: pay:8080\r\nx-request-id: {ID}\r\n{headers}\r\n")).await;
    if server.is_none() {
        *server = Some(up.accept().await);
    }
    let server = server.as_mut().expect("just made");
    let head = server.head().await;
    server.send(answer).await;
    client.message().await;
    head
}

fn tag<'a>(span: &'a Value, name: &str) -> &'a str {
    span["tags"][name].as_str().unwrap_or("")
}

#[tokio::test]
async fn zipkin_is_told_of_sampled_requests_only() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let proxy = config(&up, &collector, zipkin(), 99.9, false).start();
    let (mut client, mut server) = (Wire::connect(proxy.address).await, None);
    // The caller says no, and the lot is too high: neither is told, both go on as not sampled.
    for headers in ["x-b3-sampled: 0\r\n", "b3: 0\r\n"] {
        let head = exchange(&mut client, &mut server, &up, headers, OK).await;
        assert_eq!(field(&head, "x-b3-sampled"), Some("0"), "{head}");
    }
    let error = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let parent = "x-b3-traceid: 463ac35c9f6413ad48485a3953bb6124\r\nx-b3-spanid: a2fb4a1d1a96d312\r\n";
    // It is told by the caller's word alone.
    let head =
        exchange(&mut client, &mut server, &up, &format!("{parent}x-b3-sampled: 1\r\nx-tenant: t1\r\n"), error).await;
    assert_eq!(field(&head, "x-b3-traceid"), Some("463ac35c9f6413ad48485a3953bb6124"));
    assert_eq!(field(&head, "x-b3-parentspanid"), Some("a2fb4a1d1a96d312"));
    assert_eq!(field(&head, "x-envoy-decorator-operation"), Some("pay:8080/*"));
    let mut at = collector.accept().await;
    let (head2, body) = at.message().await;
    at.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
    assert!(head2.starts_with("POST /api/v2/spans HTTP/1.1\r\n"), "{head2}");
    assert_eq!(field(&head2, "content-type"), Some("application/json"));
    let spans: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(spans.as_array().expect("a list").len(), 1, "{spans}");
    let span = &spans[0];
    assert_eq!(span["id"].as_str(), field(&head, "x-b3-spanid"));
    assert_eq!((span["parentId"].as_str(), span["kind"].as_str()), (Some("a2fb4a1d1a96d312"), Some("CLIENT")));
    assert_eq!((span["name"].as_str(), tag(span, "http.url")), (Some("pay:8080/*"), "http://pay:8080/a?b=c"));
    assert_eq!((tag(span, "http.status_code"), tag(span, "error"), tag(span, "tenant")), ("503", "true", "t1"));
    assert_eq!((tag(span, "zone"), tag(span, "upstream_cluster"), tag(span, "guid:x-request-id")), ("a", "up", ID));
}

#[tokio::test]
async fn the_lot_of_the_request_id_decides_and_is_written_into_it() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let proxy = config(&up, &collector, zipkin(), 99.91, true).start();
    let (mut client, mut server) = (Wire::connect(proxy.address).await, None);
    let headers = "x-envoy-decorator-operation: shop:80/buy\r\n";
    let head = exchange(&mut client, &mut server, &up, headers, OK).await;
    assert_eq!(field(&head, "x-request-id"), Some("00002706-0000-9000-8000-000000000000"));
    assert_eq!(field(&head, "x-b3-sampled"), Some("1"));
    assert_eq!((field(&head, "x-b3-parentspanid"), field(&head, "x-envoy-decorator-operation")), (None, None));
    let mut at = collector.accept().await;
    let (_, body) = at.message().await;
    let spans: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((spans[0]["kind"].as_str(), spans[0]["name"].as_str()), (Some("SERVER"), Some("shop:80/buy")));
    assert_eq!((tag(&spans[0], "tenant"), tag(&spans[0], "error")), ("nobody", ""));
}

#[tokio::test]
async fn opentelemetry_over_http_travels_by_traceparent() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let http = json!({
        "http_uri": {"uri": "http://otel:4318/v1/traces", "cluster": "collector", "timeout": "3s"},
        "request_headers_to_add": [{"header": {"key": "x-api-key", "value": "k"}}]
    });
    let provider = opentelemetry("http_service", http);
    let proxy = config(&up, &collector, provider, 100.0, false).start();
    let (mut client, mut server) = (Wire::connect(proxy.address).await, None);
    let state = "tracestate: rojo=1\r\ntraceparent: 00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01\r\n";
    let head = exchange(&mut client, &mut server, &up, state, OK).await;
    let parent = field(&head, "traceparent").expect("it goes on");
    assert!(parent.starts_with("00-463ac35c9f6413ad48485a3953bb6124-") && parent.ends_with("-01"), "{parent}");
    assert!(!parent.contains("a2fb4a1d1a96d312"), "a span of its own");
    assert_eq!((field(&head, "tracestate"), field(&head, "x-b3-traceid")), (Some("rojo=1"), None));
    let mut at = collector.accept().await;
    let head = at.head().await;
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert_eq!((field(&head, "host"), field(&head, "x-api-key")), (Some("otel:4318"), Some("k")));
    assert_eq!(field(&head, "content-type"), Some("application/x-protobuf"));
    let body = at.exactly(field(&head, "content-length").expect("known").parse().expect("a number")).await;
    let holds = |text: &[u8]| body.windows(text.len()).any(|w| w == text);
    assert!(holds(b"service.name") && holds(b"order.shop") && holds(b"pay:8080/*"));
}

#[tokio::test]
async fn opentelemetry_over_grpc_is_a_framed_message() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let grpc = json!({"envoy_grpc": {"cluster_name": "collector", "authority": "otel"}, "timeout": "3s"});
    let provider = opentelemetry("grpc_service", grpc);
    let proxy = config(&up, &collector, provider, 100.0, false).start();
    let (mut client, mut server) = (Wire::connect(proxy.address).await, None);
    exchange(&mut client, &mut server, &up, "", OK).await;
    let mut connection = h2::server::handshake(collector.accept_stream().await).await.expect("HTTP/2");
    let (request, mut respond) = connection.accept().await.expect("a stream").expect("a request");
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut body = request.into_body();
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("whole");
        body.flow_control().release_capacity(piece.len()).expect("ours");
        all.extend_from_slice(&piece);
    }
    let length = u32::from_be_bytes(all[1..5].try_into().expect("four bytes")) as usize;
    assert_eq!((all[0], length), (0, all.len() - 5));
    let response = http::Response::builder().header("content-type", "application/grpc").body(()).expect("a response");
    respond.send_response(response, true).expect("sent");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up_and_is_counted() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let away = config(&up, &collector, zipkin(), 100.0, false);
    drop(collector);
    let proxy = away.start();
    let (mut client, mut server) = (Wire::connect(proxy.address).await, None);
    exchange(&mut client, &mut server, &up, "", OK).await;
    let lost = || proxy.proxy.telemetry().render_stats(Some("tracing.spans_dropped"));
    while lost().trim() != "tracing.spans_dropped: 1" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    exchange(&mut client, &mut server, &up, "", OK).await;
}

#[tokio::test]
async fn what_is_not_built_is_refused_by_name() {
    let (up, collector) = (Upstream::bind().await, Upstream::bind().await);
    let mut shared = zipkin();
    shared["typed_config"]["shared_span_context"] = json!(true);
    let mut proto = zipkin();
    proto["typed_config"]["collector_endpoint_version"] = json!("HTTP_PROTO");
    for (provider, field) in [
        (shared, "tracing.provider.typed_config.shared_span_context"),
        (proto, "tracing.provider.typed_config.collector_endpoint_version"),
        (
            json!({"name": "x", "typed_config": {"@type": "type.googleapis.com/envoy.config.trace.v3.DatadogConfig"}}),
            "",
        ),
    ] {
        match config(&up, &collector, provider, 1.0, false).try_start() {
            Ok(_) => panic!("{field} is accepted"),
            Err(reason) => assert!(reason.contains(field), "{reason}"),
        }
    }
}
