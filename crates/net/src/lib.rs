//! What std lacks: original destinations, socket options, splice, network namespaces, pages of the program.
//!
//! The only crate of the workspace that holds `unsafe`; each block says why it is sound. It knows nothing of meshes.

pub mod netns;
mod original;
mod pipe;
mod program;
mod socket;
mod splice;

pub use original::original_dst;
pub use pipe::{Pipe, peek};
pub use program::release_program;
pub use socket::{ListenOptions, connect_socket, listen, set_keepalive};
pub use splice::{Copied, CopyEnd, Moved, copy_bidirectional, copy_counted};
