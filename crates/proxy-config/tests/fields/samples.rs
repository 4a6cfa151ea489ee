//! Resources that compile, which together hold every message that we read.

use serde_json::{Value, json};

fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{name}"));
    fields
}

/// All of them.
pub fn all() -> Vec<Value> {
    let mut all = vec![tcp_listener(), chained_listener(), endpoints(), secret(), roots()];
    all.extend(http_managers().into_iter().map(http_listener));
    all.extend(filters().into_iter().map(|filter| http_listener(manager(vec![filter]))));
    all.extend(network_filters().into_iter().map(|filter| listener_of(vec![filter, tcp()])));
    all.extend(clusters());
    all.extend(route_actions().into_iter().map(|route| routes(&route)));
    all.extend(matches().into_iter().map(|given| routes(&json!({"match": given, "route": {"cluster": "c"}}))));
    all
}

fn address() -> Value {
    json!({"socket_address": {"address": "10.1.2.3", "port_value": 80}})
}

fn listener(more: Value) -> Value {
    let mut listener = json!({"name": "l", "address": address()});
    listener.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    typed("envoy.config.listener.v3.Listener", listener)
}

fn listener_of(filters: Vec<Value>) -> Value {
    listener(json!({"filter_chains": [{"filters": filters}]}))
}

fn filter(name: &str, typed_config: Value) -> Value {
    json!({"name": name, "typed_config": typed_config})
}

fn tcp() -> Value {
    filter(
        "t",
        typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", json!({"stat_prefix": "s", "cluster": "c"})),
    )
}

fn access_log() -> Value {
    let format = json!({"log_format": {"text_format_source": {"inline_string": "%PROTOCOL%\n"}}, "path": "/dev/null"});
    json!({
        "name": "log",
        "filter": {"response_flag_filter": {"flags": ["NR"]}},
        "typed_config": typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", format)
    })
}

fn tcp_listener() -> Value {
    let proxy = json!({
        "stat_prefix": "s",
        "weighted_clusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]},
        "hash_policy": [{"source_ip": {}}],
        "tunneling_config": {"hostname": "a:1"},
        "access_log_options": {},
        "access_log": [access_log()]
    });
    let inspector = |name: &str, kind: &str| {
        json!({
            "name": name,
            "filter_disabled": {"or_match": {"rules": [{"destination_port_range": {"start": 3, "end": 5}}]}},
            "typed_config": typed(&format!("envoy.extensions.filters.listener.{name}.v3.{kind}"), json!({}))
        })
    };
    listener(json!({
        "access_log": [access_log()],
        "listener_filters": [
            {"name": "o", "typed_config": typed("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", json!({}))},
            inspector("tls_inspector", "TlsInspector"),
            inspector("http_inspector", "HttpInspector")
        ],
        "filter_chains": [{
            "filter_chain_match": {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
            "filters": [filter("t", typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", proxy))]
        }]
    }))
}

fn chained_listener() -> Value {
    let socket = typed(
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        json!({"common_tls_context": contexts().remove(0)}),
    );
    let chain = json!({"transport_socket": {"name": "tls", "typed_config": socket}, "filters": [tcp()]});
    listener(json!({"filter_chains": [chain], "default_filter_chain": {"filters": [tcp()]}}))
}

/// The forms in which certificates and roots are named.
fn contexts() -> Vec<Value> {
    let sans = json!([{"san_type": "URI", "matcher": {"exact": "spiffe://a"}}]);
    let sds = json!({"name": "default", "sds_config": {"ads": {}}});
    vec![
        json!({
            "tls_certificate_sds_secret_configs": [sds],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": sans},
                "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}}}
            },
            "tls_params": {}
        }),
        json!({"validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}}}}),
    ]
}

fn manager(filters: Vec<Value>) -> Value {
    let mut http_filters = filters;
    http_filters.push(filter("r", typed("envoy.extensions.filters.http.router.v3.Router", json!({}))));
    json!({
        "stat_prefix": "s",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": http_filters
    })
}

fn http_managers() -> Vec<Value> {
    let mut inline = manager(Vec::new());
    inline.as_object_mut().unwrap().remove("rds");
    inline["route_config"] = json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"]}]});
    let mut full = manager(Vec::new());
    let id = typed("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", json!({}));
    let case = typed("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig", json!({}));
    full.as_object_mut().unwrap().extend(
        json!({
            "access_log": [access_log()],
            "common_http_protocol_options": {},
            "http_protocol_options": {"header_key_format": {"stateful_formatter": {"name": "p", "typed_config": case}}},
            "http2_protocol_options": {"connection_keepalive": {"interval": "3s", "timeout": "2s"}},
            "request_id_extension": {"typed_config": id},
            "tracing": {},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "set_current_client_cert_details": {},
            "forward_client_cert_details": "APPEND_FORWARD",
            "internal_address_config": {}
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    vec![inline, full]
}

fn http_listener(manager: Value) -> Value {
    const KIND: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    listener_of(vec![filter("h", typed(KIND, manager))])
}

/// Permissions and principals of every kind.
fn policies() -> Value {
    let exact = json!({"exact": "a"});
    let path = json!({"path": exact});
    let range = json!({"address_prefix": "10.0.0.0", "prefix_len": 8});
    let claim =
        |value: Value| json!({"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "iss"}], "value": value});
    let texts = json!({"string_match": exact});
    let permissions = json!([
        {"and_rules": {"rules": [{"header": {"name": "x", "string_match": exact}}]}},
        {"or_rules": {"rules": [{"url_path": path}]}},
        {"not_rule": {"destination_ip": range}},
        {"destination_port": 80},
        {"destination_port_range": {"start": 3, "end": 5}},
        {"requested_server_name": {"safe_regex": {"regex": "a.*"}}},
        {"metadata": claim(json!({"double_match": {"range": {"start": 1, "end": 2}}}))},
        {"sourced_metadata": {"metadata_matcher": claim(texts.clone())}}
    ]);
    let principals = json!([
        {"and_ids": {"ids": [{"authenticated": {"principal_name": exact}}]}},
        {"or_ids": {"ids": [{"direct_remote_ip": range}]}},
        {"not_id": {"remote_ip": range}},
        {"source_ip": range},
        {"header": {"name": "x", "range_match": {"start": 1, "end": 2}}},
        {"header": {"name": "x", "safe_regex_match": {"regex": "a.*"}}},
        {"url_path": path},
        {"filter_state": {"key": "io.istio.peer_principal", "string_match": exact}},
        {"metadata": claim(json!({"list_match": {"one_of": texts}}))},
        {"sourced_metadata": {"metadata_matcher": claim(json!({"or_match": {"value_matchers": [texts, {"null_match": {}}]}}))}}
    ]);
    json!({"policies": {"p": {"permissions": permissions, "principals": principals}}})
}

/// The public key of RFC 7517, appendix A.1.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

fn filters() -> Vec<Value> {
    let fraction = json!({"numerator": 5});
    let token = json!({
        "providers": {"p": {
            "issuer": "i",
            "local_jwks": {"inline_string": KEYS},
            "from_headers": [{"name": "x"}],
            "claim_to_headers": [{"header_name": "x", "claim_name": "sub"}],
            "normalize_payload_in_metadata": {}
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "p"}, {"requires_all": {"requirements": [{"provider_name": "p"}]}}, {"allow_missing": {}}
        ]}}}]
    });
    vec![
        filter(
            "rbac",
            typed("envoy.extensions.filters.http.rbac.v3.RBAC", json!({"rules": policies(), "shadow_rules": {}})),
        ),
        filter(
            "names",
            typed(
                "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
                json!({"dns_cache_config": {"name": "n"}}),
            ),
        ),
        filter("jwt", typed("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", token)),
        filter(
            "fault",
            typed(
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
                json!({
                    "delay": {"fixed_delay": "1s", "percentage": fraction}, "abort": {"http_status": 400, "percentage": fraction}
                }),
            ),
        ),
        filter("cors", typed("envoy.extensions.filters.http.cors.v3.Cors", json!({}))),
        filter("grpc", typed("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", json!({}))),
        filter(
            "alpn",
            typed(
                "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
                json!({"alpn_override": [{"alpn_override": ["istio-http/1.0", "istio", "http/1.0"]}]}),
            ),
        ),
    ]
}

fn network_filters() -> Vec<Value> {
    let rbac = json!({"rules": policies(), "shadow_rules": {}, "stat_prefix": "s"});
    let names = json!({"dns_cache_config": {"name": "n"}, "port_value": 443});
    vec![
        filter("rbac", typed("envoy.extensions.filters.network.rbac.v3.RBAC", rbac)),
        filter("names", typed("envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig", names)),
    ]
}

fn cluster(more: Value) -> Value {
    let mut cluster = json!({"name": "c"});
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    typed("envoy.config.cluster.v3.Cluster", cluster)
}

fn clusters() -> Vec<Value> {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = |given: Value| json!({"typed_extension_protocol_options": {OPTIONS: typed(OPTIONS, given)}});
    let tls = |context: Value| {
        let context = json!({"common_tls_context": context, "sni": "a"});
        json!({"name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context)})
    };
    let dns = json!({"type": "STRICT_DNS", "load_assignment": {"cluster_name": "c", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "a.b", "port_value": 80}}}}]}
    ]}});
    let resolver = typed("envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig", json!({}));
    let proxied = typed(
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        json!({"config": {}, "transport_socket": tls(contexts().remove(1))}),
    );
    let names = typed(
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
        json!({"dns_cache_config": {"name": "n"}}),
    );
    let mut all = vec![
        cluster(dns),
        cluster(json!({"lb_policy": "CLUSTER_PROVIDED", "cluster_type": {"name": "n", "typed_config": names}})),
        cluster(json!({
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}}},
            "circuit_breakers": {"thresholds": [{"retry_budget": {}}]},
            "outlier_detection": {"enforcing_success_rate": 0, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100},
            "common_lb_config": {"healthy_panic_threshold": {}, "locality_weighted_lb_config": {}},
            "least_request_lb_config": {"slow_start_config": {"slow_start_window": "3s", "aggression": {"default_value": 1.5}, "min_weight_percent": {}}},
            "lb_policy": "LEAST_REQUEST",
            "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
            "upstream_connection_options": {"tcp_keepalive": {}},
            "typed_dns_resolver_config": {"name": "cares", "typed_config": resolver},
            "transport_socket_matches": [{"name": "m", "match": {"tlsMode": "istio"}, "transport_socket": tls(contexts().remove(0))}],
            "metadata": {"filter_metadata": {"istio": {"services": [{"host": "h", "name": "n", "namespace": "s"}]}}}
        })),
        cluster(json!({"common_lb_config": {"zone_aware_lb_config": {}}})),
        cluster(
            json!({"lb_policy": "ROUND_ROBIN", "round_robin_lb_config": {"slow_start_config": {"slow_start_window": "3s"}}}),
        ),
        cluster(json!({"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 64}})),
        cluster(json!({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 101}})),
        cluster(json!({"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "original_dst_lb_config": {}})),
        cluster(json!({"transport_socket": {"name": "p", "typed_config": proxied}})),
        cluster(options(
            json!({"explicit_http_config": {"http_protocol_options": {}}, "common_http_protocol_options": {}}),
        )),
        cluster(options(json!({"explicit_http_config": {"http2_protocol_options": {
            "connection_keepalive": {"interval": "3s", "timeout": "2s"}
        }}}))),
        cluster(options(
            json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}),
        )),
    ];
    all.push(cluster(json!({"load_assignment": {"cluster_name": "c", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address()}}]}
    ]}})));
    all.push(cluster(json!({"load_assignment": {"cluster_name": "c", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/socket"}}}}]}
    ]}})));
    all
}

fn endpoints() -> Value {
    typed(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        json!({"cluster_name": "c", "policy": {}, "endpoints": [{
            "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
            "lb_endpoints": [{
                "endpoint": {"address": address()},
                "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}, "istio": {"workload": "w;n;s;r;c"}}}
            }]
        }]}),
    )
}

fn routes(route: &Value) -> Value {
    typed(
        "envoy.config.route.v3.RouteConfiguration",
        json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]}),
    )
}

fn matches() -> Vec<Value> {
    let regex = json!({"regex": "/a.*"});
    vec![
        json!({"prefix": "/", "query_parameters": [{"name": "q", "string_match": {"exact": "a"}}]}),
        json!({"path": "/a", "headers": [
            {"name": "x", "range_match": {"start": 1, "end": 2}},
            {"name": "x", "string_match": {"safe_regex": regex}},
            {"name": "x", "safe_regex_match": regex}
        ]}),
        json!({"safe_regex": regex, "grpc": {}}),
        json!({"path_separated_prefix": "/a"}),
        json!({"connect_matcher": {}}),
    ]
}

fn route_actions() -> Vec<Value> {
    let prefix = json!({"prefix": "/"});
    let header = json!([{"header": {"key": "x", "value": "y"}}]);
    let weighted = json!({"clusters": [{"name": "a", "weight": 1, "request_headers_to_add": header}]});
    let fraction = json!({"numerator": 5});
    let full = json!({
        "weighted_clusters": weighted,
        "regex_rewrite": {"pattern": {"regex": "a"}, "substitution": "b"},
        "retry_policy": {
            "retry_on": "5xx",
            "retry_priority": {"name": "p", "typed_config": typed(
                "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", json!({"update_frequency": 2}))},
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": typed(
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}))}],
            "retry_back_off": {"base_interval": "1s"}
        },
        "request_mirror_policies": [{"cluster": "m", "runtime_fraction": {"default_value": fraction}}],
        "hash_policy": [
            {"header": {"header_name": "x"}, "terminal": true},
            {"cookie": {"name": "c", "attributes": [{"name": "SameSite", "value": "Strict"}]}, "terminal": true},
            {"connection_properties": {"source_ip": true}, "terminal": true},
            {"query_parameter": {"name": "q"}}
        ],
        "max_stream_duration": {},
        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]
    });
    let per_filter = json!({
        "envoy.filters.http.fault": typed("envoy.extensions.filters.http.fault.v3.HTTPFault", json!({
            "delay": {"fixed_delay": "1s", "percentage": fraction}, "abort": {"grpc_status": 4, "percentage": fraction}
        })),
        "envoy.filters.http.cors": typed("envoy.extensions.filters.http.cors.v3.CorsPolicy", json!({
            "allow_origin_string_match": [{"exact": "a"}]
        }))
    });
    vec![
        json!({"match": prefix, "route": full, "decorator": {"operation": "o"}, "typed_per_filter_config": per_filter}),
        json!({"match": prefix, "route": {"cluster": "c"}, "request_headers_to_add": header, "response_headers_to_add": header}),
        json!({"match": prefix, "redirect": {"path_redirect": "/b"}}),
        json!({"match": prefix, "direct_response": {"status": 200, "body": {"inline_string": "b"}}}),
    ]
}

fn secret() -> Value {
    let pair = rcgen_pair();
    typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        json!({"name": "default", "tls_certificate": {
            "certificate_chain": {"inline_string": pair.0}, "private_key": {"inline_string": pair.1}
        }}),
    )
}

fn roots() -> Value {
    let pair = rcgen_pair();
    typed(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        json!({"name": "ROOTCA", "validation_context": {
            "trusted_ca": {"inline_string": pair.0}
        }}),
    )
}

/// A certificate that signs itself, and its key.
fn rcgen_pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}
