//! What a route of a VirtualService does: weights, redirects, answers, rewrites, headers, faults, mirrors, CORS.

use std::time::{Duration, Instant};

use crate::server::{Act, Server, until};
use crate::world::{Mesh, World, get, post};

/// One service `web` with a server of that name, and `other`; the routes are given.
async fn web(http: &str) -> (World, Server, Server) {
    let (web, other) = (Server::echo("web").await, Server::echo("other").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &web)]).http("other", &[("", &other)]);
    mesh.virtual_service("web", &format!("hosts: [web]\nhttp:\n{http}"));
    (mesh.start().await, web, other)
}

const TO_WEB: &str = "route: [{destination: {host: web}}]";

#[tokio::test]
async fn weights() {
    let (world, ..) =
        web("- route:\n  - {destination: {host: web}, weight: 75}\n  - {destination: {host: other}, weight: 25}").await;
    let tally = world.tally(800, || get("web", "/")).await;
    let other = tally["other"];
    assert!((120..280).contains(&other), "25 % of 800 are about 200: {tally:?}");
    let (world, ..) =
        web("- route:\n  - {destination: {host: web}, weight: 0}\n  - {destination: {host: other}, weight: 100}").await;
    assert_eq!(world.tally(20, || get("web", "/")).await["other"], 20);
}

#[tokio::test]
async fn redirects() {
    for (redirect, host, path, status, location) in [
        ("{uri: /new}", "web", "/old", 301, "http://web/new"),
        ("{uri: /new}", "web", "/old?q=1", 301, "http://web/new?q=1"),
        ("{uri: /new?r=2}", "web", "/old?q=1", 301, "http://web/new?r=2"),
        ("{authority: elsewhere.example}", "web", "/old?q=1", 301, "http://elsewhere.example/old?q=1"),
        ("{scheme: https}", "web", "/", 301, "https://web/"),
        ("{scheme: https}", "web:80", "/", 301, "https://web/"),
        ("{scheme: https}", "web:8080", "/", 301, "https://web:8080/"),
        ("{port: 8443, scheme: https}", "web", "/", 301, "https://web:8443/"),
        ("{derivePort: FROM_REQUEST_PORT}", "web", "/", 301, "http://web:80/"),
        ("{derivePort: FROM_PROTOCOL_DEFAULT, uri: /x}", "web", "/", 301, "http://web/x"),
        ("{uri: /new, redirectCode: 302}", "web", "/", 302, "http://web/new"),
        ("{uri: /new, redirectCode: 303}", "web", "/", 303, "http://web/new"),
        ("{uri: /new, redirectCode: 307}", "web", "/", 307, "http://web/new"),
        ("{uri: /new, redirectCode: 308}", "web", "/", 308, "http://web/new"),
        ("{authority: e.example, uri: /n, redirectCode: 307}", "web", "/a", 307, "http://e.example/n"),
    ] {
        let (world, ..) = web(&format!("- redirect: {redirect}")).await;
        let answer = world.send(get(host, path)).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (status, location), "{redirect} {host}{path}");
    }
    let (world, ..) = web("- match: [{uri: {prefix: /old}}]\n  redirect: {uri: \"%PREFIX()%/new\"}").await;
    assert_eq!(world.send(get("web", "/old/x?y")).await.header("location"), "http://web/new/x?y");
}

#[tokio::test]
async fn direct_responses() {
    let (world, web, _) = web(
        "- match: [{uri: {exact: /text}}]\n  directResponse: {status: 418, body: {string: teapot}}\n  headers: {response: {set: {x-kind: tea}}}\n\
         - match: [{uri: {exact: /bytes}}]\n  directResponse: {status: 200, body: {bytes: aGVsbG8=}}\n\
         - directResponse: {status: 404}",
    )
    .await;
    let text = world.send(get("web", "/text")).await;
    assert_eq!((text.status.as_u16(), text.body.as_str(), text.header("x-kind")), (418, "teapot", "tea"));
    assert_eq!(world.send(get("web", "/bytes")).await.body, "hello");
    let none = world.send(get("web", "/none")).await;
    assert_eq!((none.status.as_u16(), none.body.as_str()), (404, ""));
    assert_eq!(web.count(), 0, "no server is asked");
}

#[tokio::test]
async fn rewrites() {
    let (world, ..) = web(&format!(
        "- match: [{{uri: {{prefix: /prefix/}}}}]\n  rewrite: {{uri: /}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /exact}}}}]\n  rewrite: {{uri: /new}}\n  {TO_WEB}\n\
         - match: [{{uri: {{regex: \"/regex/.*\"}}}}]\n  rewrite: {{uri: /whole}}\n  {TO_WEB}\n\
         - match: [{{uri: {{prefix: /groups}}}}]\n  rewrite: {{uriRegexRewrite: {{match: \"^/groups/([^/]+)/([^/]+)\", rewrite: '/\\2/\\1'}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{prefix: /CASE}}, ignoreUriCase: true}}]\n  rewrite: {{uri: /low}}\n  {TO_WEB}\n\
         - match: [{{uri: {{prefix: /host}}}}]\n  rewrite: {{authority: new.example}}\n  {TO_WEB}\n- {TO_WEB}"
    ))
    .await;
    for (path, seen) in [
        ("/prefix/a?b=c", "/a?b=c"),
        ("/exact?b=c", "/new?b=c"),
        ("/regex/a/b?c", "/whole?c"),
        ("/groups/a/b/c?d=e", "/b/a/c?d=e"),
        ("/case/x", "/low/x"),
        ("/none", "/none"),
    ] {
        let answer = world.send(get("web", path)).await;
        assert_eq!(answer.echo()["path"], seen, "{path}");
        let original = if path == seen { String::new() } else { path.to_owned() };
        assert_eq!(answer.seen("x-envoy-original-path"), original, "{path}");
    }
    assert_eq!(world.send(get("web", "/host")).await.seen("host"), "new.example");
}

#[tokio::test]
async fn header_operations() {
    let (world, ..) = web(
        "- match: [{uri: {prefix: /route}}]\n\
         \x20 headers: {request: {set: {a: \"1\", host: set.example}, add: {b: \"2\"}, remove: [c]}, response: {set: {x-server: hidden}, add: {d: \"4\"}, remove: [x-gone]}}\n\
         \x20 route: [{destination: {host: web}}]\n\
         - match: [{uri: {prefix: /one}}]\n\
         \x20 route: [{destination: {host: web}, headers: {request: {set: {a: one, Host: one.example}}, response: {add: {d: one}}}}]\n\
         - route:\n\
         \x20 - {destination: {host: web}, weight: 0}\n\
         \x20 - {destination: {host: other}, weight: 100, headers: {request: {set: {a: two, Host: two.example}}, response: {add: {d: two}}}}",
    )
    .await;
    let request = |path| get("web", path).header("a", "0").header("b", "0").header("c", "0");
    let answer = world.send(request("/route")).await;
    assert_eq!(answer.seen("a"), "1");
    assert_eq!(answer.seen("b"), "0,2");
    assert_eq!(answer.seen("c"), "");
    assert_eq!(answer.seen("host"), "set.example");
    assert_eq!((answer.server(), answer.header("d")), ("hidden", "4"));
    let answer = world.send(request("/one")).await;
    assert_eq!(
        (answer.seen("a").as_str(), answer.seen("host").as_str(), answer.header("d")),
        ("one", "one.example", "one")
    );
    let answer = world.send(request("/")).await;
    assert_eq!(
        (answer.seen("a").as_str(), answer.seen("host").as_str(), answer.header("d")),
        ("two", "two.example", "two")
    );
}

/// A route whose header values have operators, by side.
fn operators(request: &[(&str, &str)], response: &[(&str, &str)]) -> String {
    let map = |values: &[(&str, &str)]| {
        values.iter().map(|(name, value)| format!("{name}: \"{value}\"")).collect::<Vec<_>>().join(", ")
    };
    format!("headers: {{request: {{set: {{{}}}}}, response: {{set: {{{}}}}}}}", map(request), map(response))
}

#[tokio::test]
async fn header_operators() {
    let headers = operators(
        &[
            ("r-from", "<%REQ(a)%>"),
            ("r-either", "%REQ(none?a)%"),
            ("r-cut", "%REQ(a):2%"),
            ("r-none", "%REQ(none)%"),
            ("r-part", "x%REQ(none)%y"),
            ("r-path", "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL%"),
            ("r-original", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
            ("r-ip", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
            ("r-remote", "%DOWNSTREAM_REMOTE_ADDRESS%"),
            ("r-cluster", "%UPSTREAM_CLUSTER_RAW%"),
            ("r-host", "[%UPSTREAM_HOST%]"),
            ("r-sni", "[%REQUESTED_SERVER_NAME%]"),
            ("r-san", "[%DOWNSTREAM_PEER_URI_SAN%]"),
            ("r-flags", "[%RESPONSE_FLAGS%]"),
            ("r-code", "[%RESPONSE_CODE%]"),
            ("r-time", "%START_TIME%"),
            ("r-percent", "100%%"),
            ("b", "was %REQ(b)%"),
            ("c", "%REQ(b)%"),
        ],
        &[
            ("s-from", "<%RESP(x-server)%|%REQ(a)%|%REQ(b)%>"),
            ("s-path", "%REQ(:PATH)% %REQ(X-ENVOY-ORIGINAL-PATH)%"),
            ("s-host", "%UPSTREAM_HOST%"),
            ("s-cluster", "%UPSTREAM_CLUSTER_RAW%"),
            ("s-code", "[%RESPONSE_CODE%]"),
            ("s-none", "%RESP(none)%"),
            ("s-flags", "[%RESPONSE_FLAGS%]"),
            ("s-attempts", "[%UPSTREAM_REQUEST_ATTEMPT_COUNT%]"),
        ],
    );
    let (world, server, _) = web(&format!(
        "- match: [{{uri: {{prefix: /direct}}}}]\n  directResponse: {{status: 418}}\n  {headers}\n\
         - match: [{{uri: {{exact: /old}}}}]\n  rewrite: {{uri: /new}}\n  {headers}\n  {TO_WEB}"
    ))
    .await;
    let request = |path| get("web", path).header("a", "value").header("b", "0").header("x-forwarded-for", "10.9.8.7");
    let answer = world.send(request("/old?q")).await;
    let wanted = [
        ("r-from", "<value>"),
        ("r-either", "value"),
        ("r-cut", "va"),
        ("r-none", ""),
        ("r-part", "xy"),
        ("r-path", "GET /old?q web HTTP/1.1"),
        ("r-original", "/old?q"),
        ("r-ip", "127.0.0.1"),
        ("r-remote", "10.9.8.7:0"),
        ("r-cluster", "outbound|80||web.shop.svc.cluster.local"),
        ("r-host", "[]"),
        ("r-sni", "[]"),
        ("r-san", "[]"),
        ("r-flags", "[-]"),
        ("r-code", "[0]"),
        ("r-percent", "100%"),
        ("b", "was 0"),
        ("c", "0"),
    ];
    let seen: Vec<String> = wanted.iter().map(|(name, _)| format!("{name}: {}", answer.seen(name))).collect();
    assert_eq!(seen, wanted.map(|(name, value)| format!("{name}: {value}")));
    let time = answer.seen("r-time");
    assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert!(answer.echo()["headers"].get("r-none").is_none(), "what has no value is not sent");
    let at = server.0.address.to_string();
    let wanted = [
        ("s-from", "<web|value|was 0>"),
        ("s-path", "/new?q /old?q"),
        ("s-host", &at),
        ("s-cluster", "outbound|80||web.shop.svc.cluster.local"),
        ("s-code", "[200]"),
        ("s-none", ""),
        ("s-flags", "[-]"),
        ("s-attempts", "[1]"),
    ];
    let seen: Vec<String> = wanted.iter().map(|(name, _)| format!("{name}: {}", answer.header(name))).collect();
    assert_eq!(seen, wanted.map(|(name, value)| format!("{name}: {value}")));
    assert!(!answer.headers.contains_key("s-none"), "what has no value is not set");
    let direct = world.send(request("/direct")).await;
    assert_eq!((direct.header("s-from"), direct.header("s-code")), ("<|value|0>", "[0]"));
}

#[tokio::test]
async fn header_operators_of_times_paths_and_places() {
    let headers = operators(
        &[
            ("r-year", "%START_TIME(%Y)%"),
            ("r-epoch", "%START_TIME(%s.%3f)%"),
            ("r-form", "%START_TIME(%a, %d %b %Y %T %Z%Ez %1f)%"),
            ("r-emitted", "%EMIT_TIME(%s)%"),
            ("r-bare", "%PATH(NQ)% %PATH(WQ:PATH)% [%PATH(NQ:ORIG)%]"),
            ("r-cut-path", "%PATH(WQ):5%"),
            ("r-upstream", "[%UPSTREAM_REMOTE_PORT%]"),
            ("r-variable", "%ENVIRONMENT(HOME)% %ENVIRONMENT(NO_SUCH_VARIABLE)%"),
            ("r-alias", "%REQUEST_HEADER(a)%"),
        ],
        &[
            ("s-port", "%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%"),
            ("s-long", "[%RESPONSE_FLAGS_LONG%]"),
            ("s-details", "%RESPONSE_CODE_DETAILS%"),
            ("s-alias", "%RESPONSE_HEADER(x-server)%"),
        ],
    );
    let (world, server, _) =
        web(&format!("- match: [{{uri: {{exact: /old}}}}]\n  rewrite: {{uri: /new}}\n  {headers}\n  {TO_WEB}")).await;
    let answer = world.send(get("web", "/old?q").header("a", "value")).await;
    let variable = format!("{} -", std::env::var("HOME").unwrap_or_else(|_| "-".to_owned()));
    let wanted = [
        ("r-bare", "/old /old?q []"),
        ("r-cut-path", "/old?"),
        ("r-upstream", "[]"),
        ("r-variable", &variable),
        ("r-alias", "value"),
    ];
    let seen: Vec<String> = wanted.iter().map(|(name, _)| format!("{name}: {}", answer.seen(name))).collect();
    assert_eq!(seen, wanted.map(|(name, value)| format!("{name}: {value}")));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64();
    let (epoch, form, year) = (answer.seen("r-epoch"), answer.seen("r-form"), answer.seen("r-year"));
    for (text, length) in [(&epoch, 14), (&answer.seen("r-emitted"), 10)] {
        let asked: f64 = text.parse().expect("seconds");
        assert!(text.len() == length && asked <= now && now - asked < 600.0, "{text}");
    }
    assert!(year.len() == 4 && form.contains(&format!(" {year} ")) && form.contains(" UTC+00:00 "), "{year} {form}");
    let at = server.0.address;
    let wanted = [
        ("s-port", &format!("{} {}", at.ip(), at.port())),
        ("s-long", &"[-]".to_owned()),
        ("s-details", &"via_upstream".to_owned()),
        ("s-alias", &"web".to_owned()),
    ];
    let seen: Vec<String> = wanted.iter().map(|(name, _)| format!("{name}: {}", answer.header(name))).collect();
    assert_eq!(seen, wanted.map(|(name, value)| format!("{name}: {value}")));
}

#[tokio::test]
async fn timeouts() {
    let (world, web, _) = web(&format!("- timeout: 1s\n  {TO_WEB}")).await;
    assert_eq!(world.send(get("web", "/")).await.status, 200);
    web.change(|_| Act::Late(Duration::from_secs(20)));
    let answer = world.send(get("web", "/")).await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (504, "upstream request timeout"));
}

#[tokio::test]
async fn faults() {
    let (world, web, _) = web(&format!(
        "- match: [{{uri: {{exact: /http}}}}]\n  fault: {{abort: {{httpStatus: 599, percentage: {{value: 100}}}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /grpc}}}}]\n  fault: {{abort: {{grpcStatus: NOT_FOUND}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /none}}}}]\n  fault: {{abort: {{httpStatus: 500, percentage: {{value: 0}}}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /half}}}}]\n  fault: {{abort: {{httpStatus: 500, percentage: {{value: 50}}}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /late}}}}]\n  fault: {{delay: {{fixedDelay: 0.3s, percentage: {{value: 100}}}}}}\n  {TO_WEB}\n\
         - match: [{{uri: {{exact: /old}}}}]\n  fault: {{delay: {{fixedDelay: 0.3s, percent: 100}}}}\n  {TO_WEB}\n- {TO_WEB}"
    ))
    .await;
    let http = world.send(get("web", "/http")).await;
    assert_eq!((http.status.as_u16(), http.body.as_str()), (599, "fault filter abort"));
    let grpc = world.send(get("web", "/grpc").header("content-type", "application/grpc")).await;
    assert_eq!((grpc.status.as_u16(), grpc.header("grpc-status")), (200, "5"));
    assert_eq!(web.count(), 0, "an abort does not reach the server");
    assert_eq!(world.send(get("web", "/none")).await.server(), "web");
    let half = world.tally(200, || get("web", "/half")).await;
    assert!((50..150).contains(&half["web"]), "{half:?}");
    for path in ["/late", "/old"] {
        let start = Instant::now();
        assert_eq!(world.send(get("web", path)).await.server(), "web");
        // Envoy counts from when its loop woke up last, a little before the request came.
        assert!(start.elapsed() >= Duration::from_millis(200), "{path} waits before the server is asked");
    }
}

#[tokio::test]
async fn mirrors() {
    let third = Server::echo("third").await;
    let (web, other) = (Server::echo("web").await, Server::echo("other").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &web)]).http("other", &[("", &other)]).http("third", &[("", &third)]);
    mesh.virtual_service(
        "web",
        "hosts: [web]\nhttp:\n\
         - match: [{uri: {prefix: /one}}]\n  mirror: {host: other}\n  route: [{destination: {host: web}}]\n\
         - match: [{uri: {prefix: /none}}]\n  mirror: {host: other}\n  mirrorPercentage: {value: 0}\n  route: [{destination: {host: web}}]\n\
         - match: [{uri: {prefix: /old}}]\n  mirror: {host: other}\n  mirrorPercent: 0\n  route: [{destination: {host: web}}]\n\
         - match: [{uri: {prefix: /two}}]\n  mirrors: [{destination: {host: other}}, {destination: {host: third}, percentage: {value: 100}}]\n  route: [{destination: {host: web}}]",
    );
    let world = mesh.start().await;
    assert_eq!(world.send(get("web", "/one").header("a", "1")).await.server(), "web");
    until("the copy arrives", || other.count() == 1).await;
    assert_eq!(other.last().headers["a"], "1");
    assert_eq!(world.send(get("web", "/none")).await.server(), "web");
    assert_eq!(world.send(get("web", "/old")).await.server(), "web");
    assert_eq!(world.send(get("web", "/two")).await.server(), "web");
    until("both copies arrive", || other.count() == 2 && third.count() == 1).await;
    assert_eq!(other.last().path, "/two", "nothing of /none and /old");
    assert_eq!(web.count(), 4);
}

#[tokio::test]
async fn cross_origin_requests() {
    let (world, web, _) = web(&format!(
        "- match: [{{uri: {{prefix: /ignore}}}}]\n  corsPolicy: {{allowOrigins: [{{exact: \"https://a.example\"}}], unmatchedPreflights: IGNORE}}\n  {TO_WEB}\n\
         - corsPolicy:\n    allowOrigins: [{{exact: \"https://a.example\"}}, {{prefix: \"https://p.\"}}, {{regex: \"https://r[0-9]+\"}}]\n    \
         allowMethods: [GET, POST]\n    allowHeaders: [x-a, x-b]\n    exposeHeaders: [x-c]\n    maxAge: 24h\n    allowCredentials: true\n  {TO_WEB}"
    ))
    .await;
    let preflight = |path, origin| {
        http::Request::options(path)
            .header("host", "web")
            .header("origin", origin)
            .header("access-control-request-method", "GET")
    };
    let asked = world.send(preflight("/", "https://a.example")).await;
    assert_eq!(asked.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "x-a,x-b"),
        ("access-control-max-age", "86400"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
    assert_eq!(web.count(), 0, "a preflight that matches is answered by the proxy");
    let simple = world.send(get("web", "/").header("origin", "https://p.example")).await;
    assert_eq!((simple.server(), simple.header("access-control-allow-origin")), ("web", "https://p.example"));
    assert_eq!(simple.header("access-control-expose-headers"), "x-c");
    assert_eq!(
        world.send(get("web", "/").header("origin", "https://r7")).await.header("access-control-allow-origin"),
        "https://r7"
    );
    let foreign = world.send(get("web", "/").header("origin", "https://b.example")).await;
    assert_eq!((foreign.server(), foreign.header("access-control-allow-origin")), ("web", ""));
    let forwarded = world.send(preflight("/", "https://b.example")).await;
    assert_eq!(forwarded.server(), "web", "a preflight of another origin is the application's");
    let ignored = world.send(preflight("/ignore", "https://b.example")).await;
    assert_eq!(
        (ignored.status.as_u16(), ignored.server(), ignored.header("access-control-allow-origin")),
        (200, "", "")
    );
}

#[tokio::test]
async fn old_cross_origin_lists() {
    let (world, ..) = web(&format!("- corsPolicy: {{allowOrigin: [\"https://a.example\"]}}\n  {TO_WEB}")).await;
    let answer = world.send(get("web", "/").header("origin", "https://a.example")).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://a.example");
}

#[tokio::test]
async fn bodies_survive() {
    let (world, ..) = web(&format!("- {TO_WEB}")).await;
    let answer = world.send_body(post("web", "/"), "hello").await;
    assert_eq!(answer.echo()["body"], "hello");
}
