//! What one stream asked for of one type, and what it was sent. Pure: requests in, decisions out.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use crate::server::{Resource, Wanted};
use crate::status::TypeStatus;

/// Names of one subscription; more are a mistake or an attack.
const MAX_NAMES: usize = 100_000;

/// What one stream asked for of one type.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Versions the stream has, by name.
    sent: HashMap<String, String>,
    pub(crate) status: TypeStatus,
    in_flight: bool,
    /// Something changed while an answer was in flight.
    dirty: bool,
}

/// What goes out.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) changed: Vec<Resource>,
    pub(crate) removed: Vec<String>,
}

impl Subscription {
    /// The first request of a type without names means all of them, for types that have a wildcard.
    pub(crate) fn open(wildcard: bool, initial: HashMap<String, String>) -> Self {
        Self { wildcard, sent: initial, ..Self::default() }
    }

    /// Adds and takes away names; `true` when something was added.
    pub(crate) fn change(&mut self, add: Vec<String>, remove: &[String]) -> bool {
        let mut added = false;
        for name in add {
            if name == "*" {
                added |= !std::mem::replace(&mut self.wildcard, true);
            } else if self.names.len() < MAX_NAMES {
                // Asking again for a known name asks for its content again.
                self.sent.remove(&name);
                self.names.insert(name);
                added = true;
            }
        }
        for name in remove {
            if name == "*" {
                self.wildcard = false;
            }
            self.names.remove(name);
            self.sent.remove(name);
        }
        added
    }

    /// Replaces all names (state of the world); `true` when they differ.
    pub(crate) fn replace(&mut self, names: Vec<String>) -> bool {
        let names: BTreeSet<String> = names.into_iter().take(MAX_NAMES).collect();
        let differs = names != self.names;
        self.names = names;
        differs
    }

    /// Notes an acknowledgement or refusal; `true` when a waiting change can go out now. A stale nonce changes nothing.
    pub(crate) fn acknowledge(&mut self, nonce: &str, error: Option<String>) -> bool {
        if nonce.is_empty() || nonce != self.status.sent {
            return false;
        }
        self.in_flight = false;
        match error {
            Some(reason) => self.status.error = Some(reason),
            None => {
                self.status.acked = nonce.to_owned();
                self.status.error = None;
            }
        }
        std::mem::take(&mut self.dirty)
    }

    /// Whether a change may go out; when an answer is in flight it is remembered instead.
    pub(crate) fn may_send(&mut self) -> bool {
        if self.in_flight {
            self.dirty = true;
        }
        !self.in_flight
    }

    pub(crate) fn wanted(&self) -> Wanted {
        if self.wildcard { Wanted::All } else { Wanted::Names(self.names.iter().cloned().collect()) }
    }

    /// What the stream does not have of `now`, and what it has too much.
    pub(crate) fn difference(&mut self, now: Vec<Resource>) -> Difference {
        let present: BTreeSet<&str> = now.iter().map(|r| r.name.as_str()).collect();
        // An empty version stands for "told that there is none", so that it is told once.
        let had = self.sent.iter().filter(|(_, version)| !version.is_empty()).map(|(name, _)| name);
        let asked = self.names.iter().filter(|name| !self.sent.contains_key(*name));
        let gone: BTreeSet<String> = had.chain(asked).filter(|n| !present.contains(n.as_str())).cloned().collect();
        let removed: Vec<String> = gone.into_iter().collect();
        let changed: Vec<Resource> = now.into_iter().filter(|r| self.sent.get(&r.name) != Some(&r.version)).collect();
        for name in &removed {
            if self.names.contains(name) {
                self.sent.insert(name.clone(), String::new());
            } else {
                self.sent.remove(name);
            }
        }
        self.sent.extend(changed.iter().map(|r| (r.name.clone(), r.version.clone())));
        Difference { changed, removed }
    }

    /// A resource has to be sent again, though it has not changed.
    pub(crate) fn forget(&mut self, name: &str) {
        self.sent.remove(name);
    }

    /// Notes that an answer went out.
    pub(crate) fn sent(&mut self, nonce: String) {
        self.status.sent = nonce;
        self.status.sent_at = Some(SystemTime::now());
        self.in_flight = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, version: &str) -> Resource {
        Resource { name: name.to_owned(), version: version.to_owned(), body: envoy_api::Any::default() }
    }

    fn names(difference: &Difference) -> (Vec<&str>, &[String]) {
        (difference.changed.iter().map(|r| r.name.as_str()).collect(), &difference.removed)
    }

    #[test]
    fn only_what_changed_goes_out() {
        let mut all = Subscription::open(true, HashMap::new());
        assert_eq!(names(&all.difference(vec![resource("a", "1"), resource("b", "1")])).0, ["a", "b"]);
        assert_eq!(names(&all.difference(vec![resource("a", "1"), resource("b", "2")])).0, ["b"]);
        let gone = all.difference(vec![resource("a", "1")]);
        assert_eq!(names(&gone), (vec![], &["b".to_owned()][..]));
        assert!(all.difference(vec![resource("a", "1")]).removed.is_empty());
    }

    #[test]
    fn what_does_not_exist_is_said_once() {
        let mut some = Subscription::open(false, HashMap::new());
        some.change(vec!["a".to_owned(), "b".to_owned()], &[]);
        assert_eq!(names(&some.difference(vec![resource("a", "1")])), (vec!["a"], &["b".to_owned()][..]));
        assert_eq!(names(&some.difference(vec![resource("a", "1")])), (vec![], &[][..]));
        assert_eq!(names(&some.difference(vec![resource("a", "1"), resource("b", "1")])).0, ["b"]);
    }

    #[test]
    fn a_client_that_comes_back_is_not_sent_what_it_has() {
        let mut all = Subscription::open(
            true,
            HashMap::from([("a".to_owned(), "1".to_owned()), ("old".to_owned(), "1".to_owned())]),
        );
        let difference = all.difference(vec![resource("a", "1"), resource("b", "1")]);
        assert_eq!(names(&difference), (vec!["b"], &["old".to_owned()][..]));
    }

    #[test]
    fn what_is_forgotten_goes_out_again() {
        let mut some = Subscription::open(false, HashMap::new());
        some.change(vec!["a".to_owned(), "b".to_owned()], &[]);
        some.difference(vec![resource("a", "1"), resource("b", "1")]);
        some.forget("a");
        some.forget("never asked for");
        assert_eq!(names(&some.difference(vec![resource("a", "1"), resource("b", "1")])), (vec!["a"], &[][..]));
    }

    #[test]
    fn refusals_are_kept_and_stale_nonces_ignored() {
        let mut all = Subscription::open(true, HashMap::new());
        all.sent("n1".to_owned());
        assert_eq!(all.status.word(), "STALE");
        assert!(!all.may_send(), "one answer is in flight");
        assert!(!all.acknowledge("n0", None));
        assert!(all.acknowledge("n1", Some("bad listener".to_owned())), "a change was waiting");
        assert_eq!(all.status.word(), "ERROR");
        all.sent("n2".to_owned());
        all.acknowledge("n2", None);
        assert_eq!(all.status.word(), "SYNCED");
    }
}
