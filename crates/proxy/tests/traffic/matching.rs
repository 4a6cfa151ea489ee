//! Which route of a VirtualService a request takes.

use crate::server::Server;
use crate::world::{Mesh, World, get, post};

/// Servers `v1` and `v2` behind `web`; what matches goes to `v2`.
async fn web(matches: &str) -> World {
    let (one, two) = (Server::echo("v1").await, Server::echo("v2").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("version: v1", &one), ("version: v2", &two)])
        .destination_rule(
            "web",
            "host: web\nsubsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]",
        )
        .virtual_service(
            "web",
            &format!(
                "hosts: [web]\nhttp:\n- match: {matches}\n  route: [{{destination: {{host: web, subset: v2}}}}]\n\
                 - route: [{{destination: {{host: web, subset: v1}}}}]"
            ),
        );
    mesh.start().await
}

async fn goes(world: &World, request: http::request::Builder) -> String {
    world.send(request).await.server().to_owned()
}

#[tokio::test]
async fn paths() {
    let world = web("[{uri: {exact: /whole}}, {uri: {prefix: /begin}}, {uri: {regex: \"/r[0-9]+\"}}]").await;
    for (path, server) in [
        ("/whole", "v2"),
        ("/whole?q=1", "v2"),
        ("/wholes", "v1"),
        ("/Whole", "v1"),
        ("/begin", "v2"),
        ("/beginning/of", "v2"),
        ("/r42", "v2"),
        ("/r42?x", "v2"),
        ("/r42x", "v1"),
        ("/xr42", "v1"),
    ] {
        assert_eq!(goes(&world, get("web", path)).await, server, "{path}");
    }
}

#[tokio::test]
async fn paths_without_case() {
    let world =
        web("[{uri: {exact: /Whole}, ignoreUriCase: true}, {uri: {prefix: /beGin}, ignoreUriCase: true}]").await;
    for (path, server) in [("/whole", "v2"), ("/WHOLE", "v2"), ("/BEGINning", "v2"), ("/other", "v1")] {
        assert_eq!(goes(&world, get("web", path)).await, server, "{path}");
    }
}

#[tokio::test]
async fn methods_authorities_and_schemes() {
    let world = web("[{method: {exact: POST}}, {authority: {prefix: web.shop}}, {scheme: {exact: https}}]").await;
    assert_eq!(goes(&world, get("web", "/")).await, "v1");
    assert_eq!(goes(&world, post("web", "/")).await, "v2");
    assert_eq!(goes(&world, get("web.shop", "/")).await, "v2");
    assert_eq!(goes(&world, get("web.shop.svc.cluster.local:80", "/")).await, "v2");
}

#[tokio::test]
async fn headers() {
    let world = web("[{headers: {a: {exact: x}}}, {headers: {b: {prefix: p}}}, {headers: {c: {regex: \"[0-9]+\"}}}, \
         {headers: {there: {}}}, {withoutHeaders: {always: {}}}, {withoutHeaders: {always: {exact: \"1\"}}}]")
    .await;
    let base = || get("web", "/").header("always", "1");
    assert_eq!(goes(&world, base()).await, "v1");
    for (name, value, server) in [
        ("a", "x", "v2"),
        ("a", "X", "v1"),
        ("A", "x", "v2"),
        ("b", "pre", "v2"),
        ("b", "no", "v1"),
        ("c", "123", "v2"),
        ("c", "123x", "v1"),
        ("there", "", "v2"),
        ("there", "any", "v2"),
    ] {
        assert_eq!(goes(&world, base().header(name, value)).await, server, "{name}: {value}");
    }
    assert_eq!(goes(&world, get("web", "/")).await, "v2", "without the header");
    assert_eq!(goes(&world, get("web", "/").header("always", "2")).await, "v2", "with another value");
}

#[tokio::test]
async fn query_parameters() {
    let world = web(
        "[{queryParams: {a: {exact: x}}}, {queryParams: {b: {prefix: p}}}, {queryParams: {c: {regex: \"[0-9]+\"}}}]",
    )
    .await;
    for (path, server) in [
        ("/?a=x", "v2"),
        ("/?z=1&a=x", "v2"),
        ("/?a=xy", "v1"),
        ("/?a=y&a=x", "v1"),
        ("/?b=pq", "v2"),
        ("/?b", "v1"),
        ("/?c=12", "v2"),
        ("/?c=12a", "v1"),
        ("/", "v1"),
    ] {
        assert_eq!(goes(&world, get("web", path)).await, server, "{path}");
    }
}

#[tokio::test]
async fn several_conditions_and_several_matches() {
    let world = web("[{uri: {prefix: /a}, headers: {x: {exact: \"1\"}}}, {uri: {prefix: /b}}]").await;
    assert_eq!(goes(&world, get("web", "/a")).await, "v1", "only one of two conditions");
    assert_eq!(goes(&world, get("web", "/a").header("x", "1")).await, "v2", "both");
    assert_eq!(goes(&world, get("web", "/b")).await, "v2", "the other match");
}

#[tokio::test]
async fn who_calls_decides() {
    for (matches, server) in [
        ("[{sourceLabels: {app: client}}]", "v2"),
        ("[{sourceLabels: {app: other}}]", "v1"),
        ("[{sourceNamespace: shop}]", "v2"),
        ("[{sourceNamespace: elsewhere}]", "v1"),
        ("[{gateways: [mesh]}]", "v2"),
        ("[{port: 80}]", "v2"),
        ("[{port: 81}]", "v1"),
    ] {
        let world = web(matches).await;
        assert_eq!(goes(&world, get("web", "/")).await, server, "{matches}");
    }
}

#[tokio::test]
async fn host_names() {
    let (one, two, three) = (Server::echo("one").await, Server::echo("two").await, Server::echo("three").await);
    let mut mesh = Mesh::new();
    mesh.http("one", &[("", &one)]).http("two", &[("", &two)]).http("three", &[("", &three)]);
    mesh.virtual_service("wide", "hosts: [\"*.example.com\"]\nhttp: [{route: [{destination: {host: one}}]}]");
    mesh.virtual_service("exact", "hosts: [a.example.com]\nhttp: [{route: [{destination: {host: two}}]}]");
    mesh.virtual_service(
        "full",
        "hosts: [one.shop.svc.cluster.local]\nhttp: [{route: [{destination: {host: three.shop.svc.cluster.local}}]}]",
    );
    mesh.virtual_service(
        "hidden",
        "hosts: [two]\nexportTo: [elsewhere]\nhttp: [{route: [{destination: {host: one}}]}]",
    );
    let world = mesh.start().await;
    for (host, server) in [
        ("b.example.com", "one"),
        ("a.example.com", "two"),
        ("a.example.com:8080", "two"),
        ("one", "three"),
        ("one.shop", "three"),
        ("two", "two"),
    ] {
        assert_eq!(goes(&world, get(host, "/")).await, server, "{host}");
    }
}

#[tokio::test]
async fn delegates() {
    let (one, two, three) = (Server::echo("one").await, Server::echo("two").await, Server::echo("three").await);
    let mut mesh = Mesh::new();
    mesh.http("one", &[("", &one)]).http("two", &[("", &two)]).http("three", &[("", &three)]);
    mesh.virtual_service(
        "root",
        "hosts: [one]\nhttp:\n\
         - match: [{uri: {prefix: /pay}}]\n  delegate: {name: pay, namespace: team}\n\
         - match: [{uri: {prefix: /lost}}]\n  delegate: {name: nobody}\n\
         - match: [{uri: {prefix: /both}, headers: {x: {exact: \"1\"}}}]\n  headers: {request: {set: {from: root}}}\n  delegate: {name: both}\n\
         - route: [{destination: {host: one}}]",
    );
    mesh.rule(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: pay, namespace: team}\n\
         spec:\n  http:\n\
         \x20 - match: [{uri: {prefix: /pay/two}}, {uri: {prefix: /other}}]\n    route: [{destination: {host: two.shop.svc.cluster.local}}]\n\
         \x20 - match: [{uri: {prefix: /pay/three}}]\n    route: [{destination: {host: three.shop.svc.cluster.local}}]",
    );
    mesh.virtual_service(
        "both",
        "http:\n- match: [{headers: {y: {exact: \"2\"}}}]\n  route: [{destination: {host: two}}]\n\
         - route: [{destination: {host: three}}]",
    );
    let world = mesh.start().await;
    for (path, server) in
        [("/pay/three", "three"), ("/pay/three/x", "three"), ("/lost", "one"), ("/other", "one"), ("/", "one")]
    {
        assert_eq!(goes(&world, get("one", path)).await, server, "{path}");
    }
    let answer = world.send(get("one", "/both").header("x", "1").header("y", "2")).await;
    assert_eq!((answer.server(), answer.seen("from").as_str()), ("two", "root"), "the root's headers are inherited");
    assert_eq!(goes(&world, get("one", "/both").header("x", "1")).await, "three", "the root's match alone");
    assert_eq!(goes(&world, get("one", "/both").header("y", "2")).await, "one", "the delegate's match alone");
}

#[tokio::test]
async fn counters_of_a_route() {
    let world = web("[{uri: {prefix: /a}, statPrefix: orders}]").await;
    assert_eq!(goes(&world, get("web", "/a")).await, "v2");
    assert_eq!(goes(&world, get("web", "/b")).await, "v1");
    let name = "vhost.web.shop.svc.cluster.local:80.route.orders.upstream_rq_2xx";
    assert_eq!(world.stat(name).await, 1);
}
