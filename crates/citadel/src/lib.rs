//! Who is who: the certificate authority, the tokens by which a workload proves itself, and the service that signs.
//!
//! Promise: a certificate is signed for the identity its caller has proved, and for no other; keys on disk are readable
//! by their owner only. This crate knows nothing of configuration or proxies.

mod authority;
mod renewal;
mod roots;
mod service;
mod token;

pub use authority::{Authority, AuthorityError, Issued, write_file};
pub use renewal::Renewal;
pub use roots::{contains, union};
pub use service::{CsrService, Judged, Limits, PeerCertificate, caller};
pub use token::{TokenError, Tokens};
