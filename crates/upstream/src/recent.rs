//! How many requests began of late, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::host;

/// Parts that the time is divided into; the count is right but for one of them.
const PARTS: usize = 16;

/// A count of what happened within a time that ends now.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Milliseconds of one part.
    part: u64,
    /// The number of a part's time above, its count below.
    parts: [AtomicU64; PARTS],
}

impl Recent {
    pub(crate) fn new(within: Duration) -> Self {
        Self { part: host::millis(within).div_ceil(PARTS as u64).max(1), parts: Default::default() }
    }

    /// The number of the present part, from 1.
    fn number(&self) -> u64 {
        (host::now() / self.part + 1) & u64::from(u32::MAX)
    }

    /// One more has happened.
    pub(crate) fn add(&self) {
        let number = self.number();
        let Some(slot) = self.parts.get(usize::try_from(number % PARTS as u64).unwrap_or(0)) else { return };
        let _ = slot.fetch_update(Relaxed, Relaxed, |held| {
            let count = if held >> 32 == number { held & u64::from(u32::MAX) } else { 0 };
            Some(number << 32 | (count + 1).min(u64::from(u32::MAX)))
        });
    }

    /// What has happened within the time.
    pub(crate) fn count(&self) -> u64 {
        let number = self.number();
        let held = self.parts.iter().map(|slot| slot.load(Relaxed));
        let fresh = held.filter(|held| *held != 0 && number.wrapping_sub(held >> 32) < PARTS as u64);
        fresh.map(|held| held & u64::from(u32::MAX)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_no_longer_counts() {
        let recent = Recent::new(Duration::from_secs(16));
        assert_eq!(recent.count(), 0);
        (0..3).for_each(|_| recent.add());
        tokio::time::advance(Duration::from_secs(8)).await;
        (0..2).for_each(|_| recent.add());
        assert_eq!(recent.count(), 5);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(recent.count(), 2, "the first three are more than the time ago");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(recent.count(), 0);
        recent.add();
        assert_eq!(recent.count(), 1);
    }
}
