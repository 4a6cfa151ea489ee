//! What is wrong with a mesh's configuration, beyond what a single field can tell.
//!
//! Promise: codes, names and levels are Istio's; each finding names the object, its file and line, and says in plain
//! words what to do. This crate knows objects as users wrote them; it knows no Envoy and reads no files.

mod analyzers;
mod input;
mod message;
mod world;

use std::collections::BTreeSet;

pub use input::Input;
pub use message::{Code, Level, Message, codes};

/// Name of every analyzer, with what it looks for.
pub fn analyzers() -> impl Iterator<Item = (&'static str, &'static str)> {
    analyzers::ALL.iter().chain(analyzers::ON_DEMAND).map(|a| (a.name, a.about))
}

/// What is looked at and reported.
#[derive(Debug, Clone, Default)]
pub struct Scope<'a> {
    /// Only findings about this namespace, mesh-wide ones and unreadable files.
    pub namespace: Option<&'a str>,
    /// Only these analyzers; empty: all that run by default.
    pub analyzers: &'a [String],
    /// Findings that are known and meant.
    pub suppressed: &'a [Suppression],
}

/// A finding that is not reported: a code about one object, or several by `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    code: String,
    kind: String,
    /// `NAME.NAMESPACE`, or `NAME` of an object without namespace.
    name: String,
}

impl Suppression {
    /// Reads `CODE=KIND NAME.NAMESPACE`.
    ///
    /// # Errors
    /// When it has another form, or the code does not exist.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted =
            || format!("\"{text}\" is no suppression; write CODE=KIND NAME.NAMESPACE, such as IST0103=Pod *.testing");
        let (code, rest) = text.split_once('=').ok_or_else(wanted)?;
        let (kind, name) = rest.split_once(' ').ok_or_else(wanted)?;
        if !message::codes::ALL.iter().any(|c| c.code == code) {
            return Err(format!("there is no message {code}"));
        }
        Ok(Self { code: code.to_owned(), kind: kind.to_owned(), name: name.to_owned() })
    }

    fn covers(&self, message: &Message) -> bool {
        let (kind, name) = message.resource.split_once(' ').unwrap_or((&message.resource, ""));
        let name = match name.split_once('/') {
            Some((namespace, name)) => format!("{name}.{namespace}"),
            None => name.to_owned(),
        };
        self.code == message.code.code && self.kind == kind && glob(&self.name, &name)
    }
}

/// Whether a name fits a pattern in which `*` is any run of characters.
fn glob(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(end)
}

/// All findings, gravest first.
///
/// # Errors
/// The name of an analyzer that does not exist.
pub fn analyze_scope(input: &Input, scope: &Scope<'_>) -> Result<Vec<Message>, String> {
    let mut found = input.unreadable.clone();
    let world = world::World::new(input);
    if scope.analyzers.is_empty() {
        found.extend(analyzers::ALL.iter().flat_map(|a| (a.run)(&world)));
    }
    for name in scope.analyzers {
        let analyzer = analyzers::find(name)
            .ok_or_else(|| format!("there is no analyzer \"{name}\"; istioctl analyze -L lists them"))?;
        found.extend((analyzer.run)(&world));
    }
    // What cannot be read is not in force; what else could be said about it would be guesswork.
    let unread: BTreeSet<String> =
        found.iter().filter(|m| m.code == codes::SCHEMA_VALIDATION_ERROR).map(|m| m.resource.clone()).collect();
    found.retain(|m| m.code == codes::SCHEMA_VALIDATION_ERROR || !unread.contains(&m.resource));
    if let Some(namespace) = scope.namespace {
        found.retain(|m| m.namespace.is_empty() || m.namespace == namespace || m.namespace == world.root);
    }
    found.retain(|m| !scope.suppressed.iter().any(|s| s.covers(m)) && !world.accepted(m));
    found.sort_by(|a, b| {
        b.code
            .level
            .cmp(&a.code.level)
            .then_with(|| a.code.code.cmp(b.code.code))
            .then_with(|| a.resource.cmp(&b.resource))
    });
    found.dedup();
    Ok(found)
}

/// All findings of all analyzers, gravest first; with a namespace only those about it, mesh-wide ones and unreadable
/// files.
pub fn analyze(input: &Input, namespace: Option<&str>) -> Vec<Message> {
    // Without a named analyzer there is none that could be missing.
    analyze_scope(input, &Scope { namespace, ..Scope::default() }).unwrap_or_default()
}

/// The findings of one analyzer, by its name; `None` when there is none of that name.
pub fn analyze_with(input: &Input, analyzer: &str) -> Option<Vec<Message>> {
    let analyzer = analyzers::find(analyzer)?;
    Some((analyzer.run)(&world::World::new(input)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppressions_cover_what_they_name() {
        for (pattern, name, fits) in [
            ("a.b", "a.b", true),
            ("*.b", "x.b", true),
            ("a*c*e", "abcde", true),
            ("a*", "b", false),
            ("*.b", "a.c", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
        assert!(Suppression::parse("IST0103=Pod *.testing").is_ok());
        assert!(Suppression::parse("IST9999=Pod *.testing").is_err_and(|e| e.contains("IST9999")));
        assert!(Suppression::parse("IST0103").is_err());
    }
}
