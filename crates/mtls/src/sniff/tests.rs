use super::*;

fn hello_bytes() -> Vec<u8> {
    let config = crate::ClientTls {
        cert: None,
        roots: None,
        sans: Vec::new(),
        revoked: Vec::new(),
        sni: Some("outbound_.80_._.A.example".to_owned()),
        alpn: vec![b"istio".to_vec(), b"h2".to_vec()],
    };
    let name = rustls::pki_types::ServerName::try_from("outbound-80.A.example").unwrap();
    let mut connection = rustls::ClientConnection::new(config.build().unwrap(), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_real_client_hello_gives_its_names_and_each_prefix_asks_for_more() {
    let bytes = hello_bytes();
    let expected =
        Hello { sni: Some("outbound-80.a.example".to_owned()), alpn: vec![b"istio".to_vec(), b"h2".to_vec()] };
    assert_eq!(first(&bytes), First::Tls(expected));
    for cut in 0..bytes.len() {
        assert_eq!(first(&bytes[..cut]), First::NeedMore, "{cut}");
    }
}

#[test]
fn http_is_told_from_the_rest() {
    for (bytes, verdict) in [
        (&b"GET / HTTP/1.1\r\n"[..], First::Http1),
        (b"GE", First::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", First::Http2),
        (b"PRI * H", First::NeedMore),
        (b"PURGE /x HTTP/1.1\r\n", First::Http1),
        (b"PURGE /x", First::NeedMore),
        (b"EHLO mail.example\r\n", First::Other),
        (b"\x00\x00\x00\x17", First::Other),
        (b"\x16\x02\x00", First::Other),
        (b"\x16\x03\x01\x00\x05\x02abcd", First::Other),
    ] {
        assert_eq!(first(bytes), verdict, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn mangled_hellos_never_panic() {
    let bytes = hello_bytes();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut mangled = bytes.clone();
            mangled[at] = value;
            let _ = first(&mangled);
        }
    }
}
