//! DestinationRules: whose counts, how a host is picked, and how many requests may be on their way.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::server::{Act, Server, until};
use crate::world::{Mesh, World, get};

/// `web` on three servers with one traffic policy.
async fn three(policy: &str) -> (World, [Server; 3]) {
    let servers = [Server::echo("a").await, Server::echo("b").await, Server::echo("c").await];
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", &servers[0]), ("", &servers[1]), ("", &servers[2])]);
    mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {policy}"));
    (mesh.start().await, servers)
}

fn least(tally: &HashMap<String, usize>) -> usize {
    tally.values().copied().min().unwrap_or(0)
}

#[tokio::test]
async fn simple_balancing() {
    let (world, _) = three("{loadBalancer: {simple: ROUND_ROBIN}}").await;
    let tally = world.tally(30, || get("web", "/")).await;
    assert_eq!((tally.len(), least(&tally)), (3, 10), "{tally:?}");
    for simple in ["RANDOM", "LEAST_REQUEST", "LEAST_CONN", "UNSPECIFIED"] {
        let (world, _) = three(&format!("{{loadBalancer: {{simple: {simple}}}}}")).await;
        let tally = world.tally(300, || get("web", "/")).await;
        assert!(tally.len() == 3 && least(&tally) > 50, "{simple}: {tally:?}");
    }
}

#[tokio::test]
async fn least_request_avoids_the_busy() {
    let (world, servers) = three("{loadBalancer: {simple: LEAST_REQUEST}}").await;
    servers[0].change(|seen| if seen.path == "/slow" { Act::Late(Duration::from_secs(600)) } else { Act::Echo });
    // One server is at work on slow requests while the others are idle.
    let slow = async { join_all((0..40).map(|_| world.send_apart(get("web", "/slow"))).collect()).await };
    let quick = async {
        until("the slow ones have arrived", || servers.iter().map(Server::count).sum::<usize>() >= 40).await;
        assert!(servers[0].count() > 0, "one of forty");
        world.tally(300, || get("web", "/")).await
    };
    let tally = tokio::select! {
        _ = slow => panic!("the slow server answered"),
        tally = quick => tally,
    };
    // It is taken only when both choices fall on it: 33 of 300 instead of 100, with a deviation of 5.4.
    let busy = tally.get("a").copied().unwrap_or(0);
    assert!(busy < 66, "two choices avoid the busy one: {tally:?}");
}

/// Runs futures side by side.
pub async fn join_all<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in pending.iter_mut().zip(done.iter_mut()).filter(|(_, slot)| slot.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(cx) {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn consistent_hashing() {
    for policy in [
        "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
        "{loadBalancer: {consistentHash: {httpHeaderName: x-user, ringHash: {minimumRingSize: 4096}}}}",
        "{loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 1009}}}}",
        "{loadBalancer: {consistentHash: {httpHeaderName: x-user, minimumRingSize: 2048}}}",
        "{loadBalancer: {consistentHash: {httpQueryParameterName: user}}}",
        "{loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}}",
    ] {
        let (world, _) = three(policy).await;
        let mut used = BTreeSet::new();
        for user in 0..30 {
            let request = || {
                get("web", &format!("/?user={user}"))
                    .header("x-user", user.to_string())
                    .header("cookie", format!("a=b; user={user}"))
            };
            let tally = world.tally(4, request).await;
            assert_eq!(tally.len(), 1, "{policy}: one user stays with one server: {tally:?}");
            used.extend(tally.into_keys());
        }
        assert_eq!(used.len(), 3, "{policy}: users are spread");
    }
    let (world, _) = three("{loadBalancer: {consistentHash: {useSourceIp: true}}}").await;
    assert_eq!(world.tally(20, || get("web", "/")).await.len(), 1);
}

#[tokio::test]
async fn a_cookie_is_made() {
    let policy = "{loadBalancer: {consistentHash: {httpCookie: {name: user, path: /p, ttl: 60s, attributes: [{name: SameSite, value: Lax}]}}}}";
    let (world, _) = three(policy).await;
    let first = world.send(get("web", "/")).await;
    let cookie = first.header("set-cookie").to_owned();
    assert!(cookie.starts_with("user=\"") && cookie.contains("Max-Age=60") && cookie.contains("Path=/p"), "{cookie}");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    let value = cookie.split(';').next().unwrap_or_default().to_owned();
    for _ in 0..10 {
        let answer = world.send(get("web", "/").header("cookie", &value)).await;
        assert_eq!((answer.server(), answer.header("set-cookie")), (first.server(), ""));
    }
}

#[tokio::test]
async fn subsets_ports_and_inheritance() {
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("version: v1", &a), ("version: v1", &b)]);
    mesh.destination_rule(
        "web",
        "host: web\ntrafficPolicy:\n  loadBalancer: {consistentHash: {httpHeaderName: x-user}}\n\
         subsets:\n- {name: plain, labels: {version: v1}}\n\
         - {name: own, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n\
         - {name: port, labels: {version: v1}, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}, {port: {number: 81}, loadBalancer: {simple: RANDOM}}]}}",
    );
    let route = |subset: &str| {
        format!(
            "- match: [{{uri: {{prefix: /{subset}}}}}]\n  route: [{{destination: {{host: web, subset: {subset}}}}}]\n"
        )
    };
    mesh.virtual_service(
        "web",
        &format!(
            "hosts: [web]\nhttp:\n{}{}{}- route: [{{destination: {{host: web}}}}]",
            route("plain"),
            route("own"),
            route("port")
        ),
    );
    let world = mesh.start().await;
    for (path, servers) in [("/", 1), ("/plain", 1), ("/own", 2), ("/port", 2)] {
        let tally = world.tally(8, || get("web", path).header("x-user", "1")).await;
        assert_eq!(tally.len(), servers, "{path}: {tally:?}");
    }
}

#[tokio::test]
async fn whose_rule_counts() {
    let hash = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}";
    let rule = |name: &str, namespace: &str, rest: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {rest}\n  {hash}"
        )
    };
    let full = "host: web.back.svc.cluster.local";
    // Each: the rules, and how many servers a user sees. A rule that counts makes it one.
    let cases: [(&str, Vec<String>, usize); 9] = [
        ("of the client", vec![rule("a", "shop", full)], 1),
        ("of the service", vec![rule("a", "back", "host: web")], 1),
        ("of the root", vec![rule("a", "istio-system", full)], 1),
        ("of a stranger", vec![rule("a", "other", full)], 2),
        ("by wildcard", vec![rule("a", "shop", "host: \"*.back.svc.cluster.local\"")], 1),
        ("not exported", vec![rule("a", "back", "host: web\n  exportTo: [\".\"]")], 2),
        ("exported by name", vec![rule("a", "back", "host: web\n  exportTo: [shop]")], 1),
        (
            "selected",
            vec![rule("a", "shop", &format!("{full}\n  workloadSelector: {{matchLabels: {{app: client}}}}"))],
            1,
        ),
        (
            "of others",
            vec![rule("a", "shop", &format!("{full}\n  workloadSelector: {{matchLabels: {{app: other}}}}"))],
            2,
        ),
    ];
    for (what, rules, servers) in cases {
        let (a, b) = (Server::echo("a").await, Server::echo("b").await);
        let mut mesh = Mesh::new();
        mesh.service("web", "back", &[("http", 80)], &[("", &a), ("", &b)]);
        for rule in &rules {
            mesh.rule(rule);
        }
        let world = mesh.start().await;
        let tally = world.tally(30, || get("web.back", "/").header("x-user", "1")).await;
        assert_eq!(tally.len(), servers, "{what}: {tally:?}");
    }
}

#[tokio::test]
async fn rules_of_one_host_are_merged() {
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let mut mesh = Mesh::new();
    mesh.http("web", &[("version: v1", &a), ("version: v2", &b)]);
    mesh.destination_rule("one", "host: web\nsubsets: [{name: v1, labels: {version: v1}}]");
    mesh.destination_rule(
        "two",
        "host: web\nsubsets: [{name: v2, labels: {version: v2}}, {name: v1, labels: {version: v2}}]",
    );
    mesh.virtual_service(
        "web",
        "hosts: [web]\nhttp:\n- match: [{uri: {prefix: /v2}}]\n  route: [{destination: {host: web, subset: v2}}]\n- route: [{destination: {host: web, subset: v1}}]",
    );
    let world = mesh.start().await;
    assert_eq!(world.tally(5, || get("web", "/v2")).await["b"], 5);
    assert_eq!(world.tally(5, || get("web", "/")).await["a"], 5, "the first definition of a subset stays");
}

/// That a new host's share grows is shown with a paused clock, in `upstream`; here both are new, and so are equal.
#[tokio::test]
async fn hosts_are_warmed_up() {
    for policy in [
        "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 3600s, minimumPercent: 20, aggression: 2.0}}}",
        "{loadBalancer: {simple: LEAST_REQUEST, warmup: {duration: 3600s}}}",
        "{loadBalancer: {warmupDurationSecs: 3600s}}",
    ] {
        let (world, _) = three(policy).await;
        let tally = world.tally(150, || get("web", "/")).await;
        assert!(tally.len() == 3 && least(&tally) > 20, "{policy}: {tally:?}");
    }
}
