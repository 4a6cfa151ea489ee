//! Distributed traces: which requests are traced, how a trace travels in headers, and how finished spans are told to a
//! collector.
//!
//! Sampling and the meaning of `x-request-id` are Envoy's (its "Tracing" architecture overview), so that a trace that begins
//! at a stock proxy goes on here and the other way round. This crate knows nothing of sockets, configuration or xDS: it reads
//! and writes header maps, and makes bodies.

mod context;
mod otlp;
mod sampling;
mod span;
mod zipkin;

pub use context::{Incoming, Propagation, TraceContext};
pub use otlp::otlp_request;
pub use sampling::{Reason, Sampling, decide};
pub use span::{Origin, Side, Span};
pub use zipkin::zipkin_body;
