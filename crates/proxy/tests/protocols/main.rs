//! What the data plane does with real bytes: a proxy in this process, configured as Envoy would be, between a client and
//! an upstream that the test plays by hand.

mod h2spec;
mod http1;
mod http2;
mod idle;
mod in_flight;
mod life;
mod mirror;
mod proxy;
mod smuggling;
mod tcp;
mod tracing;
mod upgrade;
mod wire;
