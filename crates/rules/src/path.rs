//! Path normalisation, so that routes and policies see one spelling of a path (Envoy's `normalize_path`, RFC 3986 6.2).

use std::borrow::Cow;

/// What happens to `%2F` and `%5C`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// They become slashes.
    Unescape,
}

/// How paths are normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Normalise {
    /// Resolve `.` and `..`, decode unreserved characters, turn `\` into `/`.
    pub path: bool,
    /// Several slashes in a row become one.
    pub merge_slashes: bool,
    /// What happens to escaped slashes.
    pub escaped_slashes: EscapedSlashes,
}

/// The normalised path (query kept as it is); `None` when the path must be refused: it is malformed, climbs above the
/// root, or holds an escaped slash that is not allowed.
pub fn normalise(path: &str, how: Normalise) -> Option<Cow<'_, str>> {
    if !how.path && !how.merge_slashes && how.escaped_slashes == EscapedSlashes::Keep {
        return Some(Cow::Borrowed(path));
    }
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (head, query) = path.split_at(end);
    if !head.starts_with('/') {
        // `*` of OPTIONS and the authority form of CONNECT.
        return Some(Cow::Borrowed(path));
    }
    if is_plain(head) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode(head, how)?;
    let mut resolved = if how.path { resolve_dots(&decoded)? } else { decoded };
    if how.merge_slashes {
        merge(&mut resolved);
    }
    resolved.push_str(query);
    Some(Cow::Owned(resolved))
}

/// Nothing that any rule would touch: the way of almost every request.
fn is_plain(head: &str) -> bool {
    let bytes = head.as_bytes();
    !bytes.iter().any(|b| matches!(b, b'%' | b'\\'))
        && !bytes.windows(2).any(|w| w[0] == b'/' && matches!(w[1], b'/' | b'.'))
}

fn decode(head: &str, how: Normalise) -> Option<String> {
    let bytes = head.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'\\' && how.path {
            out.push(b'/');
            at += 1;
            continue;
        }
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let escape = bytes.get(at..at + 3)?;
        let value = hex(escape[1])? << 4 | hex(escape[2])?;
        let unreserved = value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~');
        match (value, how.escaped_slashes) {
            (0, _) => return None,
            (b'/' | b'\\', EscapedSlashes::Reject) => return None,
            (b'/' | b'\\', EscapedSlashes::Unescape) => out.push(b'/'),
            _ if how.path && unreserved => out.push(value),
            _ => out.extend_from_slice(&[b'%', escape[1].to_ascii_uppercase(), escape[2].to_ascii_uppercase()]),
        }
        at += 3;
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// RFC 3986 5.2.4; climbing above the root is refused.
fn resolve_dots(head: &str) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = head.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => {
                if last {
                    kept.push("");
                }
            }
            ".." => {
                kept.pop()?;
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(kept.iter().fold(String::with_capacity(head.len()), |mut out, part| {
        out.push('/');
        out.push_str(part);
        out
    }))
}

fn merge(path: &mut String) {
    let mut previous = ' ';
    path.retain(|c| {
        let keep = !(c == '/' && previous == '/');
        previous = c;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Normalise = Normalise { path: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };

    #[test]
    fn one_spelling_for_every_disguise() {
        for (raw, wanted) in [
            ("/admin?x=../y", "/admin?x=../y"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("//admin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("/a/./b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a%2fb", "/a%2Fb"),
            ("*", "*"),
        ] {
            assert_eq!(normalise(raw, BASE).as_deref(), Some(wanted), "{raw}");
        }
    }

    #[test]
    fn what_cannot_be_meant_well_is_refused() {
        for raw in ["/..", "/a/../../admin", "/a%00b", "/a%zz", "/a%2"] {
            assert_eq!(normalise(raw, BASE), None, "{raw}");
        }
        let strict = Normalise { escaped_slashes: EscapedSlashes::Reject, ..BASE };
        assert_eq!(normalise("/a%2Fb", strict), None);
        let open = Normalise { escaped_slashes: EscapedSlashes::Unescape, ..BASE };
        assert_eq!(normalise("/public/..%2Fadmin", open).as_deref(), Some("/admin"));
    }
}
