//! The data plane: takes connections, decides, sends on, reports.
//!
//! A request's way, module by module: [`worker`] accepts, [`connection`] finds the original destination, looks at the
//! first bytes ([`inspect`]) and picks the filter chain; [`tcp`] relays bytes, [`http`] serves requests: filters, route,
//! attempt (pick, connect, send, retry), reply, report. Each worker is one thread with its own sockets and pools;
//! configuration arrives through [`Proxy::apply`] and is swapped behind slots, so nothing in flight is disturbed.

pub mod admin;
mod apply;
mod connection;
mod http;
mod inspect;
mod life;
mod listeners;
mod peer;
mod report;
mod socket;
mod stream;
mod tcp;
mod tunnel;
mod worker;

pub use apply::{Proxy, ProxyOptions, Rejected, UNDECIDED, Wanted};
pub use life::{Phase, Scope};
pub use peer::node_metadata;
