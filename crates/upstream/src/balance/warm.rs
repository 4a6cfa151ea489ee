//! Slow start: a new host's share grows until its time is over (Envoy's `SlowStartConfig`).

use std::sync::Arc;

use super::weight as given;
use crate::config::SlowStart;
use crate::host::{self, Host};

/// What a weight of 1 counts, so that a part of it can be told.
const UNIT: u64 = 1000;

/// The weight of a host now.
pub(super) fn weight(host: &Host, rules: Option<&SlowStart>) -> u64 {
    let full = given(host).saturating_mul(UNIT);
    let Some((rules, age)) = rules.map(|r| (r, age(host))).filter(|(r, age)| *age < host::millis(r.window)) else {
        return if rules.is_some() { full } else { given(host) };
    };
    let part = age as f64 / host::millis(rules.window).max(1) as f64;
    let factor = part.powf(1.0 / rules.aggression.max(f64::MIN_POSITIVE)).max(rules.least);
    ((full as f64 * factor) as u64).clamp(1, full)
}

/// When the weights have to be looked at again; never when nobody is new.
pub(super) fn next(hosts: &[Arc<Host>], rules: Option<&SlowStart>) -> u64 {
    /// Steps in which a share grows, and the longest and shortest of them in milliseconds.
    const STEPS: (u64, u64, u64) = (50, 20, 1000);
    let Some(rules) = rules else { return u64::MAX };
    let window = host::millis(rules.window);
    let warming = hosts.iter().any(|h| age(h) < window);
    if warming { host::now() + (window / STEPS.0).clamp(STEPS.1, STEPS.2) } else { u64::MAX }
}

fn age(host: &Host) -> u64 {
    host::now().saturating_sub(host.since())
}
