//! Everything a user may write and we translate: it must fit Envoy's schema, and say what the user said.

use std::sync::Arc;

use mesh::Snapshot;
use serde_json::{Value, json};

use crate::world;

fn changed(change: impl FnOnce(&mut mesh::Inner)) -> Snapshot {
    let mut world = world::inner(world::Mode::Strict);
    change(&mut world);
    Snapshot(Arc::new(world))
}

fn routes_of(spec: Value) -> Vec<Value> {
    let snapshot = changed(|world| {
        let object = json!({"metadata": {"name": "payment-api", "namespace": "production"}, "spec": spec});
        world.virtual_services = vec![Arc::new(serde_json::from_value(object).expect("this is a VirtualService"))];
    });
    let made = pilot::routes(&snapshot, &world::proxy("order-service-v1-0"), &["8080".to_owned()]);
    let json = envoy_api::any_to_json(&made.first().expect("the routes fit Envoy's schema").body);
    let hosts = json["virtual_hosts"].as_array().expect("there are hosts");
    let host = hosts.iter().find(|host| host["name"] == "payment-api.production.svc.cluster.local:8080");
    host.expect("the service has a host")["routes"].as_array().expect("it has routes").clone()
}

fn cluster_of(policy: Value, name: &str) -> Value {
    let snapshot = changed(|world| {
        let rule = mesh::MergedDestinationRule {
            name: "payment-api".to_owned(),
            namespace: "production".to_owned(),
            host: "payment-api".to_owned(),
            traffic_policy: Some(serde_json::from_value(policy).expect("this is a traffic policy")),
            subsets: Vec::new(),
        };
        world.rules = vec![Arc::new(rule)];
    });
    let all = pilot::clusters(&snapshot, &world::proxy("order-service-v1-0"));
    envoy_api::any_to_json(&all.iter().find(|c| c.name == name).expect("the cluster fits Envoy's schema").body)
}

const PAYMENT: &str = "outbound|8080||payment-api.production.svc.cluster.local";

#[test]
fn a_match_says_everything() {
    let routes = routes_of(json!({"hosts": ["payment-api"], "http": [
        {"name": "r", "match": [
            {"name": "m", "uri": {"prefix": "/a"}, "scheme": {"exact": "http"}, "method": {"regex": "GET|HEAD"},
             "authority": {"prefix": "pay"}, "headers": {"x-a": {"exact": "1"}, "x-b": {"regex": "*"}},
             "withoutHeaders": {"x-c": {"prefix": "2"}, "x-d": {"exact": ""}}, "queryParams": {"q": {"exact": "1"}},
             "ignoreUriCase": true, "port": 8080, "sourceNamespace": "production"},
            {"uri": {"exact": "/other"}, "port": 9999},
            {"uri": {"exact": "/elsewhere"}, "sourceLabels": {"app": "nobody"}}
        ], "route": [{"destination": {"host": "payment-api"}}]}
    ]}));
    assert_eq!(routes.len(), 1, "what another client or port would match is left out");
    let route = &routes[0];
    assert_eq!(route["name"], "r.m");
    assert_eq!(route["match"]["case_sensitive"], false);
    assert_eq!(route["match"]["headers"].as_array().map(Vec::len), Some(7));
    assert_eq!(route["match"]["query_parameters"][0]["string_match"]["exact"], "1");
    assert_eq!(route["decorator"]["operation"], "payment-api.production.svc.cluster.local:8080/a*");
}

#[test]
fn an_action_says_everything() {
    let routes = routes_of(json!({"hosts": ["payment-api"], "http": [
        {"match": [{"uri": {"prefix": "/all"}}],
         "route": [
            {"destination": {"host": "payment-api", "port": {"number": 8080}}, "weight": 1,
             "headers": {"request": {"set": {"x-side": "one"}}}},
            {"destination": {"host": "order-service"}, "weight": 3},
            {"destination": {"host": "undeclared"}, "weight": 0}
         ],
         "timeout": "1.5s",
         "retries": {"attempts": 4, "perTryTimeout": "250ms", "retryOn": "gateway-error,503", "backoff": "10ms"},
         "fault": {"delay": {"fixedDelay": "5s", "percentage": {"value": 0.1}}, "abort": {"httpStatus": 418}},
         "mirror": {"host": "order-service"}, "mirrorPercentage": {"value": 12.5},
         "corsPolicy": {"allowOrigins": [{"exact": "https://a"}], "allowMethods": ["GET", "PUT"], "allowHeaders": ["x"],
                        "exposeHeaders": ["y"], "maxAge": "24h", "allowCredentials": true},
         "headers": {"request": {"set": {"x-a": "1", "host": "new.example"}, "add": {"x-b": "2"}, "remove": ["x-c"]},
                     "response": {"add": {"x-d": "3"}, "remove": ["x-e"]}}},
        {"match": [{"uri": {"prefix": "/rewrite"}}, {"uri": {"regex": "/re.*"}}],
         "rewrite": {"uri": "/new", "authority": "other"}, "route": [{"destination": {"host": "payment-api"}}]},
        {"match": [{"uri": {"prefix": "/capture"}}],
         "rewrite": {"uriRegexRewrite": {"match": "^/capture/(.*)", "rewrite": "/\\1"}},
         "retries": {"attempts": 0}, "route": [{"destination": {"host": "payment-api"}}]},
        {"match": [{"uri": {"prefix": "/redirect"}}],
         "redirect": {"uri": "/x", "authority": "y", "port": 81, "scheme": "https", "redirectCode": 308}},
        {"directResponse": {"status": 503, "body": {"string": "later"}}},
        {"route": [{"destination": {"host": "never-reached"}}]}
    ]}));
    assert_eq!(routes.len(), 6, "a route without a match ends the list");
    let action = &routes[0]["route"];
    assert_eq!(action["timeout"], "1.500s");
    assert_eq!(action["retry_policy"]["num_retries"], 4);
    assert_eq!(action["retry_policy"]["retry_on"], "gateway-error,retriable-status-codes");
    assert_eq!(action["retry_policy"]["retriable_status_codes"], json!([503]));
    assert_eq!(action["weighted_clusters"]["clusters"].as_array().map(Vec::len), Some(2));
    assert_eq!(action["host_rewrite_literal"], "new.example");
    let mirrored = &action["request_mirror_policies"][0];
    assert_eq!(mirrored["runtime_fraction"]["default_value"]["numerator"], 125_000);
    let filters = &routes[0]["typed_per_filter_config"];
    assert_eq!(filters["envoy.filters.http.fault"]["delay"]["percentage"]["numerator"], 1000);
    assert_eq!(filters["envoy.filters.http.fault"]["abort"]["http_status"], 418);
    assert_eq!(filters["envoy.filters.http.cors"]["max_age"], "86400");
    assert_eq!(routes[0]["request_headers_to_add"].as_array().map(Vec::len), Some(2));
    assert_eq!(routes[1]["route"]["prefix_rewrite"], "/new");
    assert_eq!(routes[2]["route"]["regex_rewrite"]["substitution"], "/new");
    assert!(routes[3]["route"].get("retry_policy").is_none());
    assert_eq!(routes[4]["redirect"]["response_code"], "PERMANENT_REDIRECT");
    assert_eq!(routes[5]["direct_response"]["status"], 503);
}

#[test]
fn a_traffic_policy_says_everything() {
    let cluster = cluster_of(
        json!({
            "connectionPool": {
                "tcp": {"maxConnections": 3, "connectTimeout": "250ms", "tcpKeepalive": {"probes": 9, "time": "7200s", "interval": "75s"}},
                "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 2, "maxRequestsPerConnection": 4, "maxRetries": 5,
                         "idleTimeout": "3s", "h2UpgradePolicy": "UPGRADE"}
            },
            "outlierDetection": {"consecutiveGatewayErrors": 0, "splitExternalLocalOriginErrors": true,
                                 "consecutiveLocalOriginFailures": 2, "minHealthPercent": 40},
            "loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}
        }),
        PAYMENT,
    );
    assert_eq!(cluster["connect_timeout"], "0.250s");
    let limits = &cluster["circuit_breakers"]["thresholds"][0];
    assert_eq!((&limits["max_connections"], &limits["max_retries"]), (&json!(3), &json!(5)));
    assert_eq!(cluster["lb_policy"], "RING_HASH");
    assert_eq!(cluster["outlier_detection"]["enforcing_consecutive_gateway_failure"], 0);
    assert_eq!(cluster["common_lb_config"]["healthy_panic_threshold"]["value"], 40.0);
    let options =
        &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["common_http_protocol_options"]["max_requests_per_connection"], 4);
    assert!(options["explicit_http_config"].get("http2_protocol_options").is_some());
}

#[test]
fn a_port_policy_replaces_the_general_one() {
    let cluster = cluster_of(
        json!({
            "outlierDetection": {"consecutive5xxErrors": 1},
            "loadBalancer": {"simple": "RANDOM"},
            "portLevelSettings": [{"port": {"number": 8080}, "loadBalancer": {"simple": "ROUND_ROBIN"}}]
        }),
        PAYMENT,
    );
    assert_eq!(cluster.get("lb_policy"), None, "ROUND_ROBIN is the default of the field");
    assert_eq!(cluster.get("outlier_detection"), None);
}

#[test]
fn tls_is_what_the_rule_asks_for() {
    let socket = |tls: Value| cluster_of(json!({"tls": tls}), PAYMENT)["transport_socket"]["typed_config"].clone();
    let simple =
        socket(json!({"mode": "SIMPLE", "sni": "a.example", "caCertificates": "/ca.pem", "subjectAltNames": ["b"]}));
    assert_eq!(simple["sni"], "a.example");
    let checks = &simple["common_tls_context"]["combined_validation_context"];
    assert_eq!(checks["validation_context_sds_secret_config"]["name"], "file-root:/ca.pem");
    let mutual = socket(json!({"mode": "MUTUAL", "clientCertificate": "/c.pem", "privateKey": "/k.pem"}));
    let certificate = &mutual["common_tls_context"]["tls_certificate_sds_secret_configs"][0];
    assert_eq!(certificate["name"], "file-cert:/c.pem~/k.pem");
    let mesh = socket(json!({"mode": "ISTIO_MUTUAL"}));
    assert_eq!(mesh["sni"], "outbound_.8080_._.payment-api.production.svc.cluster.local");
    let off = cluster_of(json!({"tls": {"mode": "DISABLE"}}), PAYMENT);
    assert!(off.get("transport_socket").is_none() && off.get("transport_socket_matches").is_none());
}

#[test]
fn every_way_to_hash_reaches_the_route() {
    for (by, field) in [
        (json!({"httpHeaderName": "x"}), "header"),
        (json!({"httpCookie": {"name": "c", "ttl": "1h", "path": "/"}}), "cookie"),
        (json!({"useSourceIp": true}), "connection_properties"),
        (json!({"httpQueryParameterName": "q", "maglev": {"tableSize": 101}}), "query_parameter"),
    ] {
        let snapshot = changed(|world| {
            let rule: mesh::MergedDestinationRule = mesh::MergedDestinationRule {
                name: "order".to_owned(),
                namespace: "production".to_owned(),
                host: "order-service".to_owned(),
                traffic_policy: Some(
                    serde_json::from_value(json!({"loadBalancer": {"consistentHash": by}})).expect("this is a policy"),
                ),
                subsets: Vec::new(),
            };
            world.rules = vec![Arc::new(rule)];
        });
        let proxy = world::proxy("order-service-v1-0");
        let made = pilot::routes(&snapshot, &proxy, &["8080".to_owned()]);
        let json = envoy_api::any_to_json(&made.first().expect("the routes fit the schema").body);
        let action = &json["virtual_hosts"][0]["routes"][0]["route"];
        assert!(action["hash_policy"][0].get(field).is_some(), "{field}: {action}");
        assert!(action["retry_policy"].get("retry_host_predicate").is_none(), "a hash picks the same host again");
        assert!(
            pilot::clusters(&snapshot, &proxy)
                .iter()
                .any(|c| c.name == "outbound|8080||order-service.production.svc.cluster.local")
        );
    }
}

#[test]
fn tokens_and_policies_stand_before_the_routes() {
    let snapshot = changed(|world| {
        let tokens = json!({"metadata": {"name": "jwt", "namespace": "production"}, "spec": {"jwtRules": [
            {"issuer": "a", "jwks": r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"1"}]}"#, "audiences": ["x"], "fromHeaders": [{"name": "h", "prefix": "p "}],
             "fromParams": ["q"], "fromCookies": ["c"], "outputPayloadToHeader": "out", "forwardOriginalToken": true,
             "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}]},
            {"issuer": "b", "jwksUri": "https://b/keys"}
        ]}});
        world.tokens = vec![Arc::new(serde_json::from_value(tokens).expect("this is a RequestAuthentication"))];
        let deny = json!({"metadata": {"name": "d", "namespace": "production"}, "spec": {"action": "DENY", "rules": [
            {"to": [{"operation": {"paths": ["/admin*"], "ports": ["8080"]}}],
             "when": [{"key": "request.auth.claims[group]", "notValues": ["ops"]}]}
        ]}});
        world.policies.deny = vec![Arc::new(serde_json::from_value(deny).expect("this is an AuthorizationPolicy"))];
    });
    let made = pilot::listeners(&snapshot, &world::proxy("payment-api-v1-0"));
    let inbound = made.iter().find(|l| l.name == "virtualInbound").expect("the listener fits Envoy's schema");
    let json = envoy_api::any_to_json(&inbound.body);
    let chains = json["filter_chains"].as_array().expect("it has chains");
    let chain = chains.iter().find(|chain| chain["name"] == "0.0.0.0_8080").expect("the port has a chain");
    let manager = &chain["filters"].as_array().and_then(|f| f.last()).expect("it ends in a manager")["typed_config"];
    let names: Vec<&str> = manager["http_filters"]
        .as_array()
        .expect("it has filters")
        .iter()
        .filter_map(|filter| filter["name"].as_str())
        .collect();
    assert_eq!(&names[..3], ["istio.metadata_exchange", "envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"]);
    let check = &manager["http_filters"][1]["typed_config"];
    let without_keys = &check["providers"]["origins-1"]["local_jwks"]["inline_string"];
    let without_keys = without_keys.as_str().expect("there is a key set");
    assert!(without_keys.contains("nobody"), "an issuer whose keys are not known lets nobody in: {without_keys}");
    let text = manager["http_filters"][2].to_string();
    assert!(text.contains(r#""string_match":{"exact":"ops"}"#) && text.matches("or_match").count() == 1, "{text}");
    let refused: Vec<String> = pilot::unsupported(&snapshot).into_iter().map(|u| u.pointer).collect();
    assert_eq!(refused, ["/spec/jwtRules/1/jwksUri"]);
}

#[test]
fn what_is_not_translated_is_listed() {
    let snapshot = changed(|world| {
        let service = json!({"metadata": {"name": "v", "namespace": "n"}, "spec": {"hosts": ["h"], "gateways": ["g"], "http": [
            {"delegate": {"name": "d"}, "fault": {"abort": {"grpcStatus": "NO_SUCH"}}}
        ]}});
        world.virtual_services = vec![Arc::new(serde_json::from_value(service).expect("this is a VirtualService"))];
    });
    let listed: Vec<String> = pilot::unsupported(&snapshot).into_iter().map(|u| u.pointer).collect();
    assert_eq!(listed, ["/spec/gateways", "/spec/http/0/delegate", "/spec/http/0/fault/abort/grpcStatus"]);
}

#[test]
fn registry_only_lets_nothing_unknown_out() {
    let snapshot = changed(|world| {
        world.mesh =
            serde_json::from_value(json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})).expect("mesh config");
    });
    let proxy = world::proxy("order-service-v1-0");
    let routes = pilot::routes(&snapshot, &proxy, &["8080".to_owned()]);
    let text = envoy_api::any_to_json(&routes.first().expect("the routes fit the schema").body).to_string();
    assert!(text.contains("block_all") && !text.contains("allow_any"));
    let listeners = pilot::listeners(&snapshot, &proxy);
    let text: String = listeners.iter().map(|l| envoy_api::any_to_json(&l.body).to_string()).collect();
    assert!(!text.contains("\"PassthroughCluster\""), "nothing may go out unknown");
}

#[test]
fn an_unknown_workload_lets_nobody_in() {
    let made = pilot::listeners(&world::snapshot(world::Mode::Permissive), &world::stranger());
    let inbound = made.iter().find(|l| l.name == "virtualInbound").expect("the listener is there");
    let json = envoy_api::any_to_json(&inbound.body);
    let names: Vec<&str> =
        json["filter_chains"].as_array().expect("it has chains").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["virtualInbound-blackhole"]);
}
