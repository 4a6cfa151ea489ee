//! Matchers of strings, headers and query parameters, as Envoy's route and RBAC messages define them.

use http::HeaderName;
use regex::{Regex, RegexBuilder};

use crate::RequestView;

/// Bytes a compiled regular expression may take; a user's pattern must not eat the proxy's memory.
const REGEX_LIMIT: usize = 1 << 20;

/// A pattern for a whole string.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// The string itself.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
    /// Any part.
    Contains(Box<str>),
    /// A regular expression for all of it.
    Regex(Regex),
    /// Any string that is not empty.
    Present,
    /// One of the above with ASCII case ignored; the pattern is lower case.
    IgnoreCase(Box<StringMatch>),
}

impl StringMatch {
    /// Compiles an RE2-like expression that must match the whole string.
    ///
    /// # Errors
    /// When the expression is malformed or too large.
    pub fn regex(pattern: &str) -> Result<Self, String> {
        full_regex(pattern).map(Self::Regex)
    }

    /// Whether `value` matches.
    pub fn is_match(&self, value: &str) -> bool {
        match self {
            Self::Exact(p) => value == &**p,
            Self::Prefix(p) => value.starts_with(&**p),
            Self::Suffix(p) => value.ends_with(&**p),
            Self::Contains(p) => value.contains(&**p),
            Self::Regex(p) => p.is_match(value),
            Self::Present => !value.is_empty(),
            Self::IgnoreCase(inner) => inner.is_match(&value.to_ascii_lowercase()),
        }
    }
}

/// A regular expression anchored at both ends.
///
/// # Errors
/// When the expression is malformed or too large.
pub fn full_regex(pattern: &str) -> Result<Regex, String> {
    search_regex(&format!("^(?:{pattern})$"))
}

/// A regular expression that may match anywhere, for rewrites.
///
/// # Errors
/// When the expression is malformed or too large.
pub fn search_regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_LIMIT)
        .dot_matches_new_line(false)
        .build()
        .map_err(|e| format!("regex \"{pattern}\": {e}"))
}

/// Which header a matcher looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority` (and `host`)
    Authority,
    /// `:scheme`
    Scheme,
    /// Any other.
    Named(HeaderName),
}

impl HeaderKey {
    /// Reads a header name; pseudo headers begin with a colon.
    ///
    /// # Errors
    /// When it is not a valid name.
    pub fn new(name: &str) -> Result<Self, String> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            other => Self::Named(
                HeaderName::from_bytes(other.as_bytes()).map_err(|_| format!("\"{name}\" is not a header name"))?,
            ),
        })
    }

    /// Hands the value to `with`; several values of one name are joined by commas, as Envoy does. Bytes that are not
    /// UTF-8 match nothing but presence.
    pub fn with_value<T>(&self, request: &RequestView<'_>, with: impl FnOnce(Option<&str>) -> T) -> T {
        match self {
            Self::Method => with(Some(request.method)),
            Self::Path => with(Some(request.path)),
            Self::Authority => with(Some(request.authority)),
            Self::Scheme => with(Some(request.scheme)),
            Self::Named(name) => {
                let mut values = request.headers.get_all(name).iter();
                match (values.next(), values.next()) {
                    (None, _) => with(None),
                    (Some(only), None) => with(Some(only.to_str().unwrap_or("\u{fffd}"))),
                    (Some(_), Some(_)) => {
                        let all: Vec<&str> =
                            request.headers.get_all(name).iter().map(|v| v.to_str().unwrap_or("\u{fffd}")).collect();
                        with(Some(&all.join(",")))
                    }
                }
            }
        }
    }
}

/// What a header's value must be.
#[derive(Clone, Debug)]
pub enum HeaderValueMatch {
    /// A string pattern.
    Text(StringMatch),
    /// There at all, or (`false`) absent.
    Present(bool),
    /// A decimal number in `[start, end)`.
    Range(i64, i64),
}

/// A condition on one header.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// The header.
    pub key: HeaderKey,
    /// The condition.
    pub value: HeaderValueMatch,
    /// Turn the result around.
    pub invert: bool,
    /// A missing header counts as an empty one (otherwise it matches nothing, inverted or not).
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// Whether the request meets the condition.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        self.key.with_value(request, |value| match (&self.value, value) {
            (HeaderValueMatch::Present(wanted), value) => (value.is_some() == *wanted) != self.invert,
            (condition, Some(value)) => Self::holds(condition, value) != self.invert,
            (condition, None) if self.missing_is_empty => Self::holds(condition, "") != self.invert,
            // Envoy: without the header a value condition is false, and its inversion true.
            (_, None) => self.invert,
        })
    }

    fn holds(condition: &HeaderValueMatch, value: &str) -> bool {
        match condition {
            HeaderValueMatch::Text(pattern) => pattern.is_match(value),
            HeaderValueMatch::Range(start, end) => value.parse::<i64>().is_ok_and(|n| (*start..*end).contains(&n)),
            HeaderValueMatch::Present(wanted) => *wanted,
        }
    }
}

/// A condition on one query parameter.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// The parameter.
    pub name: Box<str>,
    /// Its value; `None` asks only that it is there.
    pub value: Option<StringMatch>,
}

impl QueryMatch {
    /// Whether the query string meets the condition; the first parameter of the name counts.
    pub fn is_match(&self, query: &str) -> bool {
        match (query_parameter(query, &self.name), &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(pattern)) => pattern.is_match(value),
        }
    }
}

/// The value of the first parameter of a name, as it stands in the query string.
pub fn query_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
