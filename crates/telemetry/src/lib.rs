//! What the data plane tells about itself: Istio's metrics, Envoy's statistics, access logs, response flags.
//!
//! Promise: recording costs a handful of atomic additions on handles that the caller already holds; label sets are
//! interned once, and a scrape does the summing and formatting. Everything that grows has a limit. This crate knows
//! nothing of sockets, configuration or xDS.

mod access_log;
mod clock;
mod flags;
mod format;
mod histogram;
mod record;
mod registry;
mod series;
mod sink;
mod stats;
mod template;
mod time_format;

pub use access_log::{AccessLog, AccessLogConfig, LogFilter, LogFormat};
pub use clock::rfc3339_millis;
pub use flags::ResponseFlags;
pub use format::FormatError;
pub use record::{LogRecord, RequestHeaders};
pub use registry::Telemetry;
pub use series::{
    DestinationService, HttpSample, HttpSeries, Reporter, RequestProtocol, SecurityPolicy, SeriesKey, TcpSeries,
    Workload,
};
pub use stats::{Counter, Gauge, Stat, StatKind};
pub use template::Template;
