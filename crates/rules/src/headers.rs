//! Changes to headers that configuration asks for.

use http::HeaderMap;
use http::header::{Entry, HeaderName, HeaderValue};
use telemetry::{LogRecord, RequestHeaders, Template};

/// What happens when the header is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// One more value.
    Add,
    /// Nothing.
    IfAbsent,
    /// It replaces the others.
    Overwrite,
    /// It replaces the others; when there are none, nothing.
    OverwriteIfPresent,
}

/// What a header is set to.
#[derive(Clone, Debug)]
pub enum Text {
    /// Always the same.
    Fixed(HeaderValue),
    /// Made for each request.
    Made {
        /// How.
        template: Template,
        /// An empty value is set too.
        keep_empty: bool,
    },
}

/// One header to set.
#[derive(Clone, Debug)]
pub struct SetHeader {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: Text,
    /// What happens when it is already there.
    pub append: Append,
}

/// Which headers are changed.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// Those of a request; its path as it is now.
    Request(&'a str),
    /// Those of an answer; those of the request are the facts'.
    Response,
}

/// Headers to remove, then headers to set.
#[derive(Clone, Debug, Default)]
pub struct HeaderMutation {
    /// Removed first.
    remove: Vec<HeaderName>,
    /// Then set, in order.
    set: Vec<SetHeader>,
    /// A value is made for each request.
    made: bool,
    /// A value is made from headers of the request.
    asks_request: bool,
}

impl HeaderMutation {
    /// Headers to remove, then headers to set, in order.
    pub fn new(remove: Vec<HeaderName>, set: Vec<SetHeader>) -> Self {
        let templates = || {
            set.iter().filter_map(|change| match &change.value {
                Text::Made { template, .. } => Some(template),
                Text::Fixed(_) => None,
            })
        };
        let (made, asks_request) = (templates().next().is_some(), templates().any(Template::asks_request));
        Self { remove, set, made, asks_request }
    }

    /// Whether a value is made from headers of the request.
    pub fn asks_request(&self) -> bool {
        self.asks_request
    }

    /// Does what is asked. The facts are asked for only where a value is made of them; all values are made before the
    /// first is set, and after the removals (as Envoy).
    pub fn apply<'f>(&self, headers: &mut HeaderMap, side: Side<'_>, facts: impl FnOnce() -> LogRecord<'f>) {
        for name in &self.remove {
            headers.remove(name);
        }
        if self.made {
            let values = made(&self.set, headers, side, &facts());
            for (change, value) in self.set.iter().zip(values) {
                if let Some(value) = value {
                    set(headers, change, value);
                }
            }
            return;
        }
        for change in &self.set {
            if let Text::Fixed(value) = &change.value {
                set(headers, change, value.clone());
            }
        }
    }
}

fn made(changes: &[SetHeader], headers: &HeaderMap, side: Side<'_>, facts: &LogRecord<'_>) -> Vec<Option<HeaderValue>> {
    let mut record = facts.clone();
    match side {
        Side::Request(path) => record.request_headers = RequestHeaders::All { headers, path },
        Side::Response => record.response_headers = Some(headers),
    }
    let value = |change: &SetHeader| match &change.value {
        Text::Fixed(value) => Some(value.clone()),
        Text::Made { template, keep_empty } => template.value(&record).filter(|v| *keep_empty || !v.is_empty()),
    };
    changes.iter().map(value).collect()
}

fn set(headers: &mut HeaderMap, change: &SetHeader, value: HeaderValue) {
    let name = change.name.clone();
    match change.append {
        Append::Add => {
            headers.append(name, value);
        }
        Append::Overwrite => {
            headers.insert(name, value);
        }
        Append::IfAbsent => {
            headers.entry(name).or_insert(value);
        }
        Append::OverwriteIfPresent => {
            if let Entry::Occupied(mut entry) = headers.entry(name) {
                entry.insert(value);
            }
        }
    }
}
