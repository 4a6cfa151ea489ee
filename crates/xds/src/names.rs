//! Lists of names that streams ask for: replicas ask for the same, and share one list.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Lists that somebody has.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    hasher: RandomState,
    known: Mutex<HashMap<u64, Weak<[String]>>>,
}

impl Lists {
    /// The list that others have, when it is equal.
    pub(crate) fn shared(&self, list: Arc<[String]>) -> Arc<[String]> {
        let key = self.hasher.hash_one(&list);
        let mut known = self.known.lock();
        match known.get(&key).and_then(Weak::upgrade) {
            Some(other) if other == list => other,
            _ => {
                known.retain(|_, list| list.strong_count() > 0);
                known.insert(key, Arc::downgrade(&list));
                list
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_one_as_long_as_somebody_has_them() {
        let lists = Lists::default();
        let list = |names: &[&str]| -> Arc<[String]> { names.iter().map(|name| (*name).to_owned()).collect() };
        let one = lists.shared(list(&["a", "b"]));
        assert!(Arc::ptr_eq(&one, &lists.shared(list(&["a", "b"]))));
        let other = lists.shared(list(&["a"]));
        assert_eq!(*other, ["a".to_owned()]);
        drop(one);
        lists.shared(list(&["c"]));
        assert_eq!(lists.known.lock().len(), 2, "what nobody has is forgotten");
    }
}
