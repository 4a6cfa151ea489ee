//! Whether the framing of HTTP/1 requests is beyond doubt, judged from their raw bytes (RFC 9112, 6).
//!
//! An HTTP library mends some doubtful messages in silence: of a request with both `content-length` and
//! `transfer-encoding` it shows only the latter. A proxy in front of us may have believed the former, and what we take
//! for a second request was a body to it. So the bytes are followed beside the library, and from the first doubtful head
//! on every request of the connection is refused.

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// `content-length` and `transfer-encoding` in one head.
    LengthAndEncoding,
    /// A `transfer-encoding` other than one single `chunked`.
    Encoding,
    /// A `content-length` that is no plain number, or two that differ.
    Length,
    /// A chunked body that does not follow the grammar.
    Chunk,
}

/// Of a line so much is kept; a framing field that is longer is not believed.
const LINE: usize = 128;

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// Heads begun and finished so far.
    heads: u64,
    doubt: Option<(u64, Doubt)>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Body(u64),
    /// Inside a chunk's size: the value and whether a digit was seen.
    Size(u64, bool),
    /// Inside a chunk extension; the size stands before it.
    Extension(u64),
    /// The line feed that ends the size line.
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// In the trailers; whether the line is empty so far.
    Trailer(bool),
    TrailerEnd(bool),
    /// Not looked at any more.
    Over,
}

/// What the lines of a head have said.
#[derive(Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Framing {
    /// Looks at the next bytes that the client sent.
    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Over => return,
                State::Head => self.head(bytes),
                State::Body(left) => {
                    let (_, rest) = bytes.split_at(take(left, bytes));
                    let left = left - (bytes.len() - rest.len()) as u64;
                    self.state = if left == 0 { State::Head } else { State::Body(left) };
                    rest
                }
                State::Data(left) => {
                    let (_, rest) = bytes.split_at(take(left, bytes));
                    let left = left - (bytes.len() - rest.len()) as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    rest
                }
                _ => {
                    let (first, rest) = bytes.split_at(1);
                    self.chunk(first[0]);
                    rest
                }
            };
        }
    }

    /// The first request (counted from 0) that must be refused, and why; all after it too.
    pub fn doubt(&self) -> Option<(u64, Doubt)> {
        self.doubt
    }

    /// Requests whose head has come whole.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// The connection became a tunnel: what follows is not HTTP.
    pub fn end(&mut self) {
        self.state = State::Over;
        self.partial = Vec::new();
    }

    fn refuse(&mut self, doubt: Doubt) {
        // A doubt in a body concerns the request whose head was counted already; that one is in flight.
        self.doubt = Some((self.heads, doubt));
        self.end();
    }

    /// Lines of a head, up to its end or the end of the bytes.
    fn head<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while self.state == State::Head {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                let room = LINE.saturating_sub(self.partial.len()).min(bytes.len());
                self.partial.extend_from_slice(&bytes[..room]);
                return &[];
            };
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.partial.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                let room = LINE.saturating_sub(whole.len()).min(line.len());
                whole.extend_from_slice(&line[..room]);
                self.line(&whole);
                whole.clear();
                self.partial = whole;
            }
        }
        bytes
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !self.head.begun {
            // Empty lines before a request line are passed over (RFC 9112, 2.2).
            self.head.begun = !line.is_empty();
            return;
        }
        match line.first() {
            None => self.finish_head(),
            Some(b'c' | b'C') => {
                if let Some(value) = field(line, b"content-length") {
                    self.length(value, line.len());
                }
            }
            Some(b't' | b'T') => {
                if let Some(value) = field(line, b"transfer-encoding") {
                    if self.head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        self.refuse(Doubt::Encoding);
                    }
                    self.head.chunked = true;
                }
            }
            Some(_) => {}
        }
    }

    fn length(&mut self, value: &[u8], line: usize) {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && line < LINE;
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|v| v.parse::<u64>().ok());
        match (number, self.head.length) {
            (None, _) => self.refuse(Doubt::Length),
            (Some(new), Some(old)) if new != old => self.refuse(Doubt::Length),
            (Some(new), _) => self.head.length = Some(new),
        }
    }

    fn finish_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        if head.chunked && head.length.is_some() {
            return self.refuse(Doubt::LengthAndEncoding);
        }
        self.heads += 1;
        self.state = match head.length {
            _ if head.chunked => State::Size(0, false),
            None | Some(0) => State::Head,
            Some(length) => State::Body(length),
        };
    }

    /// One byte of a chunked body that is not data (RFC 9112, 7.1).
    fn chunk(&mut self, byte: u8) {
        let digit = (byte as char).to_digit(16).map(u64::from);
        let next = match (self.state, byte) {
            (State::Size(value, _), _) if digit.is_some() => {
                let grown = value.checked_mul(16).and_then(|v| v.checked_add(digit.unwrap_or(0)));
                grown.map(|v| State::Size(v, true))
            }
            (State::Size(value, true), b'\r') => Some(State::SizeEnd(value)),
            (State::Size(value, true), b';' | b' ' | b'\t') => Some(State::Extension(value)),
            (State::Extension(value), b'\r') => Some(State::SizeEnd(value)),
            (State::Extension(_), b'\n') => None,
            (State::Extension(value), _) => Some(State::Extension(value)),
            (State::SizeEnd(0), b'\n') => Some(State::Trailer(true)),
            (State::SizeEnd(size), b'\n') => Some(State::Data(size)),
            (State::DataCr, b'\r') => Some(State::DataLf),
            (State::DataLf, b'\n') => Some(State::Size(0, false)),
            (State::Trailer(empty), b'\r') => Some(State::TrailerEnd(empty)),
            (State::Trailer(_), b'\n') => None,
            (State::Trailer(_), _) => Some(State::Trailer(false)),
            (State::TrailerEnd(true), b'\n') => Some(State::Head),
            (State::TrailerEnd(false), b'\n') => Some(State::Trailer(true)),
            _ => None,
        };
        match next {
            Some(next) => self.state = next,
            None => self.refuse(Doubt::Chunk),
        }
    }
}

fn take(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// The trimmed value of a line, when it is of this field (lower case).
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    Some(rest.strip_prefix(b":")?.trim_ascii())
}

#[cfg(test)]
mod tests;
