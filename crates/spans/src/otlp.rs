//! OpenTelemetry's protocol for spans (opentelemetry.io/docs/specs/otlp): the few messages that we write.

use bytes::Bytes;
use prost::Message;

use crate::span::{Origin, Side, Span};

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtlpSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

/// `SPAN_KIND_SERVER`, `SPAN_KIND_CLIENT` and `STATUS_CODE_ERROR`.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

/// The message that exports spans; over HTTP it is the body, over gRPC it still needs its frame.
pub fn otlp_request(origin: &Origin, spans: &[Span]) -> Bytes {
    let mut attributes = vec![pair("service.name", &origin.service)];
    attributes.extend(origin.attributes.iter().map(|(key, value)| pair(key, value)));
    let resource = Some(Resource { attributes });
    let scope_spans = vec![ScopeSpans { spans: spans.iter().map(span).collect() }];
    Export { resource_spans: vec![ResourceSpans { resource, scope_spans }] }.encode_to_vec().into()
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { text: value.to_owned() }) }
}

fn span(span: &Span) -> OtlpSpan {
    let (start, end) = span.nanos();
    OtlpSpan {
        trace_id: span.context.trace.to_be_bytes().to_vec(),
        span_id: span.context.span.to_be_bytes().to_vec(),
        parent_span_id: span.context.parent.map(|p| p.to_be_bytes().to_vec()).unwrap_or_default(),
        name: span.name.clone(),
        kind: match span.side {
            Side::Server => SERVER,
            Side::Client => CLIENT,
        },
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes: span.tags.iter().map(|(key, value)| pair(key, value)).collect(),
        status: span.error.then_some(Status { code: ERROR }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::TraceContext;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let given = Span {
            context: TraceContext { trace: 1, span: 2, parent: None, sampled: true },
            side: Side::Client,
            name: "a".to_owned(),
            start: UNIX_EPOCH + Duration::from_nanos(5),
            duration: Duration::from_nanos(1),
            local: "10.0.0.2:8080".parse().unwrap(),
            tags: vec![("k".into(), "v".to_owned())],
            error: true,
        };
        let bytes = otlp_request(&Origin { service: "s".into(), attributes: Vec::new() }, &[given]);
        let mut span = vec![0x0a, 16];
        span.extend([0; 15]);
        span.extend([1, 0x12, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0x2a, 1, b'a', 0x30, 3, 0x39]);
        span.extend(5u64.to_le_bytes());
        span.push(0x41);
        span.extend(6u64.to_le_bytes());
        // Attribute k=v, status 2.
        span.extend([0x4a, 8, 0x0a, 1, b'k', 0x12, 3, 0x0a, 1, b'v', 0x7a, 2, 0x18, 2]);
        let wrap = |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).unwrap()], inner].concat();
        let name = wrap(0x0a, &[&wrap(0x0a, b"service.name")[..], &wrap(0x12, &wrap(0x0a, b"s"))[..]].concat());
        let resource = wrap(0x0a, &name);
        let scope = wrap(0x12, &wrap(0x12, &span));
        assert_eq!(&bytes[..], wrap(0x0a, &[resource, scope].concat()));
    }
}
