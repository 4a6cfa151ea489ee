use super::*;

/// Feeds the bytes whole, then one by one: both must come to the same verdict.
fn follow(bytes: &[u8]) -> Framing {
    let mut whole = Framing::default();
    whole.read(bytes);
    let mut single = Framing::default();
    bytes.iter().for_each(|b| single.read(&[*b]));
    assert_eq!(whole.doubt, single.doubt, "{:?}", String::from_utf8_lossy(bytes));
    assert_eq!((whole.state, whole.heads), (single.state, single.heads));
    whole
}

#[test]
fn honest_requests_are_followed_to_their_end() {
    for (bytes, heads) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 1),
        ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 1),
        ("GET / HTTP/1.1\nhost: a\n\nGET / HTTP/1.1\n\n", 2),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n\r\nxGET / HTTP/1.1\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length:5\r\n\r\nabcdePUT / HTTP/1.1\r\n\r\n", 2),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nA;x=1\r\n0123456789\r\n00\r\na: b\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            2,
        ),
        ("POST / HTTP/1.1\r\ncontent-length-x: 7\r\nte: trailers\r\nt: u\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
    ] {
        let framing = follow(bytes.as_bytes());
        assert_eq!(framing.doubt(), None, "{bytes:?}");
        assert_eq!(framing.heads, heads, "{bytes:?}");
        assert_eq!(framing.state, State::Head, "{bytes:?}");
    }
}

#[test]
fn doubtful_framing_is_named() {
    use Doubt::{Chunk, Encoding, Length, LengthAndEncoding};
    for (fields, doubt) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", LengthAndEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", LengthAndEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Encoding),
        ("Transfer-Encoding: chunked, identity\r\n", Encoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Encoding),
        ("Transfer-Encoding: xchunked\r\n", Encoding),
        ("Transfer-Encoding:\r\n", Encoding),
        ("Content-Length: 4\r\nContent-Length: 5\r\n", Length),
        ("Content-Length: 4, 4\r\n", Length),
        ("Content-Length: +4\r\n", Length),
        ("Content-Length: -4\r\n", Length),
        ("Content-Length: 0x4\r\n", Length),
        ("Content-Length: \r\n", Length),
        ("Content-Length: 18446744073709551616\r\n", Length),
    ] {
        let framing = follow(format!("GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes());
        assert_eq!(framing.doubt(), Some((1, doubt)), "{fields:?}");
    }
    for body in
        ["x\r\n", "\r\n", "-1\r\n", "0x1\r\n", "1\n", "1\r\nab", "11111111111111111\r\n", "1;a\nb", "0\r\na: b\n\n"]
    {
        let framing = follow(format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes());
        assert_eq!(framing.doubt(), Some((1, Chunk)), "{body:?}");
    }
}

#[test]
fn a_long_line_is_not_kept() {
    let mut framing = Framing::default();
    framing.read(b"GET / HTTP/1.1\r\nx: ");
    for _ in 0..1000 {
        framing.read(&[b'y'; 100]);
    }
    assert!(framing.partial.len() <= LINE);
    framing.read(b"\r\nContent-Length: 0");
    framing.read(&[b'0'; 4096]);
    framing.read(b"\r\n");
    assert_eq!(framing.doubt(), Some((0, Doubt::Length)));
}

#[test]
fn a_tunnel_is_not_looked_at() {
    let mut framing = follow(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
    framing.end();
    framing.read(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n");
    assert_eq!(framing.doubt(), None);
}
