//! Where a host listens.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// An address of the network, or a socket of this machine's file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Address and port.
    Ip(SocketAddr),
    /// The path of a Unix socket; one that begins with `@` is an abstract name.
    Pipe(Arc<str>),
}

impl Address {
    /// Address and port, of one that has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(at) => Some(*at),
            Self::Pipe(_) => None,
        }
    }

    /// The path, of one that has one.
    pub fn pipe(&self) -> Option<&str> {
        match self {
            Self::Ip(_) => None,
            Self::Pipe(path) => Some(path),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(at: SocketAddr) -> Self {
        Self::Ip(at)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(at) => at.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}
