//! xDS, both ends of it: delta and state-of-the-world ADS, acknowledgements, and what is sent to whom.
//!
//! Promise: a resource goes out only when its content has changed for this subscriber; a refusal is remembered with its
//! reason and the last good version stays; a client that loses its server keeps what it has and comes back by itself.
//! This crate does not know what resources mean.

mod client;
mod incoming;
mod names;
mod pieces;
mod server;
mod service;
mod session;
mod status;
mod subscription;

pub use client::{Applied, Apply, Client, Want};
pub use server::{AdsServer, Answer, Generator, Resource, Wanted};
pub use status::{ConnectionStatus, TypeStatus};

/// Type URLs, without `type.googleapis.com/`.
pub mod types {
    /// Clusters.
    pub const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
    /// Endpoints.
    pub const ENDPOINT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Listeners.
    pub const LISTENER: &str = "envoy.config.listener.v3.Listener";
    /// Routes.
    pub const ROUTE: &str = "envoy.config.route.v3.RouteConfiguration";
    /// Certificates and roots.
    pub const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// DNS names.
    pub const NAME_TABLE: &str = "istio.networking.nds.v1.NameTable";

    /// The order in which a change goes out, so that nothing refers to what is not there yet.
    pub const ORDER: [&str; 6] = [CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, NAME_TABLE];

    /// Pages of the server, by name; the body is the page's own.
    pub const DEBUG: &str = "istio.io/debug";
    /// What every proxy was sent and has acknowledged.
    pub const SYNCZ: &str = "istio.io/debug/syncz";
    /// What one proxy is sent.
    pub const CONFIG_DUMP: &str = "istio.io/debug/config_dump";
    /// Who is connected.
    pub const CONNECTIONS: [&str; 2] = ["istio.io/connections", "istio.io/connect"];

    /// Whether a type URL asks about the server itself.
    pub fn is_debug(url: &str) -> bool {
        url == DEBUG || url.starts_with("istio.io/debug/") || CONNECTIONS.contains(&url)
    }

    /// The bare name of a type URL.
    pub fn bare(url: &str) -> &str {
        url.rsplit('/').next().unwrap_or(url)
    }

    /// The URL of a bare name.
    pub fn url(bare: &str) -> String {
        format!("type.googleapis.com/{bare}")
    }
}
