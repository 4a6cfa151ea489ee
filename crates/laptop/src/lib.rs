//! A mesh on one machine: pods are network namespaces, containers are local processes, a directory of YAML is the API.
//!
//! Promises: what `up` makes, `down` (or the death of its node process) removes, without a trace in the machine's own
//! network; pods see what they would see on a cluster: an address, cluster DNS, service addresses, a token, redirection as
//! Istio's; several meshes run side by side.
//! It may not know: xDS, proxies, policies. Sidecars and istiod are processes of the one binary, spoken to as on a cluster.

mod address;
mod cli;
mod container;
mod control;
mod controller;
mod demo;
mod dns;
mod ending;
mod endpoints;
mod identity;
mod inside;
mod istiod;
mod launch;
mod manifest;
mod mesh;
mod model;
mod node;
mod objects;
mod paths;
mod pod;
mod probe;
mod run;
mod sandbox;
mod sidecar;
pub mod status;
mod table;

pub use cli::{LaptopCommand, MakeIdentity, run as run_command};
pub use control::{ControlError, ask};
pub use identity::{Identity, Issuer, NoIssuer};
pub use manifest::Problem;
pub use mesh::{Mesh, MeshError, MeshOptions};
pub use paths::StateDir;
