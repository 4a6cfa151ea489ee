//! Where requests go: clusters, their hosts, load balancing, outlier detection, circuit breaking, connections, pools.
//!
//! Promise: picking a host takes no lock; the state of a host (requests in flight, failures, ejection) outlives every
//! configuration update; a swapped cluster never disturbs what is in flight. Errors are data: whose fault, whether the
//! peer may have seen the request, Envoy's flag. This crate knows nothing of xDS or of who calls it.

mod address;
mod balance;
mod body;
mod cluster;
mod config;
mod connect;
mod copies;
mod dns;
mod error;
mod fields;
mod host;
mod messages;
mod names;
mod pool;
mod proxied;
mod recent;
mod registry;
mod resolver;
mod stats;

pub use address::Address;
pub use body::{Body, BodyError, Recording, UpstreamBody};
pub use cluster::{Cluster, Permit, PickContext, PickError};
pub use config::{
    Balance, ClusterConfig, Discovery, DnsTarget, HostConfig, Http2Keepalive, Keepalive, NameLimits, Outlier, Protocol,
    ProxyVersion, RetryBudget, Security, Service, SlowStart, Thresholds, Tls, TransportMatch, ZoneAware,
};
pub use connect::{Alpn, Connected, Transport, connect};
pub use copies::CopyOut;
pub use error::{AnswerError, Cause, SendError};
pub use fields::remove_connection_fields;
pub use host::{Host, HostStats, Outcome};
pub use messages::Messages;
pub use names::{NameError, Target};
pub use pool::{Answer, HttpPools, Lease, SendOptions, Version};
pub use proxied::Proxied;
pub use registry::{ClusterSlot, LocalCluster, Registry, Source};
pub use stats::ClusterStats;
