//! How a trace travels in headers: B3 (github.com/openzipkin/b3-propagation) and W3C Trace Context.

use http::header::{HeaderMap, HeaderName, HeaderValue};

static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
static TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Which headers carry the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `x-b3-*`; `b3` is read as well.
    B3,
    /// `traceparent`; `tracestate` passes as it is.
    W3c,
    /// Both are written; B3 is believed first.
    B3AndW3c,
}

/// What a request brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The trace, and the caller's span in it.
    pub parent: Option<(u128, u64)>,
    /// Whether the caller decided to trace it.
    pub sampled: Option<bool>,
}

impl Incoming {
    /// Reads the headers; what cannot be read is as if it were not there.
    pub fn read(propagation: Propagation, headers: &HeaderMap) -> Self {
        match propagation {
            Propagation::B3 => read_b3(headers),
            Propagation::W3c => read_w3c(headers),
            Propagation::B3AndW3c => {
                let b3 = read_b3(headers);
                if b3.parent.is_some() { b3 } else { read_w3c(headers) }
            }
        }
    }
}

/// One span's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; below 2^64 it is one of 64 bits.
    pub trace: u128,
    /// This span.
    pub span: u64,
    /// The span it is part of.
    pub parent: Option<u64>,
    /// Whether it is told to a collector.
    pub sampled: bool,
}

impl TraceContext {
    /// A new span under what came in, or the first of a new trace. `traced` counts where the caller has not decided.
    pub fn begin(incoming: Incoming, traced: bool) -> Self {
        let (trace, parent) = match incoming.parent {
            Some((trace, parent)) => (trace, Some(parent)),
            None => (fastrand::u128(1..), None),
        };
        Self { trace, span: fastrand::u64(1..), parent, sampled: incoming.sampled.unwrap_or(traced) }
    }

    /// Writes the headers by which the next one goes on.
    pub fn write(&self, propagation: Propagation, headers: &mut HeaderMap) {
        if propagation != Propagation::W3c {
            self.write_b3(headers);
        }
        if propagation != Propagation::B3 {
            let flags = u8::from(self.sampled);
            put(headers, &TRACE_PARENT, &format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span));
        }
    }

    fn write_b3(&self, headers: &mut HeaderMap) {
        put(headers, &B3_TRACE, &self.trace_text());
        put(headers, &B3_SPAN, &format!("{:016x}", self.span));
        match self.parent {
            Some(parent) => put(headers, &B3_PARENT, &format!("{parent:016x}")),
            None => drop(headers.remove(&B3_PARENT)),
        }
        headers.insert(B3_SAMPLED.clone(), HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
        // It would tell the next one of another span.
        headers.remove(&B3);
    }

    /// The trace in hexadecimal, 16 digits when it is one of 64 bits.
    pub(crate) fn trace_text(&self) -> String {
        match u64::try_from(self.trace) {
            Ok(short) => format!("{short:016x}"),
            Err(_) => format!("{:032x}", self.trace),
        }
    }
}

fn put(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name.clone(), value);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim)
}

fn trace_id(text: &str) -> Option<u128> {
    hex(text, &[16, 32]).and_then(|t| u128::from_str_radix(t, 16).ok()).filter(|id| *id != 0)
}

fn span_id(text: &str) -> Option<u64> {
    hex(text, &[16]).and_then(|t| u64::from_str_radix(t, 16).ok()).filter(|id| *id != 0)
}

fn hex<'a>(text: &'a str, lengths: &[usize]) -> Option<&'a str> {
    Some(text).filter(|t| lengths.contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "d" => Some(true),
        "0" => Some(false),
        t if t.eq_ignore_ascii_case("true") => Some(true),
        t if t.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn read_b3(headers: &HeaderMap) -> Incoming {
    if let Some(single) = text(headers, &B3) {
        let mut parts = single.split('-');
        return match (parts.next(), parts.next()) {
            (Some(decision), None) => Incoming { parent: None, sampled: sampled(decision) },
            (Some(trace), Some(span)) => {
                Incoming { parent: trace_id(trace).zip(span_id(span)), sampled: parts.next().and_then(sampled) }
            }
            _ => Incoming::default(),
        };
    }
    let parent = text(headers, &B3_TRACE).and_then(trace_id).zip(text(headers, &B3_SPAN).and_then(span_id));
    let debug = (text(headers, &B3_FLAGS) == Some("1")).then_some(true);
    Incoming { parent, sampled: debug.or_else(|| text(headers, &B3_SAMPLED).and_then(sampled)) }
}

/// `VERSION-TRACE-PARENT-FLAGS`; a newer version may have more behind it (W3C Trace Context, 3.2 and 4.2).
fn read_w3c(headers: &HeaderMap) -> Incoming {
    let read = || {
        let mut parts = text(headers, &TRACE_PARENT)?.split('-');
        let version = parts.next().filter(|v| v.len() == 2 && *v != "ff")?;
        let trace = parts.next().filter(|t| t.len() == 32).and_then(trace_id)?;
        let span = parts.next().and_then(span_id)?;
        let flags = hex(parts.next()?, &[2]).and_then(|f| u8::from_str_radix(f, 16).ok())?;
        if version == "00" && parts.next().is_some() {
            return None;
        }
        Some(Incoming { parent: Some((trace, span)), sampled: Some(flags & 1 == 1) })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
    const SPAN: &str = "a2fb4a1d1a96d312";

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(n, v): &(&'static str, &str)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap());
        given.iter().map(pair).collect()
    }

    fn read(propagation: Propagation, given: &[(&'static str, &str)]) -> Incoming {
        Incoming::read(propagation, &headers(given))
    }

    fn parent() -> Option<(u128, u64)> {
        Some((u128::from_str_radix(TRACE, 16).unwrap(), u64::from_str_radix(SPAN, 16).unwrap()))
    }

    #[test]
    fn b3_in_both_forms() {
        let many = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")];
        let single = format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90");
        let wanted = Incoming { parent: parent(), sampled: Some(true) };
        assert_eq!(read(Propagation::B3, &many), wanted);
        assert_eq!(read(Propagation::B3, &[("b3", &single)]), wanted);
        assert_eq!(read(Propagation::B3, &[("b3", "0")]), Incoming { parent: None, sampled: Some(false) });
        assert_eq!(read(Propagation::W3c, &many), Incoming::default());
    }

    #[test]
    fn traceparent_and_what_is_none() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(
            read(Propagation::W3c, &[("traceparent", &good)]),
            Incoming { parent: parent(), sampled: Some(true) }
        );
        let newer = format!("cc-{TRACE}-{SPAN}-00-more");
        assert_eq!(read(Propagation::W3c, &[("traceparent", &newer)]).sampled, Some(false));
        for bad in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-+1"),
            "00".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(Propagation::W3c, &[("traceparent", &bad)]), Incoming::default(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_as_the_parent() {
        for propagation in [Propagation::B3, Propagation::W3c, Propagation::B3AndW3c] {
            let incoming = Incoming { parent: parent(), sampled: Some(true) };
            let context = TraceContext::begin(incoming, false);
            assert_eq!((context.trace, context.parent), (parent().unwrap().0, Some(parent().unwrap().1)));
            // A header from before would contradict.
            let mut written = headers(&[("b3", "0")]);
            context.write(propagation, &mut written);
            if propagation == Propagation::W3c {
                assert_eq!(written["b3"], "0");
            }
            let again = Incoming::read(propagation, &written);
            assert_eq!(again, Incoming { parent: Some((context.trace, context.span)), sampled: Some(true) });
        }
    }

    #[test]
    fn the_caller_has_decided() {
        let no = Incoming { parent: parent(), sampled: Some(false) };
        assert!(!TraceContext::begin(no, true).sampled);
        assert!(TraceContext::begin(Incoming::default(), true).sampled);
        assert_eq!(TraceContext::begin(Incoming::default(), true).parent, None);
    }
}
