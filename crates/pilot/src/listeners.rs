//! Listeners: where connections are caught, and what is done with them.

mod chains;
mod inbound;
mod outbound;
mod placed;
mod port;

use mesh::Snapshot;
use serde_json::{Value, json};

use crate::{Proxy, Resource};

/// All listeners of a sidecar; a gateway has none yet.
pub fn listeners(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Resource> {
    if proxy.kind != crate::Kind::Sidecar {
        return Vec::new();
    }
    let mut all = outbound::listeners(snapshot, proxy);
    all.extend(inbound::listeners(snapshot, proxy));
    all.push(outbound::catch_all(snapshot, proxy));
    all.into_iter().filter_map(|json| Resource::from_json(json["name"].clone().as_str()?, json)).collect()
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socketAddress": {"address": address, "portValue": port}})
}

fn listener_filter(short: &str, message: &str) -> Value {
    json!({
        "name": format!("envoy.filters.listener.{short}"),
        "typedConfig": {"@type": format!("type.googleapis.com/envoy.extensions.filters.listener.{short}.v3.{message}")}
    })
}

#[cfg(test)]
mod tests;
