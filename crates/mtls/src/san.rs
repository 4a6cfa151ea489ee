//! Which names a peer may have.

use regex::Regex;

/// One accepted subject alternative name.
#[derive(Clone, Debug)]
pub enum SanMatch {
    /// The whole name.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// Any part of it.
    Contains(String),
    /// The whole name matches (RE2 syntax).
    Regex(Regex),
    /// A name of one kind alone.
    Of(SanKind, Box<SanMatch>),
}

/// Kinds of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanKind {
    /// A URI.
    Uri,
    /// A DNS name.
    Dns,
}

impl SanMatch {
    /// Whether a name of this kind is accepted.
    pub fn is_match(&self, kind: SanKind, name: &str) -> bool {
        match self {
            Self::Of(wanted, inner) => *wanted == kind && inner.is_match(kind, name),
            Self::Exact(wanted) => name == wanted,
            Self::Prefix(wanted) => name.starts_with(wanted.as_str()),
            Self::Suffix(wanted) => name.ends_with(wanted.as_str()),
            Self::Contains(wanted) => name.contains(wanted.as_str()),
            Self::Regex(wanted) => wanted.find(name).is_some_and(|m| m.start() == 0 && m.end() == name.len()),
        }
    }
}

impl std::fmt::Display for SanMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(wanted) => f.write_str(wanted),
            Self::Prefix(wanted) => write!(f, "{wanted}*"),
            Self::Suffix(wanted) => write!(f, "*{wanted}"),
            Self::Contains(wanted) => write!(f, "*{wanted}*"),
            Self::Regex(wanted) => write!(f, "/{wanted}/"),
            Self::Of(kind, wanted) => write!(f, "{kind:?}:{wanted}"),
        }
    }
}
