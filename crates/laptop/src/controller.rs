//! The Deployment controller: which pods are to be made and which are to end. Pure.
//!
//! A change of the template rolls: new pods come first, old ones go only as new ones are ready, so that the number of
//! ready pods never falls below the wish.

use std::collections::BTreeMap;

use crate::model::Workload;

type Key = (String, String);

/// What of a running pod matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its number in the mesh; higher is younger.
    pub number: u64,
    /// The workload it belongs to.
    pub workload: Key,
    /// Of the template it was made from.
    pub hash: String,
    /// Gets traffic.
    pub ready: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a pod of this workload.
    Create(Key),
    /// End this pod.
    Delete(u64),
}

/// What is to be done now, with pods that are not ending. Called again when something has changed.
pub fn plan(desired: &BTreeMap<Key, Workload>, pods: &[Current]) -> Vec<Step> {
    let mut steps: Vec<Step> =
        pods.iter().filter(|p| !desired.contains_key(&p.workload)).map(|p| Step::Delete(p.number)).collect();
    for (key, workload) in desired {
        let (new, old): (Vec<_>, Vec<_>) =
            pods.iter().filter(|p| p.workload == *key).partition(|p| p.hash == workload.hash);
        plan_one(key, workload, &new, &old, &mut steps);
    }
    steps
}

fn plan_one(key: &Key, workload: &Workload, new: &[&Current], old: &[&Current], steps: &mut Vec<Step>) {
    let wish = workload.replicas;
    // A bare pod has one name, so the old one must be gone first.
    let surge = if workload.deployment { wish.div_ceil(4) } else { 0 };
    let missing = wish.saturating_sub(new.len());
    let room = (wish + surge).saturating_sub(new.len() + old.len());
    let create = if old.is_empty() { missing } else { missing.min(room) };
    steps.extend(std::iter::repeat_n(Step::Create(key.clone()), create));
    // Too many of the new kind: unready ones go first, then the youngest.
    let mut surplus: Vec<_> = new.to_vec();
    surplus.sort_by_key(|p| (p.ready, std::cmp::Reverse(p.number)));
    steps.extend(surplus.iter().take(new.len().saturating_sub(wish)).map(|p| Step::Delete(p.number)));
    // Old ones: unready ones at once, ready ones as far as enough others are ready.
    let ready_new = new.iter().filter(|p| p.ready).count().min(wish);
    let ready_old = old.iter().filter(|p| p.ready).count();
    let spare = if workload.deployment { (ready_new + ready_old).saturating_sub(wish) } else { ready_old };
    steps.extend(old.iter().filter(|p| !p.ready).map(|p| Step::Delete(p.number)));
    steps.extend(old.iter().filter(|p| p.ready).take(spare).map(|p| Step::Delete(p.number)));
}

#[cfg(test)]
mod tests;
