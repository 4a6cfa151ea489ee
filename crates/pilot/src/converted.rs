//! What has been converted before: of a mesh's resources nearly all are equal for nearly all proxies, and from one
//! snapshot to the next, and converting them to protobuf costs many times what comparing them does.
//!
//! Conversion is pure, so that what is remembered here is seen in nothing but time; equal resources share their bytes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use envoy_api::Any;
use parking_lot::Mutex;

/// Fewer are never forgotten.
const FEW: usize = 1000;

/// Two hashes of the proto-JSON under keys that only this process knows: they are equal for no two texts, neither by
/// accident nor because somebody who may write resources looked for two such texts.
type Key = (u64, u64);

static SECRETS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);

/// Messages by their proto-JSON, in two generations.
#[derive(Default)]
struct Converted {
    young: HashMap<Key, Any>,
    old: HashMap<Key, Any>,
}

static CONVERTED: Mutex<Option<Converted>> = Mutex::new(None);

/// The key of a text.
pub(crate) fn key(text: &str) -> Key {
    (SECRETS.0.hash_one(text), SECRETS.1.hash_one(text))
}

/// What a text was converted to before.
pub(crate) fn find(key: Key) -> Option<Any> {
    let mut guard = CONVERTED.lock();
    let all = guard.as_mut()?;
    if let Some(known) = all.young.get(&key) {
        return Some(known.clone());
    }
    let known = all.old.remove(&key)?;
    all.young.insert(key, known.clone());
    Some(known)
}

/// Remembers what a text was converted to.
pub(crate) fn keep(key: Key, message: &Any) {
    CONVERTED.lock().get_or_insert_default().young.insert(key, message.clone());
}

/// Forgets what nobody has been sent since the last time; for whoever has a new snapshot.
pub fn forget_unused() {
    let mut guard = CONVERTED.lock();
    let Some(all) = guard.as_mut() else { return };
    // Of snapshots in quick succession not each is translated: what is left of the last one stays.
    if all.young.len() >= FEW.max(all.old.len() / 2) {
        all.old = std::mem::take(&mut all.young);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Any {
        Any { type_url: text.to_owned(), value: text.as_bytes().to_vec().into() }
    }

    #[test]
    fn what_is_used_stays_and_shares_its_bytes() {
        let texts: Vec<String> = (0..FEW).map(|n| format!("what is used {n}")).collect();
        let unused = key("what is not");
        keep(unused, &message("what is not"));
        texts.iter().for_each(|text| keep(key(text), &message(text)));
        for _ in 0..4 {
            forget_unused();
            for text in &texts {
                let (one, two) = (find(key(text)).unwrap(), find(key(text)).unwrap());
                assert_eq!(one, message(text));
                assert_eq!(one.value.as_ptr(), two.value.as_ptr());
            }
        }
        assert_eq!(find(unused), None);
        assert_ne!(key("a"), key("b"));
    }
}
