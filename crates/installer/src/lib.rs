//! What is put into a cluster so that it has a mesh, and how it gets there and goes again.
//!
//! Promise: the same values give the same manifest, byte for byte; permissions are the smallest that work; a value that
//! would change nothing is refused by name. CustomResourceDefinitions come from the Rust types that read the resources.

mod chart;
mod command;
mod crd;
mod injection;
mod manifest;
mod objects;
mod output;
mod precheck;
mod rbac;
mod tag;
mod values;

pub use chart::chart;
pub use command::{Access, Install, Manifest, Uninstall, Upgrade, VerifyInstall};
pub use crd::crds;
pub use manifest::{manifest, to_yaml};
pub use precheck::Precheck;
pub use tag::Tag;
pub use values::{Values, ValuesError};
