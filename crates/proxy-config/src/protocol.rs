//! Options of HTTP/1 and HTTP/2, towards clients and towards servers.

use std::time::Duration;

use core::http_protocol_options::HeadersWithUnderscoresAction;
use core::http1_protocol_options::header_key_format::HeaderFormat;
use envoy_api::envoy::config::core::v3 as core;
use envoy_api::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;

use upstream::Http2Keepalive;

use crate::common::{duration, kind, limit, limit_or, unpack};
use crate::context::{Refusal, Result, Under};

/// What becomes of headers with an underscore in their name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They are passed on.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// They are left out.
    Drop,
}

/// How long client connections live, and what their heads may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// A connection without requests is closed after this time.
    pub idle_timeout: Option<Duration>,
    /// A connection takes no more requests after this time.
    pub max_duration: Option<Duration>,
    /// Header fields of one request.
    pub max_headers: usize,
    /// What becomes of headers with an underscore in their name.
    pub underscores: Underscores,
}

impl Default for Common {
    /// Envoy's defaults: an hour, no end, 100 fields.
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_duration: None,
            max_headers: 100,
            underscores: Underscores::Allow,
        }
    }
}

/// HTTP/2 towards clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Streams at once on one connection.
    pub max_streams: u32,
    /// Bytes a client may send ahead on one stream.
    pub stream_window: u32,
    /// Bytes a client may send ahead on the connection.
    pub connection_window: u32,
    /// Extended CONNECT (RFC 8441): WebSocket over HTTP/2.
    pub extended_connect: bool,
    /// Pings.
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2 {
    /// Envoy's own defaults are far larger (2^29 streams, 256 MiB windows); these bound what one client can hold.
    fn default() -> Self {
        Self {
            max_streams: 1024,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            extended_connect: false,
            keepalive: None,
        }
    }
}

/// Whether a field says something else than its default.
pub(crate) trait IsSet {
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for std::collections::HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

/// Refuses a message in which one of these fields is set.
macro_rules! refuse_set {
    ($message:expr; $($field:ident),+ $(,)?) => {
        $crate::protocol::refuse(&[
            $((stringify!($field), $crate::protocol::IsSet::is_set(&$message.$field))),+
        ])
    };
}
pub(crate) use refuse_set;

/// The first used field of a list becomes the refusal.
pub(crate) fn refuse(unsupported: &[(&str, bool)]) -> Result<()> {
    match unsupported.iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(Refusal::unsupported(field)),
        None => Ok(()),
    }
}

pub(crate) fn common(proto: Option<&core::HttpProtocolOptions>) -> Result<Common> {
    let default = Common::default();
    let Some(proto) = proto else { return Ok(default) };
    refuse(&[
        ("max_connection_duration_jitter", proto.max_connection_duration_jitter.is_some()),
        ("max_response_headers_kb", proto.max_response_headers_kb.is_some()),
        ("max_stream_duration", proto.max_stream_duration.is_some()),
        ("max_requests_per_connection", proto.max_requests_per_connection.is_some_and(|v| v.value > 0)),
    ])?;
    Ok(Common {
        idle_timeout: limit_or(proto.idle_timeout.as_ref(), default.idle_timeout),
        max_duration: limit(proto.max_connection_duration.as_ref()),
        max_headers: proto.max_headers_count.map_or(default.max_headers, |v| (v.value as usize).clamp(1, 8192)),
        underscores: match proto.headers_with_underscores_action() {
            HeadersWithUnderscoresAction::Allow => Underscores::Allow,
            HeadersWithUnderscoresAction::RejectRequest => Underscores::Reject,
            HeadersWithUnderscoresAction::DropHeader => Underscores::Drop,
        },
    })
}

/// Whether HTTP/1 header names keep the case they came in. HTTP/1.0 and trailers that are announced are always served.
pub(crate) fn http1(proto: Option<&core::Http1ProtocolOptions>) -> Result<bool> {
    let Some(proto) = proto else { return Ok(false) };
    refuse_set!(proto; override_stream_error_on_invalid_http_message)?;
    refuse(&[
        ("allow_absolute_url: false", proto.allow_absolute_url.is_some_and(|v| !v.value)),
        ("default_host_for_http_10", !proto.default_host_for_http_10.is_empty()),
        ("allow_chunked_length", proto.allow_chunked_length),
        ("send_fully_qualified_url", proto.send_fully_qualified_url),
        ("ignore_http_11_upgrade", !proto.ignore_http_11_upgrade.is_empty()),
    ])?;
    match proto.header_key_format.as_ref().and_then(|f| f.header_format.as_ref()) {
        None => Ok(false),
        Some(HeaderFormat::ProperCaseWords(_)) => Err(Refusal::unsupported("header_key_format.proper_case_words")),
        Some(HeaderFormat::StatefulFormatter(formatter)) => {
            preserve_case(formatter).under("header_key_format.stateful_formatter").map(|()| true)
        }
    }
}

fn preserve_case(formatter: &core::TypedExtensionConfig) -> Result<()> {
    let any = formatter.typed_config.as_ref().ok_or_else(|| Refusal::new("typed_config", "is missing"))?;
    if kind(any) != "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig" {
        return Err(Refusal::new("typed_config", format!("{} is not supported", any.type_url)));
    }
    let given: PreserveCaseFormatterConfig = unpack(any)?;
    refuse(&[
        ("forward_reason_phrase", given.forward_reason_phrase),
        ("formatter_type_on_envoy_headers", given.formatter_type_on_envoy_headers != 0),
    ])
}

pub(crate) fn http2(proto: Option<&core::Http2ProtocolOptions>) -> Result<Http2> {
    let default = Http2::default();
    let Some(proto) = proto else { return Ok(default) };
    refuse_http2(proto)?;
    Ok(Http2 {
        max_streams: proto.max_concurrent_streams.map_or(default.max_streams, |v| v.value).max(1),
        stream_window: proto.initial_stream_window_size.map_or(default.stream_window, |v| v.value),
        connection_window: proto.initial_connection_window_size.map_or(default.connection_window, |v| v.value),
        extended_connect: proto.allow_connect,
        keepalive: proto
            .connection_keepalive
            .as_ref()
            .map(keepalive)
            .transpose()
            .under("connection_keepalive")?
            .flatten(),
    })
}

/// What neither side of HTTP/2 has.
#[allow(deprecated)] // One field is the old form of another.
pub(crate) fn refuse_http2(proto: &core::Http2ProtocolOptions) -> Result<()> {
    refuse_set!(proto;
        stream_reset_burst, stream_reset_rate, override_stream_error_on_invalid_http_message,
        stream_error_on_invalid_http_messaging,
    )?;
    refuse(&[
        ("hpack_table_size", proto.hpack_table_size.is_some()),
        ("allow_metadata", proto.allow_metadata),
        ("max_outbound_frames", proto.max_outbound_frames.is_some()),
        ("max_outbound_control_frames", proto.max_outbound_control_frames.is_some()),
        (
            "max_consecutive_inbound_frames_with_empty_payload",
            proto.max_consecutive_inbound_frames_with_empty_payload.is_some(),
        ),
        ("max_inbound_priority_frames_per_stream", proto.max_inbound_priority_frames_per_stream.is_some()),
        (
            "max_inbound_window_update_frames_per_data_frame_sent",
            proto.max_inbound_window_update_frames_per_data_frame_sent.is_some(),
        ),
        ("custom_settings_parameters", !proto.custom_settings_parameters.is_empty()),
        ("max_metadata_size", proto.max_metadata_size.is_some()),
        ("enable_huffman_encoding", proto.enable_huffman_encoding.is_some()),
        ("max_header_field_size_kb", proto.max_header_field_size_kb.is_some()),
        ("disallow_obs_text", proto.disallow_obs_text.is_some()),
    ])
}

pub(crate) fn keepalive(proto: &core::KeepaliveSettings) -> Result<Option<Http2Keepalive>> {
    refuse(&[("connection_idle_interval", proto.connection_idle_interval.is_some())])?;
    let timeout = duration(proto.timeout.as_ref()).ok_or_else(|| Refusal::new("timeout", "is missing"))?;
    let jitter = proto.interval_jitter.as_ref().map_or(f64::from(Http2Keepalive::JITTER_PERCENT), |p| p.value);
    let jitter_percent = jitter.clamp(0.0, 100.0) as u32;
    Ok(limit(proto.interval.as_ref()).map(|interval| Http2Keepalive { interval, timeout, jitter_percent }))
}
