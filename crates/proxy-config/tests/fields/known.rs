//! Fields that change no traffic of ours, each with the reason.

use envoy_api::{Field, Holds};

/// A field, or one name of an enumeration (`FIELD=NAME`), and why nothing is done with it.
pub const FIELDS: &[(&str, &[&str])] = &[
    (
        "a name that nothing is found by",
        &[
            "envoy.config.accesslog.v3.AccessLog.name",
            "envoy.config.cluster.v3.Cluster.CustomClusterType.name",
            "envoy.config.cluster.v3.Cluster.TransportSocketMatch.name",
            "envoy.config.core.v3.TransportSocket.name",
            "envoy.config.core.v3.TypedExtensionConfig.name",
            "envoy.config.listener.v3.Filter.name",
            "envoy.config.listener.v3.ListenerFilter.name",
            "envoy.config.route.v3.RetryPolicy.RetryPriority.name",
            "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig.name",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.name",
        ],
    ),
    (
        "names or counts statistics",
        &[
            "envoy.config.cluster.v3.CircuitBreakers.Thresholds.track_remaining",
            "envoy.config.cluster.v3.Cluster.alt_stat_name",
            "envoy.config.cluster.v3.Cluster.lrs_report_endpoint_metrics",
            "envoy.config.cluster.v3.Cluster.stats_matcher",
            "envoy.config.cluster.v3.Cluster.track_cluster_stats",
            "envoy.config.endpoint.v3.Endpoint.observability_name",
            "envoy.config.listener.v3.Listener.stat_prefix",
            "envoy.config.listener.v3.Listener.stats_matcher",
            "envoy.config.route.v3.VirtualHost.virtual_clusters",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.disable_downstream_cluster_stats",
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.emit_filter_state",
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.enable_upstream_stats",
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.individual_method_stats_allowlist",
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.replace_dots_in_grpc_service_name",
            "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.stats_for_all_methods",
            "envoy.extensions.filters.http.rbac.v3.RBAC.rules_stat_prefix",
            "envoy.extensions.filters.http.rbac.v3.RBAC.shadow_rules_stat_prefix",
            "envoy.extensions.filters.http.rbac.v3.RBAC.track_per_rule_stats",
            "envoy.extensions.filters.http.router.v3.Router.dynamic_stats",
            "envoy.extensions.filters.http.router.v3.Router.suppress_grpc_request_failure_code_stats",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector.enable_ja3_fingerprinting",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector.enable_ja4_fingerprinting",
            "envoy.extensions.filters.network.rbac.v3.RBAC.shadow_rules_stat_prefix",
            "envoy.extensions.filters.network.rbac.v3.RBAC.stat_prefix",
        ],
    ),
    (
        "it lets a cluster do without checks of names, which are for TLS; there is none here",
        &["envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig.allow_insecure_cluster_options"],
    ),
    (
        "data for others; the parts that we know are read",
        &[
            "envoy.config.cluster.v3.Cluster.metadata",
            "envoy.config.core.v3.Metadata.typed_filter_metadata",
            "envoy.config.endpoint.v3.LbEndpoint.metadata",
            "envoy.config.endpoint.v3.LocalityLbEndpoints.metadata",
            "envoy.config.listener.v3.FilterChain.metadata",
            "envoy.config.listener.v3.Listener.metadata",
            "envoy.config.route.v3.Route.metadata",
            "envoy.config.route.v3.RouteConfiguration.metadata",
            "envoy.config.route.v3.VirtualHost.metadata",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.filter_metadata",
        ],
    ),
    (
        "there is no runtime here; the default counts",
        &[
            "envoy.config.core.v3.RuntimeDouble.runtime_key",
            "envoy.config.core.v3.RuntimeFractionalPercent.runtime_key",
            "envoy.config.route.v3.WeightedCluster.runtime_key_prefix",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.abort_grpc_status_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.abort_http_status_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.abort_percent_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.delay_duration_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.delay_percent_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.max_active_faults_runtime",
            "envoy.extensions.filters.http.fault.v3.HTTPFault.response_rate_limit_percent_runtime",
        ],
    ),
    (
        "about active health checks, which are refused",
        &[
            "envoy.config.cluster.v3.Cluster.CommonLbConfig.ignore_new_hosts_until_first_hc",
            "envoy.config.cluster.v3.Cluster.ignore_health_on_host_removal",
            "envoy.config.cluster.v3.OutlierDetection.successful_active_health_check_uneject_host",
            "envoy.config.endpoint.v3.Endpoint.health_check_config",
            "envoy.config.endpoint.v3.Endpoint.hostname",
        ],
    ),
    (
        "about a comparison of rates, which is refused unless it is off",
        &[
            "envoy.config.cluster.v3.OutlierDetection.failure_percentage_minimum_hosts",
            "envoy.config.cluster.v3.OutlierDetection.failure_percentage_request_volume",
            "envoy.config.cluster.v3.OutlierDetection.failure_percentage_threshold",
            "envoy.config.cluster.v3.OutlierDetection.success_rate_minimum_hosts",
            "envoy.config.cluster.v3.OutlierDetection.success_rate_request_volume",
            "envoy.config.cluster.v3.OutlierDetection.success_rate_stdev_factor",
        ],
    ),
    (
        "looked at only beside its own balancing policy (as Envoy)",
        &[
            "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig.active_request_bias",
            "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig.choice_count",
            "envoy.config.cluster.v3.Cluster.maglev_lb_config",
            "envoy.config.cluster.v3.Cluster.original_dst_lb_config",
            "envoy.config.cluster.v3.Cluster.ring_hash_lb_config",
        ],
    ),
    (
        "nothing without a window (as Envoy)",
        &[
            "envoy.config.cluster.v3.Cluster.SlowStartConfig.aggression",
            "envoy.config.cluster.v3.Cluster.SlowStartConfig.min_weight_percent",
        ],
    ),
    (
        "answers are asked for again when their own time is over",
        &[
            "envoy.config.cluster.v3.Cluster.dns_failure_refresh_rate",
            "envoy.config.cluster.v3.Cluster.dns_jitter",
            "envoy.config.cluster.v3.Cluster.dns_refresh_rate",
            "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig.dns_failure_refresh_rate",
            "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig.dns_min_refresh_rate",
            "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig.dns_refresh_rate",
            "envoy.config.cluster.v3.Cluster.respect_dns_ttl",
        ],
    ),
    (
        "tunes a resolver that is not ours; servers of its own are refused",
        &[
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.edns0_max_payload_size",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.max_udp_channel_duration",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.qcache_max_ttl",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.query_timeout_seconds",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.query_tries",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.reinit_channel_on_timeout",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.rotate_nameservers",
            "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.udp_max_queries",
        ],
    ),
    (
        "always so here",
        &[
            "envoy.config.cluster.v3.Cluster.CommonLbConfig.update_merge_window",
            "envoy.config.cluster.v3.Cluster.wait_for_warm_on_init",
            "envoy.config.core.v3.Http1ProtocolOptions.accept_http_10",
            "envoy.config.core.v3.Http1ProtocolOptions.allow_custom_methods",
            "envoy.config.core.v3.Http1ProtocolOptions.enable_trailers",
            "envoy.config.core.v3.SubstitutionFormatString.json_format_options",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext.prefer_client_ciphers",
        ],
    ),
    (
        "tunes how Envoy is built or behaves inside; traffic is the same",
        &[
            "envoy.config.cluster.v3.Cluster.cleanup_interval",
            "envoy.config.cluster.v3.Cluster.queuing_policies",
            "envoy.config.cluster.v3.UpstreamConnectionOptions.set_local_interface_name_on_upstream_connections",
            "envoy.config.core.v3.BindConfig.validate_network_namespaces",
            "envoy.config.core.v3.Http1ProtocolOptions.use_balsa_parser",
            "envoy.config.core.v3.Http2ProtocolOptions.use_oghttp2_codec",
            "envoy.config.core.v3.SubstitutionFormatString.content_type",
            "envoy.config.core.v3.SubstitutionFormatString.formatters",
            "envoy.config.listener.v3.Listener.bypass_overload_manager",
            "envoy.config.listener.v3.Listener.connection_balance_config",
            "envoy.config.listener.v3.Listener.enable_reuse_port",
            "envoy.config.listener.v3.Listener.ignore_global_conn_limit",
            "envoy.config.listener.v3.Listener.max_connections_to_accept_per_socket_event",
            "envoy.config.listener.v3.Listener.reuse_port",
            "envoy.config.route.v3.RouteConfiguration.max_direct_response_body_size_bytes",
            "envoy.config.route.v3.RouteConfiguration.validate_clusters",
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector.initial_read_buffer_size",
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext.enforce_rsa_key_usage",
        ],
    ),
    (
        "the same as the default here",
        &[
            "envoy.config.cluster.v3.Cluster.dns_lookup_family=V4_PREFERRED",
            "envoy.config.endpoint.v3.LbEndpoint.health_status=HEALTHY",
            "envoy.config.listener.v3.Listener.traffic_direction=OUTBOUND",
            "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig.dns_lookup_family=V4_PREFERRED",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.path_with_escaped_slashes_action=KEEP_UNCHANGED",
            "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_maximum_protocol_version=TLSv1_3",
            "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_minimum_protocol_version=TLSv1_2",
        ],
    ),
    (
        "about spans",
        &[
            "envoy.config.route.v3.RouteAction.RequestMirrorPolicy.trace_sampled",
            "envoy.extensions.filters.http.router.v3.Router.start_child_span",
        ],
    ),
    ("about empty values only", &["envoy.config.core.v3.HeaderValueOption.keep_empty_value"]),
    (
        "about what is refused elsewhere",
        &[
            "envoy.config.cluster.v3.CircuitBreakers.Thresholds.priority=HIGH",
            "envoy.config.route.v3.RouteAction.early_data_policy",
            "envoy.config.route.v3.RouteAction.include_vh_rate_limits",
            "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.jwt_cache_config",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.is_optional",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.proxy_protocol_tlv_merge_policy=APPEND_IF_EXISTS_OR_ADD",
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.proxy_protocol_tlv_merge_policy=OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD",
            "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher.oid",
        ],
    ),
    (
        "the secret or assignment of this name stands in a slot that does not print its name",
        &[
            "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext.validation_context_sds_secret_config",
            "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig.name",
        ],
    ),
    (
        "sessions are never resumed",
        &[
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext.disable_stateful_session_resumption",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext.disable_stateless_session_resumption",
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext.session_timeout",
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext.max_session_keys",
        ],
    ),
    (
        "the assignment is found by its cluster, and by this name for clusters of type EDS",
        &[
            "envoy.config.cluster.v3.Cluster.eds_cluster_config",
            "envoy.config.endpoint.v3.ClusterLoadAssignment.cluster_name",
        ],
    ),
    (
        "Envoy looks at it neither",
        &["envoy.type.matcher.v3.RegexMatcher.google_re2", "envoy.type.matcher.v3.StringMatcher.ignore_case"],
    ),
];

/// Messages none of whose fields is looked at here, and why.
const MESSAGES: &[(&str, &str)] = &[
    ("resources come by the one stream of the bootstrap", "envoy.config.core.v3.ConfigSource"),
    (
        "without a provider it decides nothing; the tests of protocols are about one that has it",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing",
    ),
];

/// Messages that are refused as a whole where a sample could hold them, in other words than "not supported".
pub const REFUSED: &[&str] = &[
    "envoy.config.core.v3.EnvoyInternalAddress",
    "envoy.config.core.v3.ExtensionConfigSource",
    "envoy.config.route.v3.CookieMatcher",
    "envoy.config.route.v3.RouteMatch.TlsContextMatchOptions",
    "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
    "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys",
];

pub fn all() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().flat_map(|(_, fields)| fields.iter().copied())
}

/// Whether all of a message is on the list.
pub fn whole(field: &Field) -> bool {
    matches!(&field.holds, Holds::Message(inner) if MESSAGES.iter().any(|(_, known)| known == inner))
}
