//! One Envoy resource, serialised once.

use envoy_api::Any;
use serde_json::Value;
use xxhash_rust::xxh64::xxh64;

use crate::converted;

/// A resource as it goes on the wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// The name that the subscriber asks for.
    pub name: String,
    /// The message with its type URL.
    pub body: Any,
    /// Hash of the content: equal content has an equal version, in every process.
    pub version: String,
}

impl Resource {
    /// Turns proto-JSON (with `@type`) into a resource.
    ///
    /// The version is taken from the JSON, whose key order is ours: protobuf maps have no stable order in bytes.
    /// A resource that does not fit Envoy's schema is a bug of this crate; it is left out and reported, so that the
    /// rest of the configuration still reaches the proxy.
    pub(crate) fn from_json(name: &str, json: Value) -> Option<Self> {
        let text = json.to_string();
        let key = converted::key(&text);
        let version = format!("{:016x}", xxh64(text.as_bytes(), 0));
        if let Some(body) = converted::find(key) {
            return Some(Self { name: name.to_owned(), body, version });
        }
        match envoy_api::any_from_json(json) {
            Ok(body) => {
                converted::keep(key, &body);
                Some(Self { name: name.to_owned(), body, version })
            }
            Err(why) => {
                tracing::error!(resource = name, %why, "a generated resource does not fit Envoy's schema; please report this");
                None
            }
        }
    }
}
