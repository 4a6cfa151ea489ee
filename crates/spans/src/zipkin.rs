//! Zipkin's JSON, version 2 (zipkin.io/zipkin-api).

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::span::{Origin, Side, Span};

/// The body of `POST /api/v2/spans`.
pub fn zipkin_body(origin: &Origin, spans: &[Span]) -> Bytes {
    let all: Vec<Value> = spans.iter().map(|span| value(origin, span)).collect();
    Value::from(all).to_string().into()
}

fn value(origin: &Origin, span: &Span) -> Value {
    let (start, end) = span.nanos();
    let tags: Map<String, Value> =
        span.tags.iter().map(|(key, value)| (key.clone().into_owned(), Value::from(value.as_str()))).collect();
    let family = if span.local.is_ipv4() { "ipv4" } else { "ipv6" };
    let mut value = json!({
        "traceId": span.context.trace_text(),
        "id": format!("{:016x}", span.context.span),
        "name": span.name,
        "kind": match span.side { Side::Client => "CLIENT", Side::Server => "SERVER" },
        "timestamp": start / 1000,
        // Zero would be "unknown".
        "duration": ((end - start) / 1000).max(1),
        "localEndpoint": {
            "serviceName": &*origin.service, family: span.local.ip().to_string(), "port": span.local.port()
        },
        "tags": tags
    });
    if let Some(parent) = span.context.parent {
        value["parentId"] = format!("{parent:016x}").into();
    }
    value
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::TraceContext;

    #[test]
    fn the_form_of_a_span() {
        let span = Span {
            context: TraceContext { trace: 0xabc, span: 7, parent: Some(6), sampled: true },
            side: Side::Server,
            name: "payment-api:8080/*".to_owned(),
            start: UNIX_EPOCH + Duration::from_micros(1_500_000),
            duration: Duration::from_nanos(1_234_567),
            local: "10.0.0.2:8080".parse().unwrap(),
            tags: vec![("http.status_code".into(), "200".to_owned())],
            error: false,
        };
        let origin = Origin { service: "payment-api.default".into(), attributes: Vec::new() };
        let read: Value = serde_json::from_slice(&zipkin_body(&origin, &[span])).unwrap();
        let wanted = json!([{
            "traceId": "0000000000000abc", "id": "0000000000000007", "parentId": "0000000000000006",
            "name": "payment-api:8080/*", "kind": "SERVER", "timestamp": 1_500_000, "duration": 1234,
            "localEndpoint": {"serviceName": "payment-api.default", "ipv4": "10.0.0.2", "port": 8080},
            "tags": {"http.status_code": "200"}
        }]);
        assert_eq!(read, wanted);
    }
}
