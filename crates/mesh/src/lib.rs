//! What the resources mean together: services, workloads, endpoints, and which rule or policy counts for whom.
//!
//! Promise: a [`Snapshot`] is immutable and cheap to clone; the same objects in the same order give the same snapshot.
//! Precedence is Istio's. This crate knows nothing of files, Kubernetes' API or Envoy.

mod credential;
mod delegate;
mod discovery;
mod entry;
mod model;
mod policy;
mod settings;
mod slices;
mod snapshot;
mod telemetry;
mod workload;

pub use credential::Credentials;
pub use model::{Distribution, Endpoint, HOSTNAME, Protocol, Resolution, Service, ServicePort};
pub use policy::{Authorization, MergedDestinationRule, MtlsMode};
pub use settings::proxy_settings;
pub use snapshot::{Changes, KeySets, Snapshot};
pub use telemetry::{Side, TracingRules};
pub use workload::{Identity, Workload};
