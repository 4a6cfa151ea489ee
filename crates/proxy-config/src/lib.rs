//! From xDS resources to the compiled form the data plane runs on: every string parsed, every expression compiled,
//! every reference a slot.
//!
//! Promise: a resource is taken whole or refused whole, and a refusal names the resource, the field and what to do. A
//! field or extension that would change behaviour and is not built is refused, never ignored. Protobuf stops here.

mod access_log;
mod cluster;
mod common;
mod context;
mod files;
mod http;
mod jwt;
mod listener;
mod names;
mod packed;
mod protocol;
mod rbac;
mod resources;
mod route;
mod route_action;
mod routes;
mod tls;
mod trace;

pub use cluster::{compile_cluster, compile_endpoints};
pub use context::{ConfigError, Context, RouteSlot};
pub use files::refresh_files;
pub use http::{CertDetails, ClientCert, HttpFilter, HttpManager, RouteSource};
pub use listener::{FilterChain, HttpInspect, Listener, TcpProxy, Terminal, Tunnel, compile_listener};
pub use protocol::{Common, Http2, Underscores};
pub use resources::{CLUSTER, ENDPOINT, Resources};
pub use route::compile_routes;
pub use routes::Routes;
pub use tls::{ServerTlsConfigs, apply_secret};
pub use trace::{Exporter, Format, Report, TagValue, Tracing};
