//! Pure decisions: which strings, headers and addresses match, which route a request takes, what a policy says.
//!
//! Promise: no I/O, no async, no clock, no allocation on the matching path; everything is compiled beforehand. The same
//! code decides in the proxy, in the commands and in tests. This crate knows nothing of xDS or Kubernetes.

pub mod chain;
pub mod claims;
pub mod framing;
pub mod headers;
pub mod matching;
pub mod path;
pub mod rbac;
pub mod route;
pub mod table;

/// The parts of a request that decisions look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// `:authority`, port included when the client sent one.
    pub authority: &'a str,
    /// `:path` with query.
    pub path: &'a str,
    /// `:method`
    pub method: &'a str,
    /// `:scheme`
    pub scheme: &'a str,
    /// The other headers.
    pub headers: &'a http::HeaderMap,
}

impl<'a> RequestView<'a> {
    /// The path without query and fragment.
    pub fn path_only(&self) -> &'a str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }

    /// The query string, without `?`.
    pub fn query(&self) -> &'a str {
        self.path.split_once('?').map_or("", |(_, q)| q.split('#').next().unwrap_or_default())
    }
}
