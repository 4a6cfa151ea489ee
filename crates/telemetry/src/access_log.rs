//! One access log: a compiled format, a filter and a sink.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use crate::flags::ResponseFlags;
use http::HeaderName;

use crate::format::{FormatError, HeaderOf, HeaderRef, Piece, compile, number, write_value};
use crate::record::LogRecord;
use crate::sink::Sink;

/// How a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A format string; a missing newline at its end is not added (as Envoy).
    Text(String),
    /// An object of keys and format strings, in the order given; a key whose value is one operator keeps numbers as
    /// numbers and prints `null` for what is not known.
    Json(Vec<(String, String)>),
}

/// Which requests are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFilter {
    /// All.
    All,
    /// Those with one of these flags.
    Flags(ResponseFlags),
}

/// What an access log is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// A file, `/dev/stdout` or `/dev/stderr`.
    pub path: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Which requests are logged.
    pub filter: LogFilter,
}

/// A log ready to be written to.
pub struct AccessLog {
    filter: LogFilter,
    line: Line,
    request_headers: Box<[HeaderName]>,
    sink: Arc<Sink>,
}

#[derive(Debug)]
enum Line {
    Text(Vec<Piece>),
    Json(Vec<Field>),
}

/// One key of a JSON log.
#[derive(Debug)]
struct Field {
    /// Leading separator, key in quotes, colon.
    head: Box<[u8]>,
    value: Vec<Piece>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("filter", &self.filter).field("line", &self.line).finish_non_exhaustive()
    }
}

thread_local! {
    /// Lines are built here, so that logging does not allocate.
    static SCRATCH: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl AccessLog {
    /// Compiles the format and opens the file.
    ///
    /// # Errors
    /// When the format has an unknown operator, or the file cannot be opened.
    pub fn new(config: &AccessLogConfig) -> Result<Self, FormatError> {
        let line = match &config.format {
            LogFormat::Text(format) => Line::Text(compile(format)?),
            LogFormat::Json(fields) => Line::Json(compile_json(fields)?),
        };
        let sink = Sink::open(&config.path)
            .map_err(|e| FormatError::File { path: config.path.clone(), reason: e.to_string() })?;
        let request_headers = request_headers(&line);
        Ok(Self { filter: config.filter.clone(), line, request_headers, sink })
    }

    /// Request headers that a line may print: callers keep these beyond the request.
    pub fn request_headers(&self) -> &[HeaderName] {
        &self.request_headers
    }

    /// Writes one line; never blocks.
    pub fn log(&self, record: &LogRecord<'_>) {
        if let LogFilter::Flags(flags) = self.filter
            && !record.flags.intersects(flags)
        {
            return;
        }
        SCRATCH.with_borrow_mut(|(line, value)| {
            line.clear();
            match &self.line {
                Line::Text(pieces) => text_line(pieces, record, line),
                Line::Json(fields) => json_line(fields, record, line, value),
            }
            self.sink.append(line);
        });
    }
}

fn request_headers(line: &Line) -> Box<[HeaderName]> {
    let pieces: Vec<&Piece> = match line {
        Line::Text(pieces) => pieces.iter().collect(),
        Line::Json(fields) => fields.iter().flat_map(|f| &f.value).collect(),
    };
    let named = |r: &HeaderRef| match r {
        HeaderRef::Named(name) => Some(name.clone()),
        HeaderRef::Special(_) => None,
    };
    let names = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Header { of: HeaderOf::Request, name, or, .. } => Some([named(name), or.as_ref().and_then(named)]),
        _ => None,
    });
    names.flatten().flatten().collect()
}

fn compile_json(fields: &[(String, String)]) -> Result<Vec<Field>, FormatError> {
    let mut compiled = Vec::with_capacity(fields.len());
    for (index, (key, format)) in fields.iter().enumerate() {
        let mut head = vec![if index == 0 { b'{' } else { b',' }, b'"'];
        escape(key.as_bytes(), &mut head);
        head.extend_from_slice(b"\":");
        compiled.push(Field { head: head.into_boxed_slice(), value: compile(format)? });
    }
    Ok(compiled)
}

fn text_line(pieces: &[Piece], record: &LogRecord<'_>, out: &mut Vec<u8>) {
    for piece in pieces {
        if !write_value(piece, record, out) {
            out.push(b'-');
        }
    }
}

fn json_line(fields: &[Field], record: &LogRecord<'_>, out: &mut Vec<u8>, value: &mut Vec<u8>) {
    for Field { head, value: pieces } in fields {
        out.extend_from_slice(head);
        value.clear();
        if let [piece] = pieces.as_slice() {
            if let Some(n) = number(piece, record) {
                out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
                continue;
            }
            if !write_value(piece, record, value) {
                // Envoy prints "-" for no flags, and null for everything else it does not know.
                out.extend_from_slice(if piece.is_flags() { b"\"-\"" } else { b"null" });
                continue;
            }
        } else {
            text_line(pieces, record, value);
        }
        out.push(b'"');
        escape(value, out);
        out.push(b'"');
    }
    out.extend_from_slice(if fields.is_empty() { b"{}\n" } else { b"}\n" });
}

/// JSON string escapes; bytes that are not UTF-8 (a header may hold them) become U+FFFD.
fn escape(value: &[u8], out: &mut Vec<u8>) {
    // Nearly all text has nothing to escape: it is looked at sixteen bytes at once.
    let special = |c: &u8| !matches!(c, b' '..=b'~') || matches!(c, b'"' | b'\\');
    let plain = value.chunks(16).take_while(|chunk| !chunk.iter().fold(false, |any, c| any | special(c)));
    let (plain, rest) = value.split_at(plain.map(<[u8]>::len).sum());
    out.extend_from_slice(plain);
    if !rest.is_empty() {
        escape_each(rest, out);
    }
}

fn escape_each(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().bytes() {
            match c {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(c >> 4)]);
                    out.push(HEX[usize::from(c & 15)]);
                }
                c => out.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
