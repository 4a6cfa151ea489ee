//! A Kubernetes API server as a source of resources, and as the place where the control plane keeps its own few.
//!
//! Promise: a configuration or an endpoint goes only when the server says that it has gone: a server that restarts, a
//! history that is too old (410 Gone), a slow or broken list leave what was known in force. An object that is refused
//! leaves its last good version. This crate knows nothing of proxies, certificates or what resources mean.

mod authority;
mod bundle;
mod cache;
mod cluster;
mod credentials;
mod forward;
mod kind;
mod lease;
mod roots;
mod slim;
mod token;
mod watch;

pub use authority::{CaSecret, ca_secret, follow_ca, given_roots, renew_ca};
pub use bundle::keep_bundles;
pub use cluster::{Cluster, ClusterError, Place};
pub use credentials::follow_secrets;
pub use kind::{CRDS, Kind};
pub use lease::{Election, Leading};
pub use roots::keep_roots;
pub use watch::{Scope, Source, watch};
