//! Rules of VirtualService and DestinationRule, shown with real traffic: YAML goes in as users write it, is read, built
//! into a snapshot and translated by `pilot`; what comes out is handed to a data plane in this process; requests and
//! connections go through it to servers on loopback.
//!
//! With `MELTEMI_TRAFFIC_PROXY=envoy` the very same resources go to a stock Envoy instead (`MELTEMI_ENVOY` names the
//! binary): a case that passes with one and fails with the other is a bug of the translation or of the data plane.

mod callers;
mod destination;
mod envoy;
mod ingress;
mod locality;
mod matching;
mod names;
mod outlier;
mod places;
mod pool;
mod retry;
mod route;
mod server;
mod stream;
mod table;
mod tls;
mod world;
mod zones;
