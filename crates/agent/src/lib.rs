//! pilot-agent: identity, configuration, health and life of a sidecar; the proxy runs inside the same process, or is a stock
//! Envoy beside it.
//!
//! Promise: a sidecar keeps working with what it has while the control plane is away; its certificate is renewed before
//! half of its life is over, and no connection is cut by that; it reports ready only when everything it was told to serve
//! has arrived. This crate wires; the data plane is `proxy`.

mod app_probes;
mod channel;
mod cli;
mod dns;
mod drain;
mod envoy;
mod follow;
mod health;
mod identity;
mod log_levels;
mod merge;
mod options;
mod redirect;
mod request;
mod roots;
mod sidecar;

/// What the replicas of a workload are called between its proxy and istiod.
const LOCAL_CLUSTER: &str = "local_cluster";

pub use app_probes::AppProbes;
pub use cli::cli;
pub use drain::DrainOptions;
pub use log_levels::{SetFilter, log_filter};
pub use merge::Scrape;
pub use options::{AgentOptions, OptionsError};
pub use redirect::{Capture, Rules};
