//! What was translated from the snapshot in force: replicas of a workload are sent the same, and ask for it at the same
//! time.

use std::collections::HashMap;
use std::sync::Arc;

use mesh::Snapshot;
use parking_lot::Mutex;
use pilot::Outlook;
use xds::{Resource, Wanted};

/// Resources that are kept at most; they are some hundred bytes each, beside the messages that all share.
const MOST: usize = 50_000;

/// A bare type name, what is wanted of it, and who wants it.
type Question = (String, Wanted, Outlook);

/// Translations of one snapshot.
#[derive(Default)]
pub(crate) struct Translated(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    of: Snapshot,
    made: HashMap<Question, Arc<[Resource]>>,
    /// Resources in all of them.
    count: usize,
}

impl Translated {
    /// What was answered before, or what `make` makes now.
    pub(crate) fn answer(
        &self,
        snapshot: &Snapshot,
        question: Question,
        make: impl FnOnce() -> Vec<Resource>,
    ) -> Vec<Resource> {
        if let Some(known) = self.0.lock().of(snapshot).made.get(&question).cloned() {
            return known.to_vec();
        }
        let made = make();
        let mut answers = self.0.lock();
        let answers = answers.of(snapshot);
        if answers.count + made.len() <= MOST {
            answers.count += made.len();
            answers.made.insert(question, made.as_slice().into());
        }
        made
    }

    /// Nothing of a former snapshot is asked for any more.
    pub(crate) fn forget(&self) {
        *self.0.lock() = Answers::default();
    }
}

impl Answers {
    /// Those of a snapshot; of any other one is forgotten.
    fn of(&mut self, snapshot: &Snapshot) -> &mut Self {
        if !self.of.is_same(snapshot) {
            *self = Self { of: snapshot.clone(), ..Self::default() };
        }
        self
    }
}
