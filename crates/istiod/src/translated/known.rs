//! Resources that are in use, so that equal ones are one, in answers that are one where they are equal.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};

use pilot::Part;
use xds::{Answer, Resource};

/// All that somebody has still.
#[derive(Default)]
pub(super) struct Known {
    hasher: RandomState,
    all: HashMap<u64, Weak<Resource>>,
    /// Answers of two parts, by the places of their resources.
    joined: HashMap<u64, Weak<[Arc<Resource>]>>,
}

impl Known {
    /// The answer with known resources in the places of equal ones; what the former answer has in its place is known.
    pub(super) fn share(&mut self, part: Part, answer: Answer, former: &Answer) -> Answer {
        let mut other: Vec<(usize, Arc<Resource>)> = Vec::new();
        for (index, resource) in answer.iter().enumerate() {
            if former.get(index).is_some_and(|f| Arc::ptr_eq(f, resource)) {
                continue;
            }
            let key = self.hasher.hash_one((part, &resource.name, &resource.version));
            match self.all.get(&key).and_then(Weak::upgrade) {
                Some(known) if Arc::ptr_eq(&known, resource) => {}
                Some(known) if *known == **resource => other.push((index, known)),
                _ => drop(self.all.insert(key, Arc::downgrade(resource))),
            }
        }
        if other.is_empty() {
            return answer;
        }
        let mut all = answer.to_vec();
        for (index, known) in other {
            if let Some(place) = all.get_mut(index) {
                *place = known;
            }
        }
        all.into()
    }

    /// Two answers as one; the very same for the same resources.
    pub(super) fn joined(&mut self, one: &Answer, two: &Answer) -> Answer {
        let all = || one.iter().chain(two.iter());
        let key = self.hasher.hash_one(all().map(Arc::as_ptr).collect::<Vec<_>>());
        if let Some(known) = self.joined.get(&key).and_then(Weak::upgrade)
            && known.len() == one.len() + two.len()
            && known.iter().zip(all()).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return known;
        }
        let made: Answer = all().cloned().collect();
        self.joined.insert(key, Arc::downgrade(&made));
        made
    }

    /// Forgets what nobody has any more.
    pub(super) fn forget_unused(&mut self) {
        self.all.retain(|_, resource| resource.strong_count() > 0);
        self.joined.retain(|_, answer| answer.strong_count() > 0);
    }
}
