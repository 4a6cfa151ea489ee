//! JSON Web Tokens as Envoy's `jwt_authn` filter has them: where a token stands in a request, whether its signature,
//! issuer, audience and times hold, and which providers a request must satisfy.
//!
//! Promise: no I/O and no clock of its own; keys are parsed beforehand; a request is looked at, and what must change in
//! it is given back. This crate knows nothing of xDS and nothing of connections.

mod keys;
mod location;
mod provider;
mod requirement;

pub use keys::KeySet;
pub use location::Location;
pub use provider::{ClaimHeader, Provider, TokenError};
pub use requirement::{Changes, Parts, Policy, Requirement};

#[cfg(test)]
mod tests;
