//! Messages that two readers could read differently never reach the upstream (RFC 9112, RFC 9113).

use serde_json::json;

use crate::proxy::Config;
use crate::wire::{Upstream, Wire, field};

const END: &str = "\r\n\r\n";

/// What becomes of a request.
enum Fate {
    /// Answered with this status, the connection closed, the upstream never called.
    Refused(u16),
    /// Passed on, its head holding this and not holding that.
    Passed(&'static str, &'static str),
}
use Fate::{Passed, Refused};

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn requests_in_doubt_are_refused() {
    let long = format!("GET /{} HTTP/1.1\r\nhost: a{END}", "x".repeat(100 * 1024));
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}{END}", "x".repeat(100 * 1024));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    let table: &[(&str, &str, Fate)] = &[
        (
            "CL then TE",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "TE then CL",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "two CL that differ",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
            Refused(400),
        ),
        (
            "two CL that agree",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
            Passed("content-length: 0", "content-length: 0\r\ncontent-length"),
        ),
        ("a list as CL", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\nhello", Refused(400)),
        ("CL with a sign", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\nhello", Refused(400)),
        ("CL below zero", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", Refused(400)),
        ("CL in hex", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nhello", Refused(400)),
        (
            "CL beyond 64 bits",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551621\r\n\r\nhello",
            Refused(400),
        ),
        (
            "TE that does not end in chunked",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "TE before chunked",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            Refused(501),
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(501),
        ),
        ("unknown TE", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
        (
            "TE with a vertical tab",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("TE in HTTP/1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("a folded line", "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n", Refused(400)),
        ("a folded first line", "GET / HTTP/1.1\r\n host: a\r\n\r\n", Refused(400)),
        ("space before the colon", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 5\r\n\r\nhello", Refused(400)),
        ("a bare CR in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: y\rz: w\r\n\r\n", Refused(400)),
        ("a bare CR as line end", "GET / HTTP/1.1\rhost: a\r\n\r\n", Refused(400)),
        // RFC 9112, 2.2 allows it; what goes on has no bare LF.
        ("a bare LF as line end", "GET / HTTP/1.1\nhost: a\nx: y\n\n", Passed("\r\nx: y\r\n", "\n\n")),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", Refused(400)),
        ("NUL in the target", "GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
        ("a space in the target", "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
        ("a header without a name", "GET / HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n", Refused(400)),
        ("a header without a colon", "GET / HTTP/1.1\r\nhost: a\r\nxyz\r\n\r\n", Refused(400)),
        ("a version nobody knows", "GET / HTTP/1.9\r\nhost: a\r\n\r\n", Refused(400)),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", Refused(400)),
        ("two hosts that agree", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", Refused(400)),
        ("two hosts beside a whole URL", "GET http://a/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", Refused(400)),
        ("no host", "GET / HTTP/1.1\r\n\r\n", Refused(400)),
        ("a host with a user", "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", Refused(400)),
        ("a host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", Refused(400)),
        // RFC 9112, 3.2.2: the target counts, and replaces the header.
        (
            "a whole URL with another host",
            "GET http://a/x HTTP/1.1\r\nhost: b\r\n\r\n",
            Passed("GET /x HTTP/1.1\r\nhost: a\r\n", "host: b"),
        ),
        ("an authority as target", "GET a.example HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
        ("a star for GET", "GET * HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
        ("a target that is too long", &long, Refused(431)),
        ("a head that is too large", &large, Refused(431)),
        ("too many headers", &many, Refused(431)),
        ("an underscore", "GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\n\r\n", Passed("x_y: z", "x-y")),
        (
            "a connection option that names host",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\n",
            Passed("host: a\r\n", "connection"),
        ),
        (
            "headers of one hop",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-secret, keep-alive\r\nx-secret: 1\r\nkeep-alive: 5\r\nproxy-connection: y\r\n\r\n",
            Passed("host: a", "x-secret"),
        ),
        (
            "an upgrade with a body",
            "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 4\r\n\r\nbody",
            Refused(400),
        ),
    ];
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    config.manager()["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let proxy = config.start();
    for (what, bytes, fate) in table {
        let mut client = Wire::connect(proxy.address).await;
        client.try_send(bytes).await;
        match fate {
            Refused(status) => {
                let answer = client.rest().await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
                assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{what}: one answer, then the end: {answer:?}");
                assert!(upstream.accepted().is_none(), "{what}: the upstream was called");
            }
            Passed(has, has_not) => {
                let mut server = upstream.accept().await;
                let head = server.head().await;
                assert!(head.contains(has), "{what}: {head:?}");
                assert!(!head.contains(has_not), "{what}: {head:?}");
                server.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
                assert!(client.head().await.starts_with("HTTP/1.1 200 "), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn after_a_request_in_doubt_comes_no_other() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    let mut client = Wire::connect(proxy.address).await;
    client
        .send(concat!(
            "GET /first HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST /doubt HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        ))
        .await;
    let mut server = upstream.accept().await;
    assert!(server.head().await.starts_with("GET /first "));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let answers = client.rest().await;
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 1, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1").count(), 2, "{answers}");
}

#[tokio::test]
async fn chunks_in_doubt_break_the_request_off() {
    for (what, body) in [
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("no number", "\r\nabc\r\n0\r\n\r\n"),
        ("beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("too long", "2\r\nabc\r\n0\r\n\r\n"),
        ("no end of line after the data", "3\r\nabc0\r\n\r\n"),
        ("a bare LF after the size", "3\nabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
        ("a bare CR after the size", "3\rabc\r\n0\r\n\r\n"),
    ] {
        let upstream = Upstream::bind().await;
        let proxy = Config::http(upstream.address).start();
        let mut client = Wire::connect(proxy.address).await;
        client.send("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut server = upstream.accept().await;
        server.head().await;
        client.try_send(format!("{body}GET /b HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let answer = client.rest().await;
        assert!(!answer.contains(" 200 "), "{what}: {answer:?}");
        let seen = server.rest().await;
        assert!(!seen.contains("0\r\n\r\n"), "{what}: the upstream took it for a whole body: {seen:?}");
        assert!(!seen.contains("GET /b"), "{what}: {seen:?}");
        assert!(upstream.accepted().is_none(), "{what}");
    }
}

#[tokio::test]
async fn underscores_are_treated_as_configured() {
    let upstream = Upstream::bind().await;
    for (action, refused) in [("REJECT_REQUEST", true), ("DROP_HEADER", false)] {
        let mut config = Config::http(upstream.address);
        config.manager()["common_http_protocol_options"] = json!({"headers_with_underscores_action": action});
        let proxy = config.start();
        let mut client = Wire::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\nx-y: w\r\n\r\n").await;
        if refused {
            assert!(client.rest().await.starts_with("HTTP/1.1 400 "));
            continue;
        }
        let mut server = upstream.accept().await;
        let head = server.head().await;
        assert!(head.contains("x-y: w") && !head.contains("x_y"), "{head}");
    }
}

#[tokio::test]
async fn answers_in_doubt_are_not_passed_on() {
    let upstream = Upstream::bind().await;
    let proxy = Config::http(upstream.address).start();
    for (what, answer) in [
        ("CL and TE", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE before chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("unknown TE", "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nabc"),
        ("two CL that differ", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        ("CL that is no number", "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
        ("space before the colon", "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello"),
        ("an upgrade nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"),
        ("no HTTP at all", "SSH-2.0-OpenSSH\r\n\r\n"),
    ] {
        let mut client = Wire::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
        let mut server = upstream.accept().await;
        server.head().await;
        server.send(answer).await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{what}: {head}");
        assert!(body.contains("protocol error"), "{what}: {body}");
        assert!(field(&head, "transfer-encoding").is_none(), "{what}: {head}");
        assert_eq!(server.rest().await, "", "{what}: its connection is not used again");
    }
}

/// No spelling of a path leads around a policy.
#[tokio::test]
async fn no_disguise_of_a_path_passes_a_policy() {
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    let deny = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"admin": {
                "permissions": [{"url_path": {"path": {"prefix": "/admin"}}}],
                "principals": [{"any": true}]
            }}}
        }
    });
    config.manager()["merge_slashes"] = json!(true);
    config.manager()["path_with_escaped_slashes_action"] = json!("UNESCAPE_AND_FORWARD");
    config.manager()["http_filters"].as_array_mut().expect("filters").insert(0, deny);
    let proxy = config.start();
    for (path, status) in [
        ("/admin", "403"),
        ("/admin/", "403"),
        ("/admin?x=/public", "403"),
        ("//admin", "403"),
        ("/./admin", "403"),
        ("/public/../admin", "403"),
        ("/public/%2e%2e/admin", "403"),
        ("/public/.%2E/admin", "403"),
        ("/%61dmin", "403"),
        ("/public%2F..%2Fadmin", "403"),
        ("/public/..%5cadmin", "403"),
        ("/public\\..\\admin", "403"),
        ("http://a/public/../admin", "403"),
        ("/admin%00", "400"),
        ("/%00/admin", "400"),
        ("/../admin", "400"),
        ("/%2e%2e/admin", "400"),
        ("/%zz", "400"),
    ] {
        let mut client = Wire::connect(proxy.address).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {head}");
        assert!(upstream.accepted().is_none(), "{path} reached the upstream");
    }
}
