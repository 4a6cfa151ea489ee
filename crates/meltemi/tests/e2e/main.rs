//! The laptop mesh, end to end: real namespaces, real interception, real mTLS, driven by the seed's YAML.
//!
//! Needs root (or a user namespace with a range of ids) and `ip`, `nft`, `iptables-restore`; run by `scripts/test` with
//! `--ignored`, one at a time.

mod attacks;
mod command_line;
mod commands;
mod edits;
mod life;
mod lifecycle;
mod resilience;
mod rolling;
mod roots;
mod routing;
mod secrets;
mod security;
mod services;
mod shop;
mod sidecar;
mod stock_envoy;
mod survival;
mod tokens;
mod tracing;
mod zones;
