//! Envoy's API and Istio's few own messages as Rust types, with proto-JSON.
//!
//! Everything is generated at build time from the .proto files of a registry package; nothing of others is kept here.
//! `Any` carries its body as [`bytes::Bytes`], so a resource is serialised once and shared by all who are sent it.
//! This crate knows nothing of Meltemi.

mod json;
mod shape;
mod wire;

pub use json::{
    JsonError, any_from_json, any_to_json, message_from_json, message_to_json, release_descriptors, struct_from_json,
    struct_to_json,
};
pub use prost;
pub use shape::{Field, Holds, Many, fields};

#[allow(missing_docs, clippy::all, rustdoc::all)] // Generated code.
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
pub use generated::*;

pub use generated::google::protobuf::{Any, Duration, Struct, Timestamp, Value};
use prost::Name;

/// Packs a message into an `Any` under its own type URL.
pub fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}

/// Unpacks an `Any` that is known to hold an `M`.
///
/// # Errors
/// When the bytes are not a valid `M`; the type URL is not looked at, the caller has matched on it.
pub fn unpack<M: prost::Message + Default>(any: &Any) -> Result<M, prost::DecodeError> {
    M::decode(any.value.clone())
}
