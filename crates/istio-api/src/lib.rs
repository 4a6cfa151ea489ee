//! The resources users write: Istio's and the few of Kubernetes that a mesh is made of.
//!
//! Promise: names and defaults are Istio's; an unknown field of an Istio resource is refused, with its place; what is
//! wrong with a value is said by [`validate`]. This crate knows nothing of what the resources mean together.

mod check;
pub mod duration;
pub mod edge;
pub mod extensions;
pub mod kubernetes;
mod levels;
pub mod mesh;
pub mod networking;
pub mod object;
pub mod openapi;
pub mod providers;
pub mod secret;
pub mod security;
pub mod selector;
pub mod service_entry;
pub mod unix;
pub mod validate;
pub mod yaml;

pub use check::check;
pub use levels::{Leveled, levels};
pub use object::{Object, ObjectMeta, Origin, Resource, read, schema};
