//! Silence on one stream: nothing of the request came, nothing of the answer went out (Envoy's stream idle timeout).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// The longest silence of a stream, and when something last moved.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub(crate) limit: Duration,
    /// Also set by the request's body as it is read.
    pub(crate) moved: Rc<Cell<Instant>>,
}

impl Idle {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, moved: Rc::new(Cell::new(Instant::now())) }
    }

    /// Something moved.
    pub(crate) fn touch(&self) {
        self.moved.set(Instant::now());
    }

    /// When the silence is over, if nothing moves until then.
    pub(crate) fn until(&self) -> Instant {
        // A limit beyond the clock's range is none within the life of a process.
        let moved = self.moved.get();
        moved.checked_add(self.limit).unwrap_or_else(|| moved + Duration::from_secs(30 * 365 * 86_400))
    }

    /// Waits until nothing has moved for the whole time.
    pub(crate) async fn over(&self) {
        while Instant::now() < self.until() {
            tokio::time::sleep_until(self.until()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_puts_the_end_off() {
        let idle = Idle::new(Duration::from_secs(10));
        let started = Instant::now();
        let mover = idle.clone();
        tokio::join!(idle.over(), async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                mover.touch();
            }
        });
        assert_eq!(started.elapsed(), Duration::from_secs(37));
    }
}
