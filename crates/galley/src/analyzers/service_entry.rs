//! ServiceEntries.

use serde_json::Value;

use crate::input::{text, texts};
use crate::message::{Message, codes};
use crate::world::{World, exported_to};

/// TCP ports of entries without an address: they would catch traffic to that port of everybody.
pub(super) fn addresses(world: &World<'_>) -> Vec<Message> {
    let metadata = |key: &str| text(world.mesh, &format!("/defaultConfig/proxyMetadata/{key}")) == "true";
    if metadata("ISTIO_META_DNS_CAPTURE") && metadata("ISTIO_META_DNS_AUTO_ALLOCATE") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for entry in world.networking("ServiceEntry").iter().filter(|e| e.list("/spec/addresses").is_empty()) {
        for (i, port) in entry.list("/spec/ports").iter().enumerate() {
            let protocol = text(port, "/protocol");
            if protocol.is_empty() || protocol.eq_ignore_ascii_case("TCP") {
                let text = "a TCP port needs addresses: without them only the port number tells where a connection goes. \
                            Set addresses, or the protocol if it is another";
                let pointer = format!("/spec/ports/{i}");
                found.push(entry.message(codes::SERVICE_ENTRY_ADDRESSES_REQUIRED, &pointer, text));
            }
        }
    }
    found
}

/// One host and port that two entries declare with different protocols, for the same clients.
pub(super) fn conflicts(world: &World<'_>) -> Vec<Message> {
    let entries = world.networking("ServiceEntry");
    let mut found = Vec::new();
    for entry in entries {
        let scope = exported_to(entry);
        for other in entries.iter().filter(|o| !std::ptr::eq(**o, *entry)) {
            let other_scope = exported_to(other);
            let together = scope.contains(&"*") || other_scope.iter().any(|n| *n == "*" || scope.contains(n));
            let shared =
                texts(entry.value(), "/spec/hosts").any(|h| texts(other.value(), "/spec/hosts").any(|o| o == h));
            if !together || !shared {
                continue;
            }
            for (i, port) in entry.list("/spec/ports").iter().enumerate() {
                let same = |o: &&Value| o.get("number") == port.get("number");
                let differing = other.list("/spec/ports").iter().filter(same);
                if differing.into_iter().any(|o| !text(o, "/protocol").eq_ignore_ascii_case(text(port, "/protocol"))) {
                    let text = format!("{} declares another protocol for this host and port", other.title());
                    let pointer = format!("/spec/ports/{i}");
                    found.push(entry.message(codes::CONFLICTING_SERVICE_ENTRY_PROTOCOL, &pointer, text));
                }
            }
        }
    }
    found
}
