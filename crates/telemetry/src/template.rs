//! Header values made from a format string.

use http::HeaderValue;

use crate::format::{FormatError, HeaderOf, Piece, compile, write_value};
use crate::record::LogRecord;

/// The longest value that is made: what a client sends must not grow without end on its way.
const MAX_VALUE: usize = 16 * 1024;

/// A header value with Envoy's operators, compiled once.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Box<[Piece]>);

impl Template {
    /// Compiles a format string.
    ///
    /// # Errors
    /// When a percent sign has no partner, or an operator is not known, by its name.
    pub fn new(format: &str) -> Result<Self, FormatError> {
        compile(format).map(|pieces| Self(pieces.into_boxed_slice()))
    }

    /// The text, where there is no operator in it.
    pub fn fixed(&self) -> Option<String> {
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.to_string()),
            _ => None,
        };
        self.0.iter().map(text).collect()
    }

    /// Whether headers of the request are looked at.
    pub fn asks_request(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Header { of: HeaderOf::Request, .. } | Piece::Path(_)))
    }

    /// The value; an operator that knows nothing leaves nothing, but flags a dash (as Envoy in header values). `None` where a value came out
    /// that no header may have: what a client sent never ends a line.
    pub fn value(&self, record: &LogRecord<'_>) -> Option<HeaderValue> {
        let mut text = Vec::with_capacity(64);
        for piece in &self.0 {
            if !write_value(piece, record, &mut text) && piece.is_flags() {
                text.push(b'-');
            }
        }
        if text.len() > MAX_VALUE {
            return None;
        }
        HeaderValue::from_bytes(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn knows_its_operators_and_refuses_others_by_name() {
        let fails = |text: &str| Template::new(text).unwrap_err().to_string();
        assert_eq!(fails("a %NOTHING% b"), "operator %NOTHING% is not supported");
        assert_eq!(fails("%DURATION(x)%"), "operator %DURATION(x)% is not supported");
        assert_eq!(fails("%START_TIME(%Q)%"), "%Q is no specifier of a time");
        assert_eq!(fails("%PATH(NQ:X)%"), "\"X\" is none of ORIG, PATH, ORIG_OR_PATH");
        assert_eq!(fails("%REQ(a)b%"), "\"b\" is behind the closing bracket");
        assert_eq!(fails("%ENVIRONMENT%"), "operator %ENVIRONMENT% is not supported");
        assert_eq!(fails("50%"), "the operator that starts at byte 2 has no closing %");
        assert_eq!(fails("%REQ(a b)%"), "\"a b\" is not a header name");
        assert_eq!(Template::new("100%% of %%").unwrap().fixed().as_deref(), Some("100% of %"));
        assert_eq!(Template::new("%PROTOCOL%").unwrap().fixed(), None);
    }

    #[test]
    fn values_are_what_is_known() {
        let mut record = LogRecord::new(UNIX_EPOCH + std::time::Duration::from_millis(1_795_563_668_012));
        record.flags = crate::ResponseFlags::UF.with(crate::ResponseFlags::URX);
        record.details = Some("a b\tc");
        record.upstream_host = Some(([10, 0, 0, 1], 8080).into());
        record.upstream_local = Some(([10, 0, 0, 2], 4000).into());
        let shown = |text: &str| Template::new(text).unwrap().value(&record).unwrap().to_str().unwrap().to_owned();
        assert_eq!(shown("%START_TIME(%s.%3f)%|%START_TIME%"), "1795563668.012|2026-11-24T23:41:08.012Z");
        assert_eq!(shown("%RESPONSE_FLAGS_LONG%"), "UpstreamConnectionFailure,UpstreamRetryLimitExceeded");
        assert_eq!(shown("%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%"), "a_b_c|a b\tc");
        let upstream = "%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% \
                        %UPSTREAM_LOCAL_PORT%";
        assert_eq!(shown(upstream), "10.0.0.1 8080 10.0.0.2 4000");
        assert_eq!(shown("%ENVIRONMENT(no such)%"), "-");
        assert_eq!(shown("%ENVIRONMENT(CARGO_PKG_NAME)% %ENVIRONMENT(CARGO_PKG_NAME):4%"), "telemetry tele");
        let emitted: u64 = shown("%EMIT_TIME(%s)%").parse().unwrap();
        assert!(emitted > 1_700_000_000 && !shown("%HOSTNAME%").is_empty());
    }

    #[test]
    fn nothing_that_ends_a_line_gets_in() {
        let template = Template::new("<%REQUESTED_SERVER_NAME%>").unwrap();
        let mut record = LogRecord::new(UNIX_EPOCH);
        assert_eq!(template.value(&record).unwrap(), "<>");
        record.sni = Some("a.example");
        assert_eq!(template.value(&record).unwrap(), "<a.example>");
        for bad in ["a\r\nx: y", "a\nb", "a\0b", "\u{7f}"] {
            record.sni = Some(bad);
            assert_eq!(template.value(&record), None, "{bad:?}");
        }
        let long = "a".repeat(MAX_VALUE);
        record.sni = Some(&long);
        assert_eq!(template.value(&record), None);
    }
}
