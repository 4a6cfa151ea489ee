use http::{HeaderMap, HeaderValue};

use super::*;
use crate::matching::{HeaderKey, HeaderMatch, HeaderValueMatch, StringMatch};
use crate::route::{Action, Forward, PathMatch, RetryOn, RetryPolicy, RouteMatch, TryEnd, WeightedCluster};

fn forward(clusters: &[(&'static str, u32)]) -> Forward<&'static str> {
    Forward {
        clusters: clusters
            .iter()
            .map(|(cluster, weight)| WeightedCluster {
                cluster: *cluster,
                weight: *weight,
                request_headers: HeaderMutation::default(),
                response_headers: HeaderMutation::default(),
                host_rewrite: None,
            })
            .collect(),
        total_weight: clusters.iter().map(|c| c.1).sum(),
        timeout: None,
        grpc_max: None,
        idle_timeout: None,
        retry: None,
        prefix_rewrite: None,
        regex_rewrite: None,
        host_rewrite: None,
        hash: Vec::new(),
        mirrors: Vec::new(),
        not_found: http::StatusCode::SERVICE_UNAVAILABLE,
        connect_ends: false,
    }
}

fn route(name: &str, headers: Vec<HeaderMatch>, clusters: &[(&'static str, u32)]) -> Route<&'static str> {
    Route {
        name: name.into(),
        matches: RouteMatch {
            path: PathMatch::Prefix(StringMatch::Prefix("/".into())),
            headers,
            query: Vec::new(),
            grpc: false,
        },
        action: Action::Forward(Box::new(forward(clusters))),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        fault: None,
        cors: None,
        operation: None,
        counters: None,
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<Route<&'static str>>) -> VirtualHost<&'static str> {
    VirtualHost {
        name: name.into(),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        routes,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        attempt_count: true,
    }
}

fn view<'a>(authority: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView { authority, path: "/pay?x=1", method: "GET", scheme: "http", headers }
}

fn table(hosts: Vec<VirtualHost<&'static str>>) -> Result<RouteTable<VirtualHost<&'static str>>, String> {
    let domains: Vec<Vec<String>> = hosts.iter().map(|h| h.domains.clone()).collect();
    RouteTable::new("r".into(), domains.iter().zip(hosts), false)
}

#[test]
fn domains_go_from_the_narrow_to_the_wide() {
    let hosts = vec![
        host("any", &["*"], vec![]),
        host("exact", &["a.example", "a.example:80"], vec![]),
        host("suffix", &["*.example"], vec![]),
        host("longer", &["*.b.example"], vec![]),
        host("prefix", &["www.*"], vec![]),
    ];
    let table = table(hosts).unwrap();
    for (authority, wanted) in [
        ("a.example", "exact"),
        ("A.Example", "exact"),
        ("a.example:80", "exact"),
        ("c.example", "suffix"),
        ("c.b.example", "longer"),
        ("www.other", "prefix"),
        ("other", "any"),
        (".example", "any"),
    ] {
        assert_eq!(&*table.host(authority).unwrap().name, wanted, "{authority}");
    }
    assert!(self::table(vec![host("a", &["x"], vec![]), host("b", &["X"], vec![])]).is_err());
}

#[test]
fn the_first_route_that_matches_is_taken_and_weights_divide() {
    let canary = HeaderMatch {
        key: HeaderKey::new("x-canary-user").unwrap(),
        value: HeaderValueMatch::Text(StringMatch::Exact("true".into())),
        invert: false,
        missing_is_empty: false,
    };
    let routes = vec![route("canary", vec![canary], &[("v2", 1)]), route("split", vec![], &[("v1", 90), ("v2", 10)])];
    let host = host("h", &["*"], routes);
    let mut headers = HeaderMap::new();
    assert_eq!(&*host.route(&view("h", &headers)).unwrap().name, "split");
    headers.insert("x-canary-user", HeaderValue::from_static("true"));
    assert_eq!(&*host.route(&view("h", &headers)).unwrap().name, "canary");
    let split = forward(&[("v1", 90), ("v2", 10)]);
    let v2 = (0..1000).filter(|n| split.pick(*n).unwrap().cluster == "v2").count();
    assert_eq!(v2, 100);
    assert!(forward(&[("v1", 0), ("v2", 0)]).pick(7).is_none());
}

#[test]
fn retry_conditions_are_envoys() {
    let policy = |on: &str| RetryPolicy {
        on: RetryOn::parse(on).unwrap(),
        statuses: vec![503],
        retries: 2,
        per_try_timeout: None,
        backoff_base: std::time::Duration::from_millis(25),
        backoff_max: std::time::Duration::from_millis(250),
        previous_hosts: true,
        host_attempts: 5,
        other_priorities: 0,
        cautious: false,
    };
    let status = |status| TryEnd::Response { status, grpc: None };
    assert!(policy("5xx").applies(status(500), false) && !policy("5xx").applies(status(499), false));
    assert!(
        policy("gateway-error").applies(status(503), false) && !policy("gateway-error").applies(status(500), false)
    );
    assert!(policy("retriable-status-codes").applies(status(503), false));
    assert!(!policy("connect-failure").applies(TryEnd::Reset { sent: true }, false));
    assert!(policy("reset").applies(TryEnd::Reset { sent: true }, false));
    assert!(!policy("reset-before-request").applies(TryEnd::Reset { sent: true }, false));
    assert!(policy("unavailable").applies(TryEnd::Response { status: 200, grpc: Some(14) }, false));
    let cautious = RetryPolicy { cautious: true, ..policy("connect-failure,unavailable,reset") };
    let unavailable = TryEnd::Response { status: 200, grpc: Some(14) };
    assert!(cautious.applies(unavailable, true) && !cautious.applies(unavailable, false));
    assert!(cautious.applies(TryEnd::ConnectFailure, false) && cautious.applies(TryEnd::Reset { sent: false }, false));
    assert!(!cautious.applies(TryEnd::Reset { sent: true }, false));
    assert_eq!(RetryOn::parse("5xx, nonsense"), Err("nonsense".to_owned()));
}

#[test]
fn ports_are_cut_with_care() {
    for (authority, wanted) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("::1", "::1"), ("a:", "a:")] {
        assert_eq!(without_port(authority), wanted);
    }
}

#[test]
fn a_grpc_call_may_name_its_limit_where_the_route_lets_it() {
    use std::time::Duration;
    let seconds = Duration::from_secs;
    let call = |timeout: &'static str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-timeout", http::HeaderValue::from_static(timeout));
        headers
    };
    let mut route = forward(&[("a", 1)]);
    route.timeout = Some(seconds(15));
    assert_eq!(route.limit(&call("20S")), Some(seconds(15)), "not where it is not configured");
    route.grpc_max = Some(Duration::ZERO);
    for (text, limit) in [
        ("20S", seconds(20)),
        ("1H", seconds(3600)),
        ("2M", seconds(120)),
        ("1500m", Duration::from_millis(1500)),
        ("7u", Duration::from_micros(7)),
        ("9n", Duration::from_nanos(9)),
        ("99999999H", seconds(99_999_999 * 3600)),
        // No gRPC timeouts: the route's counts.
        ("", seconds(15)),
        ("S", seconds(15)),
        ("-1S", seconds(15)),
        ("123456789S", seconds(15)),
        ("5x", seconds(15)),
    ] {
        assert_eq!(route.limit(&call(text)), Some(limit), "{text}");
    }
    route.grpc_max = Some(seconds(10));
    assert_eq!(route.limit(&call("20S")), Some(seconds(10)));
    let mut plain = call("20S");
    plain.remove("content-type");
    assert_eq!(route.limit(&plain), Some(seconds(15)), "only of a gRPC call");
}
