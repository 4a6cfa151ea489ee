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
    /// Something moved when the stream began.
    pub(crate) fn new(limit: Duration, began: Instant) -> Self {
        Self { limit, moved: Rc::new(Cell::new(began)) }
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
}
