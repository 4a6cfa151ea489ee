//! Which request fails, and how: decided by flags, by request headers and by a switch that can be thrown at run time.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;

/// Request ids remembered for `x-app-fail-first`; the oldest are forgotten.
const REMEMBERED_IDS: usize = 10_000;

/// What the flags say.
#[derive(Clone, Copy, Debug)]
pub struct FaultOptions {
    /// Share of requests that fail, 0 to 1.
    pub rate: f64,
    /// The status of those.
    pub status: u16,
    /// Every answer is held back this long.
    pub delay: Duration,
}

impl Default for FaultOptions {
    fn default() -> Self {
        Self { rate: 0.0, status: 503, delay: Duration::ZERO }
    }
}

/// What is to be done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Wait before anything else.
    pub delay: Duration,
    /// Cut the connection (HTTP/1) or the stream (HTTP/2) instead of answering.
    pub reset: bool,
    /// Answer with this status.
    pub status: Option<u16>,
}

/// The switch thrown by `POST /fail`.
#[derive(Clone, Copy, Debug)]
struct Switch {
    status: u16,
    /// Requests still to fail; `None` is all of them.
    left: Option<u64>,
}

/// Decides request by request.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    options: FaultOptions,
    switch: Mutex<Option<Switch>>,
    attempts: Mutex<Attempts>,
}

impl Faults {
    pub(crate) fn new(options: FaultOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// From now on the next `count` requests (all without one) are answered with `status`; 0 turns it off.
    pub(crate) fn throw(&self, status: u16, count: Option<u64>) {
        *self.switch.lock() = (status != 0).then_some(Switch { status, left: count });
    }

    /// What happens to a request with these headers. Headers go before the switch, the switch before flags.
    pub(crate) fn decide(&self, headers: &HeaderMap) -> Fault {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let asked = text("x-app-status").and_then(|v| v.parse().ok());
        let mut fault = Fault {
            delay: text("x-app-delay").and_then(|v| crate::parse_span(v).ok()).unwrap_or(self.options.delay),
            reset: text("x-app-reset") == Some("true"),
            status: asked,
        };
        if let Some(first) = text("x-app-fail-first").and_then(|v| v.parse::<u32>().ok()) {
            let id = text("x-request-id").unwrap_or_default();
            if self.attempts.lock().count(id) > first {
                return Fault { reset: false, status: None, ..fault };
            }
            if !fault.reset {
                fault.status = Some(asked.unwrap_or(503));
            }
            return fault;
        }
        if fault.status.is_none() && !fault.reset {
            fault.status = self.switched().or_else(|| self.unlucky());
        }
        fault
    }

    fn switched(&self) -> Option<u16> {
        let mut switch = self.switch.lock();
        let thrown = switch.as_mut()?;
        let status = thrown.status;
        if let Some(left) = &mut thrown.left {
            if *left == 0 {
                *switch = None;
                return None;
            }
            *left -= 1;
        }
        Some(status)
    }

    fn unlucky(&self) -> Option<u16> {
        (self.options.rate > 0.0 && fastrand::f64() < self.options.rate).then_some(self.options.status)
    }
}

/// How often each request id was seen.
#[derive(Debug, Default)]
struct Attempts {
    seen: HashMap<String, u32>,
    order: VecDeque<String>,
}

impl Attempts {
    fn count(&mut self, id: &str) -> u32 {
        if let Some(count) = self.seen.get_mut(id) {
            *count += 1;
            return *count;
        }
        if self.order.len() >= REMEMBERED_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(id.to_owned());
        self.seen.insert(id.to_owned(), 1);
        1
    }
}

#[cfg(test)]
mod tests;
