//! Clusters and their endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_api::envoy::config::cluster::v3 as proto;
use envoy_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy};
use envoy_api::envoy::config::core::v3 as core;
use envoy_api::envoy::config::endpoint::v3 as endpoint;
use envoy_api::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_api::envoy::extensions::upstreams::http::v3::{HttpProtocolOptions, http_protocol_options as options};
use envoy_api::google::protobuf::{Struct, value};
use upstream::{
    Balance, ClusterConfig, Discovery, DnsTarget, HostConfig, Http2Keepalive, Keepalive, Outlier, Protocol,
    ProxyVersion, RetryBudget, Service, SlowStart, Thresholds, TransportMatch, ZoneAware,
};

use crate::common::{duration, host_address, kind, limit, plain_socket, port, unpack};
use crate::context::{ConfigError, Context, Refusal, Result, Under};
use crate::http::extension;
use crate::names;
use crate::protocol::{self, refuse as refuse_fields, refuse_set};
use crate::tls::{proxied, upstream_security};

/// Envoy's default connect timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Compiles a cluster.
///
/// # Errors
/// With the field that is malformed or not supported.
pub fn compile_cluster(proto: &proto::Cluster, context: &Context) -> std::result::Result<ClusterConfig, ConfigError> {
    compile(proto, context).map_err(|e| e.of(&proto.name))
}

fn compile(proto: &proto::Cluster, context: &Context) -> Result<ClusterConfig> {
    refuse(proto)?;
    let http = http_options(proto)?;
    let security = upstream_security(proto.transport_socket.as_ref(), &context.secrets)?;
    let transport_matches = proto
        .transport_socket_matches
        .iter()
        .map(|m| {
            Ok(TransportMatch {
                metadata: m.r#match.as_ref().map(pairs).unwrap_or_default(),
                security: upstream_security(m.transport_socket.as_ref(), &context.secrets).under(&m.name)?,
            })
        })
        .collect::<Result<_>>()
        .under("transport_socket_matches")?;
    let common = proto.common_lb_config.as_ref();
    let (locality_weighted, zone_aware) = places(common).under("common_lb_config")?;
    let panic = common.and_then(|c| c.healthy_panic_threshold.as_ref()).map_or(50.0, |p| p.value);
    Ok(ClusterConfig {
        name: proto.name.as_str().into(),
        discovery: discovery(proto)?,
        balance: balance(proto)?,
        slow_start: slow_start(proto),
        locality_weighted,
        zone_aware,
        connect_timeout: duration(proto.connect_timeout.as_ref()).unwrap_or(CONNECT_TIMEOUT),
        thresholds: thresholds(proto).under("circuit_breakers")?,
        outlier: proto.outlier_detection.as_ref().map(outlier).transpose().under("outlier_detection")?,
        panic_percent: panic.clamp(0.0, 100.0) as u32,
        protocol: http.protocol,
        idle_timeout: http.idle_timeout,
        max_connection_duration: http.max_duration,
        http2_keepalive: http.keepalive,
        proxy_protocol: proxy_protocol(proto)?,
        max_requests_per_connection: http.max_requests,
        max_concurrent_streams: http.max_streams,
        preserve_case: http.preserve_case,
        transport_matches,
        security,
        bind: bind(proto.upstream_bind_config.as_ref()).under("upstream_bind_config")?,
        ipv4_only: proto.dns_lookup_family() == proto::cluster::DnsLookupFamily::V4Only,
        keepalive: proto.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive.as_ref()).map(keepalive),
        services: services(proto.metadata.as_ref()),
    })
}

fn proxy_protocol(proto: &proto::Cluster) -> Result<Option<ProxyVersion>> {
    let matches = proto.transport_socket_matches.iter().map(|m| m.transport_socket.as_ref());
    let mut found = None;
    for socket in std::iter::once(proto.transport_socket.as_ref()).chain(matches) {
        found = found.or(proxied(socket)?);
    }
    Ok(found)
}

fn refuse(proto: &proto::Cluster) -> Result<()> {
    let unsupported = [
        ("health_checks", !proto.health_checks.is_empty()),
        ("lb_subset_config", proto.lb_subset_config.is_some()),
        ("load_balancing_policy", proto.load_balancing_policy.is_some()),
        ("upstream_config", proto.upstream_config.is_some()),
        ("preconnect_policy", proto.preconnect_policy.is_some()),
        ("transport_socket_matcher", proto.transport_socket_matcher.is_some()),
    ];
    refuse_fields(&unsupported)?;
    refuse_old(proto)?;
    refuse_set!(proto;
        close_connections_on_host_health_failure, connection_pool_per_downstream_connection,
        per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, lrs_server,
    )?;
    if let Some(key) = proto.typed_extension_protocol_options.keys().find(|key| *key != HTTP_OPTIONS) {
        return Err(Refusal::unsupported(&format!("typed_extension_protocol_options[{key}]")));
    }
    for filter in &proto.filters {
        let any = filter.typed_config.as_ref().ok_or_else(|| Refusal::unsupported("filters"))?;
        // Only with ALPN `istio-peer-exchange`, to which we never agree (tls.rs).
        if extension(any)? != "envoy.tcp.metadataexchange.config.MetadataExchange" {
            return Err(Refusal::unsupported(&format!("filters[{}]", filter.name)));
        }
    }
    if let Some(common) = &proto.common_lb_config {
        refuse_set!(common; close_connections_on_host_set_change, consistent_hashing_lb_config, override_host_status)
            .under("common_lb_config")?;
    }
    if let Some(options) = &proto.upstream_connection_options {
        refuse_set!(options; happy_eyeballs_config).under("upstream_connection_options")?;
    }
    family_and_resolver(proto)
}

/// Old places of what `typed_extension_protocol_options` and `typed_dns_resolver_config` hold.
#[allow(deprecated)]
fn refuse_old(proto: &proto::Cluster) -> Result<()> {
    refuse_set!(proto;
        max_requests_per_connection, common_http_protocol_options, http_protocol_options, upstream_http_protocol_options,
        protocol_selection, dns_resolvers, dns_resolution_config, use_tcp_for_dns_lookups, track_timeout_budgets,
    )
}

/// How often names are asked for again their answers say. IPv6 is asked for where there is no IPv4.
fn family_and_resolver(proto: &proto::Cluster) -> Result<()> {
    use proto::cluster::DnsLookupFamily as F;
    if matches!(proto.dns_lookup_family(), F::V6Only | F::All) {
        return Err(Refusal::unsupported("dns_lookup_family"));
    }
    resolver(proto.typed_dns_resolver_config.as_ref().and_then(|c| c.typed_config.as_ref()))
}

/// Which resolver asks; ours does what is asked of `c-ares` here.
pub(crate) fn resolver(any: Option<&envoy_api::Any>) -> Result<()> {
    let Some(any) = any else { return Ok(()) };
    if kind(any) != "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig" {
        return Err(Refusal::unsupported("typed_dns_resolver_config"));
    }
    let cares: CaresDnsResolverConfig = unpack(any)?;
    refuse_set!(cares; resolvers, use_resolvers_as_fallback, filter_unroutable_families, dns_resolver_options)
        .under("typed_dns_resolver_config")
}

/// Our own end of connections to the hosts.
fn bind(proto: Option<&core::BindConfig>) -> Result<Option<IpAddr>> {
    let Some(proto) = proto else { return Ok(None) };
    refuse_old_bind(proto)?;
    refuse_set!(proto; freebind, socket_options, extra_source_addresses, local_address_selector)?;
    let Some(source) = &proto.source_address else { return Ok(None) };
    plain_socket(source).under("source_address")?;
    if port(source).under("source_address")? != 0 {
        return Err(Refusal::new("source_address.port_value", "must be 0: any port"));
    }
    let ip = source.address.parse();
    ip.map(Some)
        .map_err(|_| Refusal::new("source_address.address", format!("\"{}\" is not an IP address", source.address)))
}

#[allow(deprecated)] // The old form of `extra_source_addresses`.
fn refuse_old_bind(proto: &core::BindConfig) -> Result<()> {
    refuse_set!(proto; additional_source_addresses)
}

fn discovery(proto: &proto::Cluster) -> Result<Discovery> {
    let kind = match &proto.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(value)) => {
            DiscoveryType::try_from(*value).map_err(|_| Refusal::new("type", "is unknown"))?
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            let secure = proto.transport_socket.is_some() || !proto.transport_socket_matches.is_empty();
            return names::cluster(custom, secure).under("cluster_type");
        }
    };
    Ok(match kind {
        DiscoveryType::Static => {
            let hosts = proto.load_assignment.as_ref().map(hosts).transpose().under("load_assignment")?;
            Discovery::Static(hosts.unwrap_or_default())
        }
        DiscoveryType::Eds => {
            let service = proto.eds_cluster_config.as_ref().map(|e| e.service_name.as_str()).filter(|s| !s.is_empty());
            Discovery::Eds(service.unwrap_or(&proto.name).into())
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            Discovery::Dns(targets(proto.load_assignment.as_ref()).under("load_assignment")?)
        }
        DiscoveryType::OriginalDst => Discovery::OriginalDst,
    })
}

fn targets(assignment: Option<&endpoint::ClusterLoadAssignment>) -> Result<Vec<DnsTarget>> {
    let Some(assignment) = assignment else { return Ok(Vec::new()) };
    refuse_assignment(assignment)?;
    let mut all = Vec::new();
    for (l, locality) in assignment.endpoints.iter().enumerate() {
        refuse_locality(locality).under(format!("endpoints[{l}]"))?;
        for (e, one) in locality.lb_endpoints.iter().enumerate() {
            let path = || format!("endpoints[{l}].lb_endpoints[{e}]");
            let address = endpoint_of(one).under(path())?.address.as_ref().and_then(|a| a.address.as_ref());
            let Some(core::address::Address::SocketAddress(socket)) = address else {
                return Err(Refusal::new("address", "only a socket_address can be resolved").under(path()));
            };
            plain_socket(socket).under(path())?;
            let port = port(socket).under(path())?;
            // Every address of the name becomes a host like this one.
            let like = host(SocketAddr::from(([0, 0, 0, 0], port)), locality, one);
            all.push(DnsTarget { host: socket.address.clone(), port, like });
        }
    }
    Ok(all)
}

fn refuse_assignment(proto: &endpoint::ClusterLoadAssignment) -> Result<()> {
    refuse_set!(proto; named_endpoints)?;
    let Some(policy) = &proto.policy else { return Ok(()) };
    refuse_set!(policy; drop_overloads, endpoint_stale_after, overprovisioning_factor, weighted_priority_health)
        .under("policy")
}

fn refuse_locality(proto: &endpoint::LocalityLbEndpoints) -> Result<()> {
    refuse_set!(proto; lb_config, proximity)
}

fn endpoint_of(e: &endpoint::LbEndpoint) -> Result<&endpoint::Endpoint> {
    match &e.host_identifier {
        Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => {
            refuse_set!(endpoint; additional_addresses).map(|()| endpoint)
        }
        _ => Err(Refusal::new("endpoint", "is missing; named endpoints are not supported")),
    }
}

fn host(
    address: impl Into<upstream::Address>,
    locality: &endpoint::LocalityLbEndpoints,
    one: &endpoint::LbEndpoint,
) -> HostConfig {
    let healthy = matches!(one.health_status(), core::HealthStatus::Unknown | core::HealthStatus::Healthy);
    HostConfig {
        address: address.into(),
        weight: one.load_balancing_weight.map_or(1, |w| w.value).max(1),
        priority: locality.priority,
        locality: locality.locality.as_ref().map(place),
        locality_weight: locality.load_balancing_weight.map_or(0, |w| w.value),
        healthy,
        transport: metadata(one.metadata.as_ref(), "envoy.transport_socket_match").map(pairs).unwrap_or_default(),
        workload: metadata(one.metadata.as_ref(), "istio").and_then(|s| string(s, "workload")).map(Arc::from),
    }
}

/// Compiles an endpoint assignment: the name it is for and its hosts.
///
/// # Errors
/// With the field that is malformed.
pub fn compile_endpoints(
    proto: &endpoint::ClusterLoadAssignment,
) -> std::result::Result<(String, Vec<HostConfig>), ConfigError> {
    hosts(proto).map(|hosts| (proto.cluster_name.clone(), hosts)).map_err(|e| e.of(&proto.cluster_name))
}

fn hosts(proto: &endpoint::ClusterLoadAssignment) -> Result<Vec<HostConfig>> {
    refuse_assignment(proto)?;
    let mut all = Vec::new();
    for (l, locality) in proto.endpoints.iter().enumerate() {
        refuse_locality(locality).under(format!("endpoints[{l}]"))?;
        for (e, one) in locality.lb_endpoints.iter().enumerate() {
            let path = || format!("endpoints[{l}].lb_endpoints[{e}]");
            let address = host_address(endpoint_of(one).under(path())?.address.as_ref()).under(path())?;
            all.push(host(address, locality, one));
        }
    }
    Ok(all)
}

fn place(of: &core::Locality) -> Arc<str> {
    format!("{}/{}/{}", of.region, of.zone, of.sub_zone).trim_end_matches('/').into()
}

fn balance(proto: &proto::Cluster) -> Result<Balance> {
    Ok(match (proto.lb_policy(), &proto.lb_config) {
        (LbPolicy::RoundRobin, _) => Balance::RoundRobin,
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(c))) => {
            refuse_set!(c; active_request_bias).under("least_request_lb_config")?;
            Balance::LeastRequest(c.choice_count.map_or(2, |v| v.value).clamp(2, 16))
        }
        (LbPolicy::LeastRequest, _) => Balance::LeastRequest(2),
        (LbPolicy::Random, _) => Balance::Random,
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(c))) => {
            refuse_set!(c; hash_function, maximum_ring_size).under("ring_hash_lb_config")?;
            let minimum = c.minimum_ring_size.map_or(1024, |v| v.value);
            Balance::RingHash(u32::try_from(minimum).unwrap_or(u32::MAX))
        }
        (LbPolicy::RingHash, _) => Balance::RingHash(1024),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(c))) => {
            Balance::Maglev(u32::try_from(c.table_size.map_or(65_537, |v| v.value)).unwrap_or(65_537))
        }
        (LbPolicy::Maglev, _) => Balance::Maglev(65_537),
        (LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(c))) => {
            refuse_set!(c; use_http_header, http_header_name, upstream_port_override, metadata_key)
                .under("original_dst_lb_config")?;
            Balance::Original
        }
        (LbPolicy::ClusterProvided, _) => Balance::Original,
        (LbPolicy::LoadBalancingPolicyConfig, _) => return Err(Refusal::unsupported("lb_policy")),
    })
}

fn slow_start(proto: &proto::Cluster) -> Option<SlowStart> {
    let config = match &proto.lb_config {
        Some(LbConfig::RoundRobinLbConfig(c)) => c.slow_start_config.as_ref(),
        Some(LbConfig::LeastRequestLbConfig(c)) => c.slow_start_config.as_ref(),
        _ => None,
    }?;
    Some(SlowStart {
        window: limit(config.slow_start_window.as_ref())?,
        aggression: config.aggression.as_ref().map_or(1.0, |a| a.default_value),
        // Envoy's default is 10 %.
        least: config.min_weight_percent.as_ref().map_or(10.0, |p| p.value).clamp(0.0, 100.0) / 100.0,
    })
}

/// Whether places have weights of their own, and how zones count; without a word zones count by Envoy's defaults.
fn places(common: Option<&proto::cluster::CommonLbConfig>) -> Result<(bool, Option<ZoneAware>)> {
    use proto::cluster::common_lb_config::LocalityConfigSpecifier as L;
    let default = ZoneAware::default();
    match common.and_then(|c| c.locality_config_specifier.as_ref()) {
        Some(L::LocalityWeightedLbConfig(_)) => Ok((true, None)),
        Some(L::ZoneAwareLbConfig(c)) => {
            refuse_set!(c; fail_traffic_on_panic).under("zone_aware_lb_config")?;
            let percent = c.routing_enabled.as_ref().map_or(f64::from(default.percent), |p| p.value.round());
            let least_hosts = c.min_cluster_size.map_or(default.least_hosts, |v| v.value);
            Ok((false, Some(ZoneAware { percent: percent.clamp(0.0, 100.0) as u32, least_hosts })))
        }
        None => Ok((false, Some(default))),
    }
}

fn thresholds(proto: &proto::Cluster) -> Result<Thresholds> {
    let default = Thresholds::default();
    let Some(breakers) = &proto.circuit_breakers else { return Ok(default) };
    refuse_set!(breakers; per_host_thresholds)?;
    // No route has another priority.
    let usual = breakers.thresholds.iter().find(|t| t.priority() == core::RoutingPriority::Default);
    let Some(t) = usual else { return Ok(default) };
    refuse_set!(t; max_connection_pools).under("thresholds")?;
    Ok(Thresholds {
        connections: t.max_connections.map_or(default.connections, |v| v.value),
        pending: t.max_pending_requests.map_or(default.pending, |v| v.value),
        requests: t.max_requests.map_or(default.requests, |v| v.value),
        retries: t.max_retries.map_or(default.retries, |v| v.value),
        retry_budget: t.retry_budget.as_ref().map(|budget| RetryBudget {
            per_million: (budget.budget_percent.map_or(20.0, |p| p.value).clamp(0.0, 100.0) * 10_000.0) as u32,
            least: budget.min_retry_concurrency.map_or(3, |v| v.value),
            interval: limit(budget.budget_interval.as_ref()),
        }),
    })
}

fn outlier(proto: &proto::OutlierDetection) -> Result<Outlier> {
    let enforced =
        |v: Option<envoy_api::google::protobuf::UInt32Value>, default: u32| v.map_or(default, |v| v.value) > 0;
    if proto.enforcing_success_rate.is_none_or(|v| v.value > 0) {
        // Envoy's default is 100.
        return Err(Refusal::new("enforcing_success_rate", "must be 0: success rates are not compared here"));
    }
    refuse_set!(proto; monitors, always_eject_one_host, detect_degraded_hosts, max_ejection_time_jitter)?;
    let partly = |field: &'static str, v: &Option<envoy_api::google::protobuf::UInt32Value>| {
        (field, v.is_some_and(|v| v.value != 0 && v.value != 100))
    };
    let not_zero = |field: &'static str, v: &Option<envoy_api::google::protobuf::UInt32Value>| {
        (field, v.is_some_and(|v| v.value != 0))
    };
    refuse_fields(&[
        partly("enforcing_consecutive_5xx", &proto.enforcing_consecutive_5xx),
        partly("enforcing_consecutive_gateway_failure", &proto.enforcing_consecutive_gateway_failure),
        partly("enforcing_consecutive_local_origin_failure", &proto.enforcing_consecutive_local_origin_failure),
        not_zero("enforcing_failure_percentage", &proto.enforcing_failure_percentage),
        not_zero("enforcing_failure_percentage_local_origin", &proto.enforcing_failure_percentage_local_origin),
        not_zero("enforcing_local_origin_success_rate", &proto.enforcing_local_origin_success_rate),
    ])?;
    let base = duration(proto.base_ejection_time.as_ref()).unwrap_or(Duration::from_secs(30));
    let count = |v: Option<envoy_api::google::protobuf::UInt32Value>| v.map_or(5, |v| v.value);
    let when = |on: bool, n: u32| if on { n } else { 0 };
    Ok(Outlier {
        consecutive_5xx: when(enforced(proto.enforcing_consecutive_5xx, 100), count(proto.consecutive_5xx)),
        consecutive_gateway: when(
            enforced(proto.enforcing_consecutive_gateway_failure, 0),
            count(proto.consecutive_gateway_failure),
        ),
        consecutive_local: when(
            enforced(proto.enforcing_consecutive_local_origin_failure, 100),
            count(proto.consecutive_local_origin_failure),
        ),
        split_local: proto.split_external_local_origin_errors,
        interval: duration(proto.interval.as_ref()).unwrap_or(Duration::from_secs(10)),
        base_ejection: base,
        max_ejection: duration(proto.max_ejection_time.as_ref()).unwrap_or(Duration::from_secs(300)),
        max_ejection_percent: proto.max_ejection_percent.map_or(10, |v| v.value),
    })
}

struct Http {
    protocol: Protocol,
    idle_timeout: Option<Duration>,
    max_duration: Option<Duration>,
    keepalive: Option<Http2Keepalive>,
    max_requests: u32,
    max_streams: u32,
    preserve_case: bool,
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http_options(proto: &proto::Cluster) -> Result<Http> {
    const KEY: &str = HTTP_OPTIONS;
    #[allow(deprecated)] // The old place of the same switches.
    let old_http2 = proto.http2_protocol_options.is_some();
    let mut http = Http {
        protocol: if old_http2 { Protocol::Http2 } else { Protocol::Http1 },
        idle_timeout: None,
        max_duration: None,
        keepalive: None,
        max_requests: 0,
        max_streams: 1024,
        preserve_case: false,
    };
    let Some(any) = proto.typed_extension_protocol_options.get(KEY) else { return Ok(http) };
    if kind(any) != KEY {
        return Err(Refusal::new("typed_extension_protocol_options", format!("{} is not supported", any.type_url)));
    }
    options(&mut http, &unpack(any)?).under(format!("typed_extension_protocol_options[{KEY}]"))?;
    Ok(http)
}

fn options(http: &mut Http, given: &HttpProtocolOptions) -> Result<()> {
    use options::UpstreamProtocolOptions as U;
    use options::explicit_http_config::ProtocolConfig as P;
    refuse_fields(&[
        ("upstream_http_protocol_options", given.upstream_http_protocol_options.is_some()),
        ("http_filters", !given.http_filters.is_empty()),
        ("header_validation_config", given.header_validation_config.is_some()),
    ])?;
    refuse_set!(given; hash_policy, outlier_detection, request_mirror_policies, retry_policy)?;
    if let Some(common) = &given.common_http_protocol_options {
        refuse_fields(&[
            ("max_stream_duration", common.max_stream_duration.is_some()),
            ("max_headers_count", common.max_headers_count.is_some()),
            ("max_response_headers_kb", common.max_response_headers_kb.is_some()),
        ])
        .under("common_http_protocol_options")?;
        refuse_set!(common; headers_with_underscores_action, max_connection_duration_jitter)
            .under("common_http_protocol_options")?;
        http.idle_timeout = limit(common.idle_timeout.as_ref());
        http.max_duration = limit(common.max_connection_duration.as_ref());
        http.max_requests = common.max_requests_per_connection.map_or(0, |v| v.value);
    }
    match &given.upstream_protocol_options {
        None => {}
        Some(U::ExplicitHttpConfig(explicit)) => match &explicit.protocol_config {
            Some(P::Http2ProtocolOptions(h2)) => {
                http.protocol = Protocol::Http2;
                http2(http, Some(h2)).under("http2_protocol_options")?;
            }
            Some(P::Http3ProtocolOptions(_)) => return Err(Refusal::unsupported("http3_protocol_options")),
            Some(P::HttpProtocolOptions(h1)) => {
                http.protocol = Protocol::Http1;
                http.preserve_case = protocol::http1(Some(h1)).under("http_protocol_options")?;
            }
            None => http.protocol = Protocol::Http1,
        },
        Some(U::UseDownstreamProtocolConfig(both)) => {
            http.protocol = Protocol::Downstream;
            http.preserve_case = protocol::http1(both.http_protocol_options.as_ref()).under("http_protocol_options")?;
            http2(http, both.http2_protocol_options.as_ref()).under("http2_protocol_options")?;
            if both.http3_protocol_options.is_some() {
                return Err(Refusal::unsupported("http3_protocol_options"));
            }
        }
        Some(U::AutoConfig(_)) => return Err(Refusal::unsupported("auto_config")),
    }
    Ok(())
}

fn http2(http: &mut Http, given: Option<&core::Http2ProtocolOptions>) -> Result<()> {
    let Some(given) = given else { return Ok(()) };
    protocol::refuse_http2(given)?;
    refuse_fields(&[
        ("allow_connect", given.allow_connect),
        ("initial_stream_window_size", given.initial_stream_window_size.is_some()),
        ("initial_connection_window_size", given.initial_connection_window_size.is_some()),
    ])?;
    http.max_streams = given.max_concurrent_streams.map_or(http.max_streams, |v| v.value).max(1);
    if let Some(keepalive) = &given.connection_keepalive {
        http.keepalive = protocol::keepalive(keepalive).under("connection_keepalive")?;
    }
    Ok(())
}

fn keepalive(proto: &core::TcpKeepalive) -> Keepalive {
    let seconds = |v: u32| Duration::from_secs(u64::from(v));
    Keepalive {
        time: proto.keepalive_time.map(|v| seconds(v.value)),
        interval: proto.keepalive_interval.map(|v| seconds(v.value)),
        probes: proto.keepalive_probes.map(|v| v.value),
    }
}

fn services(proto: Option<&core::Metadata>) -> Vec<Service> {
    let Some(value::Kind::ListValue(list)) =
        metadata(proto, "istio").and_then(|s| s.fields.get("services")).and_then(|v| v.kind.as_ref())
    else {
        return Vec::new();
    };
    let one = |v: &envoy_api::Value| match &v.kind {
        Some(value::Kind::StructValue(s)) => Some(Service {
            host: string(s, "host")?.into(),
            name: string(s, "name")?.into(),
            namespace: string(s, "namespace")?.into(),
        }),
        _ => None,
    };
    list.values.iter().filter_map(one).collect()
}

fn metadata<'a>(proto: Option<&'a core::Metadata>, name: &str) -> Option<&'a Struct> {
    proto?.filter_metadata.get(name)
}

fn string<'a>(of: &'a Struct, key: &str) -> Option<&'a str> {
    match of.fields.get(key)?.kind.as_ref()? {
        value::Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn pairs(of: &Struct) -> Vec<(String, String)> {
    of.fields.keys().filter_map(|key| string(of, key).map(|v| (key.clone(), v.to_owned()))).collect()
}
