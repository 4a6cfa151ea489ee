//! Where resources come from: directories of YAML.
//!
//! Promise: a bad edit never takes away what was good before: a file that cannot be read keeps its last good content in
//! force, and the mistake is reported with file, line, column and reason. This crate knows nothing of what resources do.

mod directory;
mod file;
mod watch;

pub use directory::{Directory, Loaded, Problem};
pub use watch::watch;
