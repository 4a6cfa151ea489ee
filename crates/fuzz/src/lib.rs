//! What must hold for any bytes that others wrote, and inputs to try it on. A finding becomes a test beside the code
//! that it was found in. This crate knows every parser of the house, and no user of it does.

mod http1;
mod mutate;
mod resource;

pub use http1::{chunked, head};
pub use mutate::Mutator;

use std::sync::{Arc, LazyLock};

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_api::envoy::config::listener::v3::Listener;
use envoy_api::envoy::config::route::v3::RouteConfiguration;
use envoy_api::prost::Message;
use mtls::sniff::{First, first};
use proxy_config::{Context, compile_cluster, compile_endpoints, compile_listener, compile_routes};
use telemetry::{Telemetry, Workload};

/// A property of any input; it panics where it does not hold.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 5] =
    [("http1_head", head), ("chunked_body", chunked), ("first_bytes", first_bytes), ("xds", xds), ("yaml", yaml)];

/// Once the first bytes have told what a client speaks, more bytes do not change it: how they are cut up by the network
/// is no property of the protocol.
pub fn first_bytes(data: &[u8]) {
    let mut known = None;
    for end in 0..=data.len().min(2048) {
        let verdict = first(&data[..end]);
        match (&known, &verdict) {
            (None, First::NeedMore) => {}
            (None, _) => known = Some(verdict),
            (Some(before), now) => assert_eq!(before, now, "after {end} bytes of {data:?}"),
        }
    }
    // The whole, however long, is looked at without a panic.
    let _ = first(data);
}

static CONTEXT: LazyLock<Context> =
    LazyLock::new(|| Context::new(Arc::default(), Arc::default(), Telemetry::new(Workload::unknown())));

/// Any resource is compiled or refused. The first byte chooses its type; the rest is the message, or JSON of it.
pub fn xds(data: &[u8]) {
    compiled(data);
}

/// Whether the input is a message at all, and whether it compiles.
fn compiled(data: &[u8]) -> Option<bool> {
    let (kind, rest) = data.split_first()?;
    match kind % 4 {
        0 => message::<Listener>(rest).map(|m| compile_listener(&m, &CONTEXT).is_ok()),
        1 => message::<Cluster>(rest).map(|m| compile_cluster(&m, &CONTEXT).is_ok()),
        2 => message::<ClusterLoadAssignment>(rest).map(|m| compile_endpoints(&m).is_ok()),
        _ => message::<RouteConfiguration>(rest).map(|m| {
            compile_routes(&m, &CONTEXT, None)
                .is_ok_and(|routes| routes.hosts(&CONTEXT).count() <= m.virtual_hosts.len())
        }),
    }
}

fn message<M: Message + Default + envoy_api::prost::Name>(bytes: &[u8]) -> Option<M> {
    if bytes.first() == Some(&b'{') {
        return envoy_api::message_from_json(serde_json::from_slice(bytes).ok()?).ok();
    }
    M::decode(bytes).ok()
}

/// Any text is read or refused with a place; what was read keeps its place, and reading it again changes nothing.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(documents) = istio_api::yaml::parse(text) else { return };
    for document in documents {
        let _ = document.place("/spec/http/0/route");
        if let Err(errors) = istio_api::object::read(&document, "default") {
            for error in errors {
                let _ = istio_api::object::place(&document, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most inputs of target `xds` are messages, and many of these compile: the compilers are tried, not the decoder.
    #[test]
    fn resources_reach_the_compilers() {
        let mut mutator = Mutator::new("xds", 7).expect("seeds");
        let tried: Vec<_> = (0..300).filter_map(|_| compiled(&mutator.next_input())).collect();
        let good = tried.iter().filter(|ok| **ok).count();
        assert!(tried.len() > 200, "{} of 300 are messages", tried.len());
        assert!(good > 60, "{good} of {} compile", tried.len());
    }

    /// The same few inputs every time; `cargo run -p fuzz` tries others for as long as it is told to.
    #[test]
    fn every_target_holds() {
        for (name, target) in TARGETS {
            let mut mutator = Mutator::new(name, 1).expect("seeds");
            for _ in 0..500 {
                target(&mutator.next_input());
            }
        }
    }
}
