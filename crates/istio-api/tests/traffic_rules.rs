//! What a VirtualService and a DestinationRule must fulfil: each mistake is named with its field.

use istio_api::{read, yaml};

fn mistakes(kind: &str, spec: &str) -> Vec<String> {
    let text = format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n");
    let documents = yaml::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    match read(&documents[0], "default") {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|e| e.pointer).collect(),
    }
}

#[test]
fn virtual_services() {
    let route = "route: [{destination: {host: b}}]";
    let http = |rest: &str| format!("hosts: [a], http: [{{{route}, {rest}}}]");
    let cases = [
        (format!("hosts: [a], http: [{{{route}}}]"), ""),
        (format!("hosts: [a], gateways: [mesh, g], exportTo: [\".\", other], http: [{{{route}}}]"), ""),
        (format!("http: [{{{route}}}]"), ""),
        ("hosts: [a]".to_owned(), "/spec"),
        (format!("gateways: [g], http: [{{{route}}}]"), "/spec/gateways"),
        (format!("hosts: [\"*\"], http: [{{{route}}}]"), "/spec/hosts/0"),
        (format!("hosts: [\"a b\"], http: [{{{route}}}]"), "/spec/hosts/0"),
        (format!("hosts: [a, a], http: [{{{route}}}]"), "/spec/hosts/1"),
        (format!("hosts: [a], exportTo: [\"*\", b], http: [{{{route}}}]"), "/spec/exportTo/0"),
        ("hosts: [a], http: [{}]".to_owned(), "/spec/http/0"),
        (http("redirect: {uri: /x}"), "/spec/http/0"),
        ("hosts: [a], http: [{redirect: {}}]".to_owned(), "/spec/http/0/redirect"),
        (
            "hosts: [a], http: [{redirect: {uri: /x, redirectCode: 200}}]".to_owned(),
            "/spec/http/0/redirect/redirectCode",
        ),
        (
            "hosts: [a], http: [{redirect: {port: 1, derivePort: FROM_REQUEST_PORT}}]".to_owned(),
            "/spec/http/0/redirect/derivePort",
        ),
        (
            "hosts: [a], http: [{redirect: {uri: /x}, fault: {abort: {httpStatus: 500}}}]".to_owned(),
            "/spec/http/0/fault",
        ),
        ("hosts: [a], http: [{directResponse: {status: 99}}]".to_owned(), "/spec/http/0/directResponse/status"),
        (http("rewrite: {}"), "/spec/http/0/rewrite"),
        (http("rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}"), "/spec/http/0/rewrite/uriRegexRewrite"),
        (http("rewrite: {uriRegexRewrite: {match: \"(\", rewrite: b}}"), "/spec/http/0/rewrite/uriRegexRewrite/match"),
        (http("timeout: 1us"), "/spec/http/0/timeout"),
        (http("timeout: 0s"), ""),
        (http("retries: {attempts: -1}"), "/spec/http/0/retries/attempts"),
        (http("retries: {attempts: 0, retryOn: 5xx}"), "/spec/http/0/retries/attempts"),
        (http("retries: {attempts: 1, retryOn: \"5xx,nonsense\"}"), "/spec/http/0/retries/retryOn"),
        (http("retries: {attempts: 1, retryOn: \"5xx,429,unavailable\"}"), ""),
        (http("fault: {}"), "/spec/http/0/fault"),
        (http("fault: {delay: {}}"), "/spec/http/0/fault/delay/fixedDelay"),
        (
            http("fault: {delay: {fixedDelay: 1s, percentage: {value: 101}}}"),
            "/spec/http/0/fault/delay/percentage/value",
        ),
        (http("fault: {abort: {httpStatus: 100}}"), "/spec/http/0/fault/abort/httpStatus"),
        (http("fault: {abort: {grpcStatus: NOPE}}"), "/spec/http/0/fault/abort/grpcStatus"),
        (http("mirror: {host: b}, mirrors: [{destination: {host: c}}]"), "/spec/http/0/mirrors"),
        (
            http("mirrors: [{destination: {host: c}, percentage: {value: -1}}]"),
            "/spec/http/0/mirrors/0/percentage/value",
        ),
        (http("corsPolicy: {maxAge: 1500ms}"), "/spec/http/0/corsPolicy/maxAge"),
        (http("corsPolicy: {allowMethods: [\"get it\"]}"), "/spec/http/0/corsPolicy/allowMethods/0"),
        (http("corsPolicy: {unmatchedPreflights: MAYBE}"), "/spec/http/0/corsPolicy/unmatchedPreflights"),
        (http("headers: {request: {set: {\"a b\": c}}}"), "/spec/http/0/headers/request/set/a b"),
        (http("match: [{uri: {regex: \"(\"}}]"), "/spec/http/0/match/0/uri/regex"),
        (http("match: [{headers: {\"a b\": {exact: c}}}]"), "/spec/http/0/match/0/headers/a b"),
        (http("match: [{port: 70000}]"), "/spec/http/0/match/0/port"),
        (http("match: [{headers: {a: {}}}]"), ""),
        (
            "hosts: [a], http: [{route: [{destination: {host: b}, weight: 0}, {destination: {host: c}}]}]".to_owned(),
            "/spec/http/0/route",
        ),
        (
            "hosts: [a], http: [{route: [{destination: {host: \"\"}}]}]".to_owned(),
            "/spec/http/0/route/0/destination/host",
        ),
        (
            "hosts: [a], http: [{route: [{destination: {host: b, port: {number: 0}}}]}]".to_owned(),
            "/spec/http/0/route/0/destination/port/number",
        ),
        ("http: [{delegate: {name: b}}]".to_owned(), "/spec/http/0/delegate"),
        (format!("hosts: [a.example], tls: [{{match: [{{sniHosts: [a.example]}}], {route}}}]"), ""),
        (
            format!("hosts: [a.example], tls: [{{match: [{{sniHosts: [b.example]}}], {route}}}]"),
            "/spec/tls/0/match/0/sniHosts/0",
        ),
        (format!("hosts: [a.example], tls: [{{match: [{{}}], {route}}}]"), "/spec/tls/0/match/0/sniHosts"),
        (
            format!("hosts: [a], tcp: [{{match: [{{destinationSubnets: [10.0.0.0/33]}}], {route}}}]"),
            "/spec/tcp/0/match/0/destinationSubnets/0",
        ),
        ("hosts: [a], tcp: [{route: []}]".to_owned(), "/spec/tcp/0/route"),
    ];
    for (spec, pointer) in cases {
        let found = mistakes("VirtualService", &spec);
        let wanted: Vec<String> = Some(pointer.to_owned()).filter(|p| !p.is_empty()).into_iter().collect();
        assert_eq!(found, wanted, "{spec}");
    }
}

#[test]
fn destination_rules() {
    let policy = |rest: &str| format!("host: a, trafficPolicy: {{{rest}}}");
    let at = |rest: &str| format!("/spec/trafficPolicy{rest}");
    let cases = [
        ("host: a".to_owned(), String::new()),
        ("host: \"\"".to_owned(), "/spec/host".to_owned()),
        (policy(""), at("")),
        (policy("loadBalancer: {simple: FASTEST}"), at("/loadBalancer/simple")),
        (
            policy("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"),
            at("/loadBalancer/consistentHash"),
        ),
        (policy("loadBalancer: {consistentHash: {}}"), at("/loadBalancer/consistentHash")),
        (
            policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}"),
            at("/loadBalancer/consistentHash/maglev/tableSize"),
        ),
        (policy("loadBalancer: {simple: RANDOM, warmup: {duration: 10s}}"), at("/loadBalancer/warmup")),
        (policy("loadBalancer: {warmup: {duration: 10s, aggression: 0.5}}"), at("/loadBalancer/warmup/aggression")),
        (policy("loadBalancer: {warmup: {}}"), at("/loadBalancer/warmup/duration")),
        (
            policy("loadBalancer: {localityLbSetting: {distribute: [{from: a/*, to: {\"a/*\": 90}}]}}"),
            at("/loadBalancer/localityLbSetting/distribute/0/to"),
        ),
        (
            policy("loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}"),
            at("/loadBalancer/localityLbSetting/failover/0"),
        ),
        (
            policy("loadBalancer: {localityLbSetting: {failover: [{from: a/b, to: c}]}}"),
            at("/loadBalancer/localityLbSetting/failover/0/from"),
        ),
        (
            policy("loadBalancer: {zoneAwareLbSetting: {minClusterSize: 3, failover: [{from: a, to: b}]}}"),
            String::new(),
        ),
        (
            policy("loadBalancer: {localityLbSetting: {}, zoneAwareLbSetting: {}}"),
            at("/loadBalancer/zoneAwareLbSetting"),
        ),
        (
            policy("loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: a}]}}"),
            at("/loadBalancer/zoneAwareLbSetting/failover/0"),
        ),
        (
            policy("loadBalancer: {zoneAwareLbSetting: {failover: [{from: a, to: \"b*\"}]}}"),
            at("/loadBalancer/zoneAwareLbSetting/failover/0/to"),
        ),
        (
            policy("loadBalancer: {zoneAwareLbSetting: {failoverPriority: [rack, topology.istio.io/subzone]}}"),
            at("/loadBalancer/zoneAwareLbSetting/failoverPriority/1"),
        ),
        (policy("connectionPool: {}"), at("/connectionPool")),
        (policy("connectionPool: {tcp: {maxConnections: -1}}"), at("/connectionPool/tcp/maxConnections")),
        (policy("connectionPool: {tcp: {connectTimeout: 0s}}"), at("/connectionPool/tcp/connectTimeout")),
        (policy("connectionPool: {http: {h2UpgradePolicy: PERHAPS}}"), at("/connectionPool/http/h2UpgradePolicy")),
        (
            policy("connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}"),
            at("/connectionPool/http/useClientProtocol"),
        ),
        (policy("outlierDetection: {maxEjectionPercent: 101}"), at("/outlierDetection/maxEjectionPercent")),
        (
            policy("outlierDetection: {consecutiveLocalOriginFailures: 3}"),
            at("/outlierDetection/consecutiveLocalOriginFailures"),
        ),
        (policy("tls: {mode: TRUST_ME}"), at("/tls/mode")),
        (policy("tls: {mode: MUTUAL, clientCertificate: /c}"), at("/tls/privateKey")),
        (policy("tls: {mode: ISTIO_MUTUAL, caCertificates: /c}"), at("/tls/caCertificates")),
        (policy("tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}"), at("/tls/subjectAltNames")),
        (policy("portLevelSettings: [{tls: {mode: SIMPLE}}]"), at("/portLevelSettings/0/port")),
        (policy("portLevelSettings: [{port: {number: 1}, tls: {mode: NO}}]"), at("/portLevelSettings/0/tls/mode")),
        (policy("tunnel: {targetHost: \"*.a\", targetPort: 1}"), at("/tunnel/targetHost")),
        (policy("tunnel: {protocol: GET, targetHost: a, targetPort: 1}"), at("/tunnel/protocol")),
        (policy("proxyProtocol: {version: V3}"), at("/proxyProtocol/version")),
        (policy("retryBudget: {percent: 101}"), at("/retryBudget/percent")),
        ("host: a, subsets: [{name: \"\"}]".to_owned(), "/spec/subsets/0/name".to_owned()),
        ("host: a, subsets: [{name: b}, {name: b}]".to_owned(), "/spec/subsets/1/name".to_owned()),
        (
            "host: a, subsets: [{name: b, trafficPolicy: {tls: {mode: NO}}}]".to_owned(),
            "/spec/subsets/0/trafficPolicy/tls/mode".to_owned(),
        ),
    ];
    for (spec, pointer) in cases {
        let found = mistakes("DestinationRule", &spec);
        let wanted: Vec<String> = Some(pointer).filter(|p| !p.is_empty()).into_iter().collect();
        assert_eq!(found, wanted, "{spec}");
    }
}
