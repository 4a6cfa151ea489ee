//! What one stream asked for of one type, and what it was sent. Pure: requests in, decisions out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::names::Lists;
use crate::server::{Answer, Resource, Wanted};
use crate::status::TypeStatus;

/// Names of one subscription; more are a mistake or an attack.
const MAX_NAMES: usize = 100_000;

/// What one stream asked for of one type.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    wildcard: bool,
    /// Sorted, each once.
    names: Arc<[String]>,
    /// Other names are wanted than those that the last answer was about.
    renamed: bool,
    /// What the stream has: the last answer, which it shares with others, and what of single names is otherwise.
    has: Answer,
    apart: HashMap<String, Apart>,
    pub(crate) status: TypeStatus,
    in_flight: bool,
    /// Something changed while an answer was in flight.
    dirty: bool,
}

/// What a stream has of a name about which its last answer does not say it.
#[derive(Debug, PartialEq)]
enum Apart {
    /// Nothing: it does not want it any more, or wants it again.
    Nothing,
    /// The word that there is none.
    Absent,
    /// This version, as it said when it came.
    Version(String),
}

/// What goes out.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) changed: Vec<Arc<Resource>>,
    pub(crate) removed: Vec<String>,
}

impl Subscription {
    /// The first request of a type without names means all of them, for types that have a wildcard.
    pub(crate) fn open(wildcard: bool, initial: HashMap<String, String>) -> Self {
        let apart = initial.into_iter().map(|(name, version)| (name, Apart::Version(version))).collect();
        Self { wildcard, apart, ..Self::default() }
    }

    /// Adds and takes away names; `true` when something was added.
    pub(crate) fn change(&mut self, add: Vec<String>, remove: &[String]) -> bool {
        let mut added = false;
        let mut names = NewNames { known: &self.names, more: BTreeSet::new() };
        for name in add {
            if name == "*" {
                added |= !std::mem::replace(&mut self.wildcard, true);
            } else if names.len() < MAX_NAMES {
                // Asking again for a known name asks for its content again.
                if self.has.is_empty() && !names.contains(&name) {
                    self.apart.remove(&name);
                } else {
                    self.apart.insert(name.clone(), Apart::Nothing);
                }
                names.insert(name);
                added = true;
            }
        }
        for name in remove {
            if name == "*" {
                self.wildcard = false;
            }
            if self.wildcard || names.contains(name) {
                self.apart.insert(name.clone(), Apart::Nothing);
            }
        }
        if added || !remove.is_empty() {
            self.names = names.without(remove);
            self.renamed = true;
        }
        added
    }

    /// Replaces all names (state of the world); `true` when they differ.
    pub(crate) fn replace(&mut self, names: Vec<String>) -> bool {
        let names: BTreeSet<String> = names.into_iter().take(MAX_NAMES).collect();
        let differs = !names.iter().eq(self.names.iter());
        if differs {
            self.names = names.into_iter().collect();
            self.renamed = true;
        }
        differs
    }

    /// Takes the list of names that others have, when it is the same.
    pub(crate) fn share(&mut self, lists: &Lists) {
        self.names = lists.shared(self.names.clone());
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
        if self.wildcard { Wanted::All } else { Wanted::Names(self.names.clone()) }
    }

    /// What the stream does not have of `now`, and what it has too much; it has all of it afterwards.
    pub(crate) fn difference(&mut self, now: &Answer) -> Difference {
        let difference = self.of_the_same_names(now).unwrap_or_else(|| self.of_any(now));
        self.has = now.clone();
        difference
    }

    /// The difference to an answer about the same names, which is nearly every one: nothing is looked up.
    fn of_the_same_names(&self, now: &Answer) -> Option<Difference> {
        if self.renamed || self.has.len() != now.len() || self.apart.values().any(|apart| *apart != Apart::Absent) {
            return None;
        }
        let mut changed = Vec::new();
        for (former, resource) in self.has.iter().zip(now.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)) {
            if former.name != resource.name {
                return None;
            }
            if former.version != resource.version {
                changed.push(resource.clone());
            }
        }
        Some(Difference { changed, removed: Vec::new() })
    }

    fn of_any(&mut self, now: &Answer) -> Difference {
        let present: HashSet<&str> = now.iter().map(|r| r.name.as_str()).collect();
        let last: HashMap<&str, &str> = self.has.iter().map(|r| (r.name.as_str(), r.version.as_str())).collect();
        let version = |name: &str| match self.apart.get(name) {
            Some(Apart::Version(version)) => Some(version.as_str()),
            Some(Apart::Nothing | Apart::Absent) => None,
            None => last.get(name).copied(),
        };
        let had =
            last.keys().copied().chain(self.apart.keys().map(String::as_str)).filter(|name| version(name).is_some());
        // That there is none is told once.
        let told = |name: &str| self.apart.get(name) == Some(&Apart::Absent);
        let asked = self.names.iter().map(String::as_str).filter(|name| version(name).is_none() && !told(name));
        let gone: BTreeSet<String> = had.chain(asked).filter(|n| !present.contains(n)).map(str::to_owned).collect();
        let changed = now.iter().filter(|r| version(&r.name) != Some(&r.version)).cloned().collect();
        self.apart.retain(|name, apart| *apart == Apart::Absent && !present.contains(name.as_str()));
        let absent = gone.iter().filter(|name| contains(&self.names, name));
        self.apart.extend(absent.map(|name| (name.clone(), Apart::Absent)));
        self.renamed = false;
        Difference { changed, removed: gone.into_iter().collect() }
    }

    /// A resource has to be sent again, though it has not changed.
    pub(crate) fn forget(&mut self, name: &str) {
        if self.wildcard || contains(&self.names, name) {
            self.apart.insert(name.to_owned(), Apart::Nothing);
        }
    }

    /// Notes that an answer went out.
    pub(crate) fn sent(&mut self, nonce: String) {
        self.status.sent = nonce;
        self.status.sent_at = Some(SystemTime::now());
        self.in_flight = true;
    }
}

/// Whether a sorted list has a name.
fn contains(sorted: &[String], name: &str) -> bool {
    sorted.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
}

/// A list of names, and those that come to it.
struct NewNames<'a> {
    known: &'a [String],
    more: BTreeSet<String>,
}

impl NewNames<'_> {
    fn len(&self) -> usize {
        self.known.len() + self.more.len()
    }

    fn contains(&self, name: &str) -> bool {
        contains(self.known, name) || self.more.contains(name)
    }

    fn insert(&mut self, name: String) {
        if !contains(self.known, &name) {
            self.more.insert(name);
        }
    }

    /// All but some.
    fn without(self, remove: &[String]) -> Arc<[String]> {
        let remove: HashSet<&String> = remove.iter().collect();
        let all = self.known.iter().cloned().chain(self.more);
        let mut all: Vec<String> = all.filter(|name| !remove.contains(name)).collect();
        all.sort_unstable();
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, version: &str) -> Arc<Resource> {
        Arc::new(Resource { name: name.to_owned(), version: version.to_owned(), body: envoy_api::Any::default() })
    }

    fn names(difference: &Difference) -> (Vec<&str>, &[String]) {
        (difference.changed.iter().map(|r| r.name.as_str()).collect(), &difference.removed)
    }

    #[test]
    fn only_what_changed_goes_out() {
        let mut all = Subscription::open(true, HashMap::new());
        assert_eq!(names(&all.difference(&[resource("a", "1"), resource("b", "1")].into())).0, ["a", "b"]);
        assert_eq!(names(&all.difference(&[resource("a", "1"), resource("b", "2")].into())).0, ["b"]);
        let gone = all.difference(&[resource("a", "1")].into());
        assert_eq!(names(&gone), (vec![], &["b".to_owned()][..]));
        assert!(all.difference(&[resource("a", "1")].into()).removed.is_empty());
    }

    #[test]
    fn what_does_not_exist_is_said_once() {
        let mut some = Subscription::open(false, HashMap::new());
        some.change(vec!["a".to_owned(), "b".to_owned()], &[]);
        assert_eq!(names(&some.difference(&[resource("a", "1")].into())), (vec!["a"], &["b".to_owned()][..]));
        assert_eq!(names(&some.difference(&[resource("a", "1")].into())), (vec![], &[][..]));
        assert_eq!(names(&some.difference(&[resource("a", "1"), resource("b", "1")].into())).0, ["b"]);
    }

    #[test]
    fn a_client_that_comes_back_is_not_sent_what_it_has() {
        let mut all = Subscription::open(
            true,
            HashMap::from([("a".to_owned(), "1".to_owned()), ("old".to_owned(), "1".to_owned())]),
        );
        let difference = all.difference(&[resource("a", "1"), resource("b", "1")].into());
        assert_eq!(names(&difference), (vec!["b"], &["old".to_owned()][..]));
    }

    #[test]
    fn what_is_forgotten_goes_out_again() {
        let mut some = Subscription::open(false, HashMap::new());
        some.change(vec!["a".to_owned(), "b".to_owned()], &[]);
        some.difference(&[resource("a", "1"), resource("b", "1")].into());
        some.forget("a");
        some.forget("never asked for");
        assert_eq!(names(&some.difference(&[resource("a", "1"), resource("b", "1")].into())), (vec!["a"], &[][..]));
    }

    /// What was sent by name, as the difference is defined; an empty version: told that there is none.
    #[derive(Default)]
    struct Plain {
        names: BTreeSet<String>,
        sent: HashMap<String, String>,
    }

    impl Plain {
        fn difference(&mut self, now: &Answer) -> (Vec<String>, Vec<String>) {
            let present: BTreeSet<&str> = now.iter().map(|r| r.name.as_str()).collect();
            let had = self.sent.iter().filter(|(_, v)| !v.is_empty()).map(|(name, _)| name);
            let asked = self.names.iter().filter(|name| !self.sent.contains_key(*name));
            let gone: BTreeSet<String> = had.chain(asked).filter(|n| !present.contains(n.as_str())).cloned().collect();
            let changed: Vec<&Arc<Resource>> =
                now.iter().filter(|r| self.sent.get(&r.name) != Some(&r.version)).collect();
            let names = changed.iter().map(|r| r.name.clone()).collect();
            for name in &gone {
                if self.names.contains(name) {
                    self.sent.insert(name.clone(), String::new());
                } else {
                    self.sent.remove(name);
                }
            }
            self.sent.extend(changed.iter().map(|r| (r.name.clone(), r.version.clone())));
            (names, gone.into_iter().collect())
        }
    }

    #[test]
    fn what_is_shared_with_others_is_as_good_as_a_list_of_ones_own() {
        let mut seed = 7_u64;
        let mut any = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..200 {
            let initial: HashMap<String, String> = (0..any(3)).map(|n| (format!("r{n}"), any(3).to_string())).collect();
            let wildcard = round % 2 == 0;
            let mut tested = Subscription::open(wildcard, initial.clone());
            let mut plain = Plain { sent: initial, ..Plain::default() };
            let mut world: Vec<Arc<Resource>> = Vec::new();
            for _ in 0..60 {
                let name = format!("r{}", any(6));
                match any(6) {
                    0 => {
                        tested.change(vec![name.clone()], &[]);
                        plain.sent.remove(&name);
                        plain.names.insert(name);
                    }
                    1 if plain.names.contains(&name) => {
                        tested.change(Vec::new(), std::slice::from_ref(&name));
                        plain.sent.remove(&name);
                        plain.names.remove(&name);
                    }
                    2 => world.retain(|r| r.name != name),
                    3 if plain.names.contains(&name) || wildcard => {
                        tested.forget(&name);
                        plain.sent.remove(&name);
                    }
                    _ => {
                        let now = resource(&name, &any(3).to_string());
                        match world.iter_mut().find(|r| r.name == name) {
                            Some(place) => *place = now,
                            None => world.push(now),
                        }
                    }
                }
                let seen = world.iter().filter(|r| wildcard || plain.names.contains(&r.name)).cloned();
                let now: Answer = seen.collect();
                let difference = tested.difference(&now);
                let (changed, removed) = plain.difference(&now);
                let (names, gone) = names(&difference);
                assert_eq!((names, gone), (changed.iter().map(String::as_str).collect(), &removed[..]));
            }
        }
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
