//! What a client speaks, judged by its first bytes, without consuming them.

/// The verdict on the first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// A TLS client hello.
    Tls(Hello),
    /// An HTTP/1 request line has begun.
    Http1,
    /// The HTTP/2 connection preface has begun.
    Http2,
    /// Neither.
    Other,
    /// Too few bytes to tell.
    NeedMore,
}

/// What a TLS client hello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Server name, lower case.
    pub sni: Option<String>,
    /// Protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// A hello larger than this is taken as TLS without knowledge of its names (Envoy's tls_inspector limit).
pub const MAX_HELLO: usize = 16 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"DELETE ", b"HEAD ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// Judges the bytes seen so far.
pub fn first(bytes: &[u8]) -> First {
    match bytes.first() {
        None => First::NeedMore,
        Some(0x16) => tls(bytes),
        Some(_) => http(bytes),
    }
}

/// Judges bytes that are not TLS.
pub fn http(bytes: &[u8]) -> First {
    let begins = |whole: &[u8]| bytes.starts_with(whole);
    let may_become = |whole: &[u8]| whole.starts_with(bytes);
    if bytes.is_empty() {
        First::NeedMore
    } else if begins(PREFACE) {
        First::Http2
    } else if may_become(PREFACE) {
        First::NeedMore
    } else if METHODS.iter().any(|m| begins(m)) {
        First::Http1
    } else if METHODS.iter().any(|m| may_become(m)) {
        First::NeedMore
    } else {
        extension_method(bytes)
    }
}

/// A method that is not a usual one (RFC 9110 lets anyone define more): upper-case token, space, target, HTTP/1.
fn extension_method(bytes: &[u8]) -> First {
    let line = &bytes[..bytes.iter().position(|b| *b == b'\r' || *b == b'\n').unwrap_or(bytes.len())];
    let token = line.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if token == 0 || token > 32 {
        return First::Other;
    }
    match line.get(token) {
        None if line.len() == bytes.len() => First::NeedMore,
        Some(b' ') if line.len() < bytes.len() => {
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            if http { First::Http1 } else { First::Other }
        }
        Some(b' ') if bytes.len() < 8192 => First::NeedMore,
        _ => First::Other,
    }
}

/// Judges bytes that begin like a TLS handshake record (RFC 8446, 4.1.2 and 5.1).
fn tls(bytes: &[u8]) -> First {
    if bytes.len() < 6 {
        let version_wrong = bytes.len() > 1 && bytes[1] != 3;
        return if version_wrong { First::Other } else { First::NeedMore };
    }
    if bytes[1] != 3 || bytes[5] != 1 {
        return First::Other;
    }
    match handshake(bytes) {
        Ok(Some(body)) => First::Tls(hello(&body).unwrap_or_default()),
        Ok(None) if bytes.len() >= MAX_HELLO => First::Tls(Hello::default()),
        Ok(None) => First::NeedMore,
        Err(NotTls) => First::Other,
    }
}

struct NotTls;

/// The handshake message's body, put together of as many records as it takes; `None` when more bytes are needed.
fn handshake(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NotTls> {
    let mut message = Vec::new();
    loop {
        let [kind, 3, _, high, low, rest @ ..] = bytes else {
            return if bytes.len() < 5 { Ok(None) } else { Err(NotTls) };
        };
        if *kind != 0x16 {
            return Err(NotTls);
        }
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(fragment) = rest.get(..length) else { return Ok(None) };
        message.extend_from_slice(fragment);
        bytes = &rest[length..];
        if let [1, a, b, c, body @ ..] = message.as_slice() {
            let wanted = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if let Some(body) = body.get(..wanted) {
                return Ok(Some(body.to_vec()));
            }
        }
        if message.len() > MAX_HELLO {
            return Err(NotTls);
        }
    }
}

/// Server name and ALPN of a client hello's body.
fn hello(body: &[u8]) -> Option<Hello> {
    let mut at = Cursor(body);
    at.take(2 + 32)?;
    at.sized8()?;
    at.sized16()?;
    at.sized8()?;
    let mut found = Hello::default();
    let Some(extensions) = at.sized16() else { return Some(found) };
    let mut extensions = Cursor(extensions);
    while let (Some(kind), Some(value)) = (extensions.u16(), extensions.sized16()) {
        match kind {
            0 => found.sni = server_name(value),
            16 => found.alpn = protocols(value).unwrap_or_default(),
            _ => {}
        }
    }
    Some(found)
}

fn server_name(value: &[u8]) -> Option<String> {
    let mut list = Cursor(Cursor(value).sized16()?);
    while let Some(kind) = list.take(1) {
        let name = list.sized16()?;
        if kind == [0] {
            return std::str::from_utf8(name).ok().map(str::to_ascii_lowercase);
        }
    }
    None
}

fn protocols(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut list = Cursor(Cursor(value).sized16()?);
    let mut found = Vec::new();
    while let Some(name) = list.sized8() {
        found.push(name.to_vec());
    }
    Some(found)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn sized8(&mut self) -> Option<&'a [u8]> {
        let n = self.take(1)?[0];
        self.take(usize::from(n))
    }

    fn sized16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

#[cfg(test)]
mod tests;
