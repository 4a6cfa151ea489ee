//! Changes to headers that configuration asks for.

use http::HeaderMap;
use http::header::{Entry, HeaderName, HeaderValue};

/// What happens when the header is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// One more value.
    Add,
    /// Nothing.
    IfAbsent,
    /// It replaces the others.
    Overwrite,
    /// It replaces the others; when there are none, nothing.
    OverwriteIfPresent,
}

/// One header to set.
#[derive(Clone, Debug)]
pub struct SetHeader {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What happens when it is already there.
    pub append: Append,
}

/// Headers to remove, then headers to set.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutation {
    /// Removed first.
    pub remove: Vec<HeaderName>,
    /// Then set, in order.
    pub set: Vec<SetHeader>,
}

impl HeaderMutation {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// Does what is asked.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for change in &self.set {
            let (name, value) = (change.name.clone(), change.value.clone());
            match change.append {
                Append::Add => {
                    headers.append(name, value);
                }
                Append::Overwrite => {
                    headers.insert(name, value);
                }
                Append::IfAbsent => {
                    headers.entry(name).or_insert(value);
                }
                Append::OverwriteIfPresent => {
                    if let Entry::Occupied(mut entry) = headers.entry(name) {
                        entry.insert(value);
                    }
                }
            }
        }
    }
}
