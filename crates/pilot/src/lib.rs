//! Translates a mesh snapshot, as one proxy may see it, into Envoy resources.
//!
//! Every function is pure: the same snapshot and the same facts about a proxy give the same resources with the same
//! versions, in every process. Names and shapes are those of Istio, so that its tools, its data plane and stock Envoy
//! understand them. This crate knows the mesh model and Envoy's API; it does not know files, Kubernetes, sockets or the
//! xDS protocol. What users can write and it does not translate is listed by [`unsupported`], for whoever accepts
//! configuration to refuse.

mod access_log;
mod authz;
mod clusters;
mod converted;
mod endpoints;
mod http;
mod jwt;
mod listeners;
mod locality;
mod name_table;
pub mod names;
mod names_of_callers;
mod outlook;
mod proxy;
mod resource;
mod routes;
mod scope;
mod secrets;
mod sidecar;
mod telemetry;
mod tls;
mod touched;
mod unsupported;

pub use clusters::{called_clusters, called_clusters_of, clusters, own_clusters};
pub use converted::forget_unused;
pub use endpoints::{called_endpoints, endpoints, replicas};
pub use listeners::listeners;
pub use name_table::{called_names, name_table};
pub use outlook::Outlook;
pub use proxy::{Kind, NodeError, Proxy};
pub use resource::Resource;
pub use routes::{called_routes, routes};
pub use secrets::secret;
pub use touched::{Part, Touched, touched};
pub use unsupported::{Unsupported, unsupported};

/// An object of the given fields. Unlike `json!`, which copies each value deeply, it takes them as they are.
fn object<const N: usize>(fields: [(&str, serde_json::Value); N]) -> serde_json::Value {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A duration as proto-JSON writes it.
fn duration(of: &std::time::Duration) -> serde_json::Value {
    let nanos = of.subsec_nanos();
    if nanos == 0 {
        return format!("{}s", of.as_secs()).into();
    }
    format!("{}.{nanos:09}s", of.as_secs()).into()
}
