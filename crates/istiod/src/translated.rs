//! What was translated for the proxies that are connected. Those of one outlook are sent the same, and ask for it at the
//! same time; of a change only what it touches is translated again, and what is equal is kept once for all.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh::{Changes, Snapshot};
use parking_lot::Mutex;
use pilot::{Outlook, Part, Proxy, Touched, touched};
use xds::{Answer, Resource, Wanted};

use known::Known;

/// Places of resources that are kept at most: a pointer each, beside the resources, which answers share.
const MOST: usize = 2_000_000;
/// Changes whose sum is known: what was translated before them is translated anew as a whole.
const REMEMBERED: u64 = 32;

/// What is wanted, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    part: Part,
    wanted: Wanted,
    asking: Asking,
}

/// For whom a part is translated: it is given nothing else.
#[derive(Clone, Debug, Eq)]
enum Asking {
    /// One proxy.
    Itself(Arc<Proxy>),
    /// All proxies of an outlook.
    Alike(Box<Outlook>),
}

impl Asking {
    fn of(snapshot: &Snapshot, proxy: &Arc<Proxy>, part: Part) -> Self {
        let outlook = Outlook::of(snapshot, proxy, part);
        outlook.map_or_else(|| Self::Itself(proxy.clone()), |outlook| Self::Alike(Box::new(outlook)))
    }

    fn proxy(&self) -> &Proxy {
        match self {
            Self::Itself(proxy) => proxy,
            Self::Alike(outlook) => outlook,
        }
    }
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Itself(a), Self::Itself(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Alike(a), Self::Alike(b)) => a == b,
            _ => false,
        }
    }
}

impl Hash for Asking {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Itself(proxy) => proxy.id.hash(state),
            Self::Alike(outlook) => outlook.hash(state),
        }
    }
}

/// Translations of the snapshot in force.
pub(crate) struct Translated(Mutex<Answers>);

struct Answers {
    /// The snapshot in force, the number of those before it, and what led from one to the next, the newest last.
    now: Snapshot,
    age: u64,
    changes: VecDeque<Arc<Changes>>,
    made: HashMap<Question, (u64, Answer)>,
    /// Places in all of them.
    count: usize,
    known: Known,
}

impl Translated {
    /// Nothing translated yet, of the first snapshot.
    pub(crate) fn new(now: Snapshot) -> Self {
        Self(Mutex::new(Answers {
            now,
            age: 0,
            changes: VecDeque::new(),
            made: HashMap::new(),
            count: 0,
            known: Known::default(),
        }))
    }

    /// Another snapshot is in force.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let former = self.0.lock().now.clone();
        let changes = Arc::new(snapshot.changes_since(&former));
        let mut answers = self.0.lock();
        answers.now = snapshot.clone();
        answers.age += 1;
        answers.changes.push_back(changes);
        if answers.changes.len() as u64 > REMEMBERED {
            answers.changes.pop_front();
        }
        // What nobody has asked for since is nobody's any more.
        let oldest = answers.age.saturating_sub(REMEMBERED);
        answers.made.retain(|_, (age, _)| *age >= oldest);
        answers.count = answers.made.values().map(|(_, answer)| answer.len()).sum();
        answers.known.forget_unused();
    }

    /// What a proxy is sent of some parts of a snapshot, which are of one kind.
    pub(crate) fn answer(&self, snapshot: &Snapshot, proxy: &Arc<Proxy>, parts: &[Part], wanted: &Wanted) -> Answer {
        let mut answers = parts.iter().map(|part| self.part(snapshot, proxy, *part, wanted)).filter(|a| !a.is_empty());
        let first = answers.next().unwrap_or_default();
        answers.fold(first, |sum, next| self.0.lock().known.joined(&sum, &next))
    }

    fn part(&self, snapshot: &Snapshot, proxy: &Arc<Proxy>, part: Part, wanted: &Wanted) -> Answer {
        let question = Question { part, wanted: wanted.clone(), asking: Asking::of(snapshot, proxy, part) };
        let (age, former) = {
            let answers = self.0.lock();
            if !answers.now.is_same(snapshot) {
                // Another came into force while this was asked.
                drop(answers);
                return shared(translate(snapshot, &question));
            }
            (answers.age, answers.former(&question))
        };
        let answer = match &former {
            Some((changes, former)) => renewed(changes, former, snapshot, &question),
            None => shared(translate(snapshot, &question)),
        };
        let mut answers = self.0.lock();
        if answers.age != age {
            return answer;
        }
        answers.keep(question, answer)
    }
}

impl Answers {
    /// The last answer to a question, and what has changed since.
    fn former(&self, question: &Question) -> Option<(Changes, Answer)> {
        let (age, answer) = self.made.get(question)?;
        let since = usize::try_from(self.age - age).ok().filter(|n| *n <= self.changes.len())?;
        let mut sum = Changes::default();
        self.changes.iter().skip(self.changes.len() - since).for_each(|changes| sum.add(changes));
        Some((sum, answer.clone()))
    }

    /// Notes an answer; equal resources of other answers take the place of its own.
    fn keep(&mut self, question: Question, answer: Answer) -> Answer {
        if let Some((age, known)) = self.made.get_mut(&question)
            && Arc::ptr_eq(known, &answer)
        {
            *age = self.age;
            return answer;
        }
        let former = self.made.get(&question).map(|(_, former)| former.clone()).unwrap_or_default();
        let answer = self.known.share(question.part, answer, &former);
        let before = former.len();
        if self.count - before + answer.len() <= MOST {
            self.count = self.count - before + answer.len();
            self.made.insert(question, (self.age, answer.clone()));
        }
        answer
    }
}

/// The answer after `changes`, made of the former one; the very same where they touch nothing of it.
fn renewed(changes: &Changes, former: &Answer, snapshot: &Snapshot, question: &Question) -> Answer {
    let touched = touched(question.part, changes, snapshot, question.asking.proxy());
    let made = match (touched, question.part, &question.asking, &question.wanted) {
        (Touched::Nothing, ..) => return former.clone(),
        (Touched::Hosts(hosts), Part::CalledClusters, Asking::Alike(outlook), _) => {
            let made = pilot::called_clusters_of(snapshot, outlook, hosts);
            replaced(former, &touched, made.into_iter().map(resource).collect())
        }
        (Touched::Hosts(_), Part::CalledEndpoints, Asking::Alike(outlook), Wanted::Names(names)) => {
            let names: Vec<String> = names.iter().filter(|name| touched.has(name)).cloned().collect();
            let made = pilot::called_endpoints(snapshot, outlook, &names);
            replaced(former, &touched, made.into_iter().map(resource).collect())
        }
        _ => None,
    };
    made.unwrap_or_else(|| like(former, translate(snapshot, question)))
}

/// A former answer with other resources in the places of those that are touched; nothing when the names are not the same.
fn replaced(former: &Answer, touched: &Touched<'_>, made: Vec<Resource>) -> Option<Answer> {
    let mut made = made.into_iter();
    let mut all = former.to_vec();
    let mut same = true;
    for place in all.iter_mut().filter(|r| touched.has(&r.name)) {
        let now = made.next().filter(|now| now.name == place.name)?;
        if now.version != place.version {
            same = false;
            *place = Arc::new(now);
        }
    }
    if made.next().is_some() {
        return None;
    }
    Some(if same { former.clone() } else { all.into() })
}

/// An answer made anew; what is as it was is the former one's.
fn like(former: &Answer, made: Vec<Resource>) -> Answer {
    let mut last: HashMap<&str, &Arc<Resource>> = former.iter().map(|r| (r.name.as_str(), r)).collect();
    let same = |now: Resource| match last.remove(now.name.as_str()) {
        Some(known) if *known.as_ref() == now => known.clone(),
        _ => Arc::new(now),
    };
    let all: Vec<Arc<Resource>> = made.into_iter().map(same).collect();
    let equal = all.len() == former.len() && all.iter().zip(former.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
    if equal { former.clone() } else { all.into() }
}

fn shared(made: Vec<Resource>) -> Answer {
    made.into_iter().map(Arc::new).collect()
}

/// As it goes on the wire.
pub(crate) fn resource(made: pilot::Resource) -> Resource {
    Resource { name: made.name, version: made.version, body: made.body }
}

fn translate(snapshot: &Snapshot, question: &Question) -> Vec<Resource> {
    let names = match &question.wanted {
        Wanted::Names(names) => &**names,
        Wanted::All => &[],
    };
    let made = match (question.part, &question.asking) {
        (Part::CalledClusters, Asking::Alike(outlook)) => pilot::called_clusters(snapshot, outlook),
        (Part::CalledEndpoints, Asking::Alike(outlook)) => pilot::called_endpoints(snapshot, outlook, names),
        (Part::CalledRoutes, Asking::Alike(outlook)) => pilot::called_routes(snapshot, outlook, names),
        (Part::CalledNames, Asking::Alike(outlook)) => pilot::called_names(snapshot, outlook),
        (Part::OwnClusters, Asking::Itself(proxy)) => pilot::own_clusters(snapshot, proxy),
        (Part::Replicas, Asking::Itself(proxy)) => pilot::replicas(snapshot, proxy).into_iter().collect(),
        (Part::Listeners, Asking::Itself(proxy)) => pilot::listeners(snapshot, proxy),
        // `Outlook::of` pairs them otherwise.
        _ => Vec::new(),
    };
    made.into_iter().map(resource).collect()
}

mod known;

#[cfg(test)]
mod tests;
