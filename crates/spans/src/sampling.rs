//! Which requests are traced.

use http::{HeaderMap, HeaderValue, header::HeaderName};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
static FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// Where in a request id the reason stands: the version digit of a UUID.
const REASON_AT: usize = 14;
/// Length of a UUID's text.
const UUID: usize = 36;

/// Shares of requests, each of 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of those that a client asks to be traced (`x-client-trace-id`).
    pub client: u32,
    /// Of all others.
    pub random: u32,
    /// The limit over everything.
    pub overall: u32,
}

/// Why a request is traced. Its digit in `x-request-id` tells the next proxy, which decides nothing anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not.
    None,
    /// By chance.
    Sampled,
    /// A service asked for it.
    Service,
    /// A client asked for it.
    Client,
}

impl Reason {
    fn digit(self) -> u8 {
        match self {
            Self::None => b'4',
            Self::Sampled => b'9',
            Self::Service => b'a',
            Self::Client => b'b',
        }
    }

    fn of(digit: u8) -> Self {
        match digit {
            b'9' => Self::Sampled,
            b'a' => Self::Service,
            b'b' => Self::Client,
            _ => Self::None,
        }
    }
}

/// Decides by the request's id, and writes the decision into it. Without an id that is a UUID nothing is traced.
pub fn decide(sampling: Sampling, headers: &mut HeaderMap) -> Reason {
    let Some(id) = headers.get(&REQUEST_ID).map(HeaderValue::as_bytes).filter(|id| id.len() == UUID) else {
        return Reason::None;
    };
    let Some(lot) = lot(id) else { return Reason::None };
    let former = id.get(REASON_AT).map_or(Reason::None, |digit| Reason::of(*digit));
    let mut reason = former;
    if former == Reason::None {
        reason = if headers.contains_key(&CLIENT_TRACE_ID) && lot < sampling.client {
            Reason::Client
        } else if headers.contains_key(&FORCE_TRACE) {
            Reason::Service
        } else if lot < sampling.random {
            Reason::Sampled
        } else {
            Reason::None
        };
    }
    if lot >= sampling.overall {
        reason = Reason::None;
    }
    if reason != former {
        write(headers, reason);
    }
    reason
}

/// The number, below 10,000, that a request id draws: its first eight digits.
fn lot(id: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    u32::from_str_radix(digits, 16).ok().map(|n| n % 10_000)
}

fn write(headers: &mut HeaderMap, reason: Reason) {
    if let Some(value) = headers.get_mut(&REQUEST_ID) {
        let mut id = value.as_bytes().to_vec();
        if let Some(digit) = id.get_mut(REASON_AT) {
            *digit = reason.digit();
        }
        if let Ok(id) = HeaderValue::from_bytes(&id) {
            *value = id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling { client: 10_000, random: 10_000, overall: 10_000 };

    /// 0x0000_2706 is 9990.
    fn headers(id: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(REQUEST_ID.clone(), HeaderValue::from_static(id))])
    }

    #[test]
    fn the_id_decides_and_remembers() {
        let mut given = headers("00002706-0000-4000-8000-000000000000");
        assert_eq!(decide(Sampling { random: 9_990, ..ALL }, &mut given), Reason::None);
        assert_eq!(given[&REQUEST_ID], "00002706-0000-4000-8000-000000000000");
        assert_eq!(decide(Sampling { random: 9_991, ..ALL }, &mut given), Reason::Sampled);
        assert_eq!(given[&REQUEST_ID], "00002706-0000-9000-8000-000000000000");
        // The next proxy would not trace any by chance, and follows.
        assert_eq!(decide(Sampling { random: 0, ..ALL }, &mut given), Reason::Sampled);
        // But the limit over everything holds.
        assert_eq!(decide(Sampling { overall: 0, ..ALL }, &mut given), Reason::None);
        assert_eq!(given[&REQUEST_ID], "00002706-0000-4000-8000-000000000000");
    }

    #[test]
    fn clients_and_services_can_ask() {
        let never = Sampling { random: 0, ..ALL };
        for (name, reason) in [(&CLIENT_TRACE_ID, Reason::Client), (&FORCE_TRACE, Reason::Service)] {
            let mut given = headers("00000000-0000-4000-8000-000000000000");
            given.insert(name, HeaderValue::from_static("1"));
            assert_eq!(decide(never, &mut given), reason);
        }
        let mut given = headers("00000000-0000-4000-8000-000000000000");
        given.insert(&CLIENT_TRACE_ID, HeaderValue::from_static("1"));
        assert_eq!(decide(Sampling { client: 0, ..never }, &mut given), Reason::None);
    }

    #[test]
    fn an_id_that_is_no_uuid_is_left_alone() {
        for id in ["", "abc", "zzzzzzzz-0000-4000-8000-000000000000"] {
            let mut given = headers(id);
            assert_eq!(decide(ALL, &mut given), Reason::None);
            assert_eq!(given[&REQUEST_ID], id);
        }
        assert_eq!(decide(ALL, &mut HeaderMap::new()), Reason::None);
    }
}
