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

/// Name of every analyzer that is built, with what it looks for.
pub fn analyzers() -> impl Iterator<Item = (&'static str, &'static str)> {
    analyzers::ALL.iter().map(|a| (a.name, a.about))
}

/// All findings, gravest first; with a namespace only those about it, mesh-wide ones and unreadable files.
pub fn analyze(input: &Input, namespace: Option<&str>) -> Vec<Message> {
    let mut found = input.unreadable.clone();
    let world = world::World::new(input);
    for analyzer in analyzers::ALL {
        found.extend((analyzer.run)(&world));
    }
    // What cannot be read is not in force; what else could be said about it would be guesswork.
    let unread: BTreeSet<String> =
        found.iter().filter(|m| m.code == codes::SCHEMA_VALIDATION_ERROR).map(|m| m.resource.clone()).collect();
    found.retain(|m| m.code == codes::SCHEMA_VALIDATION_ERROR || !unread.contains(&m.resource));
    if let Some(namespace) = namespace {
        found.retain(|m| m.namespace.is_empty() || m.namespace == namespace || m.namespace == world.root);
    }
    found.sort_by(|a, b| {
        b.code
            .level
            .cmp(&a.code.level)
            .then_with(|| a.code.code.cmp(b.code.code))
            .then_with(|| a.resource.cmp(&b.resource))
    });
    found.dedup();
    found
}

/// The findings of one analyzer, by its name; `None` when it is not built.
pub fn analyze_with(input: &Input, analyzer: &str) -> Option<Vec<Message>> {
    let analyzer = analyzers::ALL.iter().find(|a| a.name == analyzer)?;
    Some((analyzer.run)(&world::World::new(input)))
}
