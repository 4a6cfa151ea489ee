//! The table of fields (`docs/traffic-fields.md`): complete, and true.

use std::collections::{BTreeMap, BTreeSet};

use istio_api::networking as types;
use serde::de::DeserializeOwned;

const TABLE: &str = include_str!("../../../../docs/traffic-fields.md");
const TYPES: &str = include_str!("../../../istio-api/src/networking.rs");
const CASES: [(&str, &str); 11] = [
    ("destination", include_str!("destination.rs")),
    ("locality", include_str!("locality.rs")),
    ("matching", include_str!("matching.rs")),
    ("names", include_str!("names.rs")),
    ("outlier", include_str!("outlier.rs")),
    ("pool", include_str!("pool.rs")),
    ("retry", include_str!("retry.rs")),
    ("route", include_str!("route.rs")),
    ("stream", include_str!("stream.rs")),
    ("tls", include_str!("tls.rs")),
    ("zones", include_str!("zones.rs")),
];

/// The names that a type takes, as its reader says when it meets another.
fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
    let error =
        serde_json::from_str::<T>("{\"no such field\": 0}").err().expect("unknown fields are refused").to_string();
    let list = error.split_once("expected").map_or(error.as_str(), |(_, list)| list);
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

macro_rules! all {
    ($($name:ident),* $(,)?) => {
        BTreeMap::from([$((stringify!($name), fields::<types::$name>())),*])
    };
}

fn known() -> BTreeMap<&'static str, BTreeSet<String>> {
    all![
        StringPattern,
        VirtualService,
        HttpRoute,
        Delegate,
        HttpMatchRequest,
        HttpRouteDestination,
        Destination,
        PortSelector,
        HttpRedirect,
        HttpDirectResponse,
        HttpBody,
        HttpRewrite,
        RegexRewrite,
        HttpRetry,
        Fault,
        FaultDelay,
        FaultAbort,
        Percent,
        HttpMirrorPolicy,
        CorsPolicy,
        Headers,
        HeaderOperations,
        TlsRoute,
        TlsMatchAttributes,
        TcpRoute,
        L4MatchAttributes,
        RouteDestination,
        DestinationRule,
        WorkloadSelector,
        Subset,
        TrafficPolicy,
        TunnelSettings,
        ProxyProtocol,
        RetryBudget,
        PortTrafficPolicy,
        LoadBalancerSettings,
        Warmup,
        LocalityLbSetting,
        ZoneAwareLbSetting,
        LocalityDistribute,
        LocalityFailover,
        ConsistentHash,
        HttpCookie,
        CookieAttribute,
        RingHash,
        MagLev,
        ConnectionPool,
        TcpSettings,
        TcpKeepalive,
        HttpSettings,
        Http2KeepAlive,
        OutlierDetection,
        ClientTlsSettings,
    ]
}

/// Rows by type: field, state, cases.
fn rows() -> BTreeMap<&'static str, Vec<(&'static str, &'static str, &'static str)>> {
    let mut found: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for section in TABLE.split("\n## ").skip(1) {
        let (name, body) = section.split_once('\n').expect("a body");
        for line in body.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [field, state, cases] = cells.as_slice() else { panic!("three cells: {line}") };
            found.entry(name.trim()).or_default().push((field.trim_matches(['`', '|', ' ']), *state, *cases));
        }
    }
    found
}

#[test]
fn names_every_field() {
    let (known, rows) = (known(), rows());
    let declared: BTreeSet<&str> =
        TYPES.lines().filter_map(|line| line.strip_prefix("pub struct ")?.split([' ', '{']).next()).collect();
    assert_eq!(known.keys().copied().collect::<BTreeSet<_>>(), declared, "every type is looked at");
    for (name, fields) in &known {
        let listed: BTreeSet<String> =
            rows.get(name).into_iter().flatten().map(|(field, ..)| (*field).to_owned()).collect();
        assert_eq!(&listed, fields, "{name}: what the table lists, and what the type takes");
    }
    for (name, field, state, case) in
        rows.iter().flat_map(|(name, rows)| rows.iter().map(move |(field, state, cases)| (name, field, state, cases)))
    {
        assert!(state.starts_with("works") || state.starts_with("refused: "), "{name}.{field}: {state}");
        for case in case.split(',').map(|case| case.trim().trim_matches('`')) {
            let (module, function) =
                case.split_once("::").unwrap_or_else(|| panic!("{name}.{field}: no case {case:?}"));
            let exists = module == "table"
                || CASES.iter().any(|(m, text)| *m == module && text.contains(&format!("async fn {function}()")));
            assert!(exists, "{name}.{field}: there is no case {case}");
        }
    }
}

#[test]
fn refuses_in_these_words() {
    let http = |rest: &str| format!("hosts: [web], http: [{{route: [{{destination: {{host: web}}}}], {rest}}}]");
    let rule = |rest: &str| format!("host: web, trafficPolicy: {{{rest}}}");
    let samples = [
        (
            "VirtualService",
            "VirtualService",
            "gateways",
            "gateways: [edge], hosts: [web], http: [{route: [{destination: {host: web}}]}]".to_owned(),
        ),
        ("VirtualService", "FaultDelay", "exponentialDelay", http("fault: {delay: {exponentialDelay: 1s}}")),
        ("VirtualService", "FaultAbort", "http2Error", http("fault: {abort: {http2Error: NO_ERROR}}")),
        (
            "VirtualService",
            "HttpMatchRequest",
            "headers",
            http("match: [{headers: {\"@request.auth.claims.x\": {exact: v}}}]"),
        ),
        ("VirtualService", "HeaderOperations", "set", http("headers: {request: {set: {a: \"%NOTHING%\"}}}")),
        ("VirtualService", "HeaderOperations", "add", http("headers: {response: {add: {a: \"%NOTHING%\"}}}")),
        (
            "DestinationRule",
            "LoadBalancerSettings",
            "backendUtilization",
            rule("loadBalancer: {backendUtilization: {}}"),
        ),
        ("DestinationRule", "OutlierDetection", "consecutiveErrors", rule("outlierDetection: {consecutiveErrors: 5}")),
        (
            "DestinationRule",
            "OutlierDetection",
            "outlierDetectionHttpErrorCodes",
            rule("outlierDetection: {outlierDetectionHttpErrorCodes: [429]}"),
        ),
        ("DestinationRule", "ClientTlsSettings", "credentialName", rule("tls: {mode: SIMPLE, credentialName: secret}")),
    ];
    let rows = rows();
    let mut shown = BTreeSet::new();
    for (kind, name, field, spec) in samples {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\nspec: {{{spec}}}\n"
        );
        let refused = pilot::unsupported(&crate::world::snapshot(&yaml));
        let [only] = refused.as_slice() else { panic!("{name}.{field}: {refused:?}") };
        let row = rows[name].iter().find(|(f, ..)| *f == field).expect("a row");
        assert!(
            row.1.contains(&*only.reason),
            "{name}.{field}: the table says {:?}, the user is told {:?}",
            row.1,
            only.reason
        );
        shown.insert((name, field));
    }
    let refused = rows.iter().flat_map(|(name, rows)| rows.iter().map(move |row| (*name, row)));
    for (name, (field, state, _)) in refused.filter(|(_, row)| row.1.contains("refused")) {
        assert!(shown.contains(&(name, *field)), "{name}.{field} is called refused ({state}); show it here");
    }
}
