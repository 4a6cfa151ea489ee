//! Listeners: filter chains, what is looked at before one is chosen, and what they end in.

use std::sync::Arc;
use std::time::Duration;

use ::http::uri::PathAndQuery;
use envoy_api::envoy::config::core::v3::TrafficDirection;
use envoy_api::envoy::config::listener::v3 as proto;
use envoy_api::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_api::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_api::envoy::extensions::filters::network::tcp_proxy::v3::{self as tcp, tcp_proxy};
use proto::listener_filter_chain_match_predicate::Rule;
use rules::chain::ChainMatch;
use rules::headers::HeaderMutation;
use rules::rbac::Engine;
use rules::route::WeightedCluster;
use telemetry::AccessLog;
use upstream::{Address, ClusterSlot, NameLimits};

use crate::access_log;
use crate::common::{cidr, duration, host_address, kind, limit, limit_or, unpack};
use crate::context::{ConfigError, Context, Refusal, Result, Under};
use crate::http::{self, HttpManager, RouteSource, extension};
use crate::names;
use crate::protocol::{IsSet, refuse, refuse_set};
use crate::rbac::engine;
use crate::tls::{ServerTlsConfigs, downstream};

/// Istio's default of `tcpReportingDuration`.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A listener, ready to take connections.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens, or, unbound, what connections it is handed.
    pub address: Address,
    /// Whether it has a socket of its own.
    pub bound: bool,
    /// Connections are handed to the listener of their original destination, when there is one.
    pub hands_over: bool,
    /// The original destination is restored without handing over.
    pub original_dst: bool,
    /// Whether connections come from other workloads.
    pub inbound: bool,
    /// Ports on which TLS is not looked for; `None`: not looked for at all.
    pub inspect_tls: Option<HttpInspect>,
    /// Ports on which HTTP is not looked for; `None`: not looked for at all.
    pub inspect_http: Option<HttpInspect>,
    /// How long a silent client is kept while its protocol is unknown; `None` is no limit.
    pub inspect_timeout: Option<Duration>,
    /// After that time the client goes on as if it spoke no known protocol; else it is closed.
    pub inspect_continue: bool,
    /// Chains in order, and the conditions of each.
    pub chains: Vec<FilterChain>,
    /// When no chain matches.
    pub default_chain: Option<FilterChain>,
    /// Logs of connections that found no chain.
    pub logs: Vec<Arc<AccessLog>>,
}

/// Destination ports (from, to exclusive) on which an inspector is switched off.
#[derive(Clone, Debug, Default)]
pub struct HttpInspect {
    /// Ranges.
    pub disabled: Vec<(u32, u32)>,
}

impl HttpInspect {
    /// Whether the inspector works on this port.
    pub fn is_on(&self, port: u16) -> bool {
        !self.disabled.iter().any(|(from, to)| (*from..*to).contains(&u32::from(port)))
    }
}

/// One filter chain.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name.
    pub name: Arc<str>,
    /// When it is taken.
    pub matches: ChainMatch,
    /// TLS.
    pub tls: Option<Arc<ServerTlsConfigs>>,
    /// Limit of the TLS handshake.
    pub handshake_timeout: Duration,
    /// Authorization below HTTP.
    pub rbac: Vec<Engine>,
    /// Authorization below HTTP that only logs.
    pub shadow_rbac: Vec<Engine>,
    /// Report Istio's metrics of connections.
    pub stats: bool,
    /// How often a connection that lasts is reported.
    pub report_every: Duration,
    /// What becomes of the connection.
    pub terminal: Terminal,
}

/// What becomes of a connection.
#[derive(Debug)]
pub enum Terminal {
    /// HTTP.
    Http(Arc<HttpManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}

/// How an upstream is asked for a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where it leads to, `host:port`.
    pub target: Box<str>,
    /// By POST to this path instead of CONNECT: the bytes are its body, and that of its answer.
    pub post: Option<PathAndQuery>,
}

/// Sends bytes on.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// For statistics.
    pub stat_prefix: Arc<str>,
    /// Where to; at least one.
    pub clusters: Vec<WeightedCluster<Arc<ClusterSlot>>>,
    /// Sum of the weights.
    pub total_weight: u32,
    /// Silence after which both sides are closed.
    pub idle_timeout: Option<Duration>,
    /// The longest a connection may last.
    pub max_duration: Option<Duration>,
    /// Bytes go through a tunnel that the upstream opens.
    pub tunnel: Option<Tunnel>,
    /// The server name of TLS is the name of the host, at this port, where the cluster is for such; within these limits.
    pub names: Option<(u16, NameLimits)>,
    /// The client's address chooses the host.
    pub hashes_source: bool,
    /// Tries to connect.
    pub max_connect_attempts: u32,
    /// Logs.
    pub logs: Vec<Arc<AccessLog>>,
}

impl Listener {
    /// Names of the route configurations it needs.
    pub fn route_names(&self) -> Vec<String> {
        let chains = self.chains.iter().chain(&self.default_chain);
        let name = |chain: &FilterChain| match &chain.terminal {
            Terminal::Http(manager) => match &manager.routes {
                RouteSource::Named(slot) => Some(slot.name.to_string()),
                RouteSource::Inline(_) => None,
            },
            Terminal::Tcp(_) => None,
        };
        chains.filter_map(name).collect()
    }
}

/// Compiles a listener.
///
/// # Errors
/// With the field that is malformed or not supported.
pub fn compile_listener(proto: &proto::Listener, context: &Context) -> std::result::Result<Listener, ConfigError> {
    compile(proto, context).map_err(|e| e.of(&proto.name))
}

fn compile(proto: &proto::Listener, context: &Context) -> Result<Listener> {
    let unsupported = [
        ("udp_listener_config", proto.udp_listener_config.is_some()),
        ("api_listener", proto.api_listener.is_some()),
        ("additional_addresses", !proto.additional_addresses.is_empty()),
        ("filter_chain_matcher", proto.filter_chain_matcher.is_some()),
        ("transparent", proto.transparent.is_some_and(|v| v.value)),
        ("listener_specifier", proto.listener_specifier.is_some()),
    ];
    refuse(&unsupported)?;
    refuse_set!(proto;
        drain_type, freebind, socket_options, tcp_fast_open_queue_length, tcp_backlog_size, tcp_keepalive, enable_mptcp,
        per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, fcds_config,
    )?;
    refuse_old_listener(proto)?;
    let mut listener = Listener {
        name: proto.name.as_str().into(),
        address: host_address(proto.address.as_ref()).under("address")?,
        bound: proto.bind_to_port.is_none_or(|v| v.value),
        hands_over: proto.use_original_dst.is_some_and(|v| v.value),
        original_dst: proto.use_original_dst.is_some_and(|v| v.value),
        inbound: proto.traffic_direction() == TrafficDirection::Inbound,
        inspect_tls: None,
        inspect_http: None,
        inspect_timeout: limit_or(proto.listener_filters_timeout.as_ref(), Some(Duration::from_secs(15))),
        inspect_continue: proto.continue_on_listener_filters_timeout,
        chains: Vec::new(),
        default_chain: None,
        logs: access_log::compile(&proto.access_log)?,
    };
    for filter in &proto.listener_filters {
        listener_filter(&mut listener, filter).under(format!("listener_filters[{}]", filter.name))?;
    }
    for (index, chain) in proto.filter_chains.iter().enumerate() {
        listener.chains.push(filter_chain(chain, context).under(format!("filter_chains[{index}]"))?);
    }
    listener.default_chain = proto
        .default_filter_chain
        .as_ref()
        .map(|c| filter_chain(c, context))
        .transpose()
        .under("default_filter_chain")?;
    pipe(&listener)?;
    Ok(listener)
}

/// What there is not on Unix sockets: interception, and TLS.
fn pipe(listener: &Listener) -> Result<()> {
    if listener.address.pipe().is_none() {
        return Ok(());
    }
    if !listener.bound || listener.original_dst {
        return Err(Refusal::new("address", "nothing that goes to a Unix socket is intercepted"));
    }
    if listener.chains.iter().chain(&listener.default_chain).any(|chain| chain.tls.is_some()) {
        return Err(Refusal::new("transport_socket", "TLS at a Unix socket is not supported"));
    }
    Ok(())
}

fn listener_filter(listener: &mut Listener, filter: &proto::ListenerFilter) -> Result<()> {
    let Some(proto::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return Err(Refusal::new("typed_config", "is missing"));
    };
    let mut inspect = HttpInspect::default();
    if let Some(predicate) = &filter.filter_disabled {
        disabled(predicate, &mut inspect.disabled)?;
    }
    match kind(any) {
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => listener.original_dst = true,
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
            let tls: TlsInspector = unpack(any)?;
            refuse_set!(tls; max_client_hello_size, close_connection_on_client_hello_parsing_errors)?;
            listener.inspect_tls = Some(inspect);
        }
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => listener.inspect_http = Some(inspect),
        other => return Err(Refusal::new("typed_config", format!("listener filter {other} is not supported"))),
    }
    Ok(())
}

fn disabled(predicate: &proto::ListenerFilterChainMatchPredicate, ranges: &mut Vec<(u32, u32)>) -> Result<()> {
    match &predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            ranges.push((u32::try_from(range.start).unwrap_or(0), u32::try_from(range.end).unwrap_or(0)));
            Ok(())
        }
        Some(Rule::OrMatch(set)) => set.rules.iter().try_for_each(|rule| disabled(rule, ranges)),
        Some(Rule::AnyMatch(true)) => {
            ranges.push((0, 1 << 16));
            Ok(())
        }
        _ => Err(Refusal::unsupported("filter_disabled")),
    }
}

fn filter_chain(proto: &proto::FilterChain, context: &Context) -> Result<FilterChain> {
    refuse_old_chain(proto)?;
    let (last, before) = proto.filters.split_last().ok_or_else(|| Refusal::new("filters", "is empty"))?;
    let mut chain = FilterChain {
        name: proto.name.as_str().into(),
        matches: chain_match(proto.filter_chain_match.as_ref()).under("filter_chain_match")?,
        tls: downstream(proto.transport_socket.as_ref(), &context.secrets).under("transport_socket")?,
        handshake_timeout: limit(proto.transport_socket_connect_timeout.as_ref()).unwrap_or(Duration::from_secs(15)),
        rbac: Vec::new(),
        shadow_rbac: Vec::new(),
        stats: false,
        report_every: REPORT_EVERY,
        terminal: terminal(typed(last)?, context).under(format!("filters[{}]", last.name))?,
    };
    for filter in before {
        network_filter(&mut chain, typed(filter)?).under(format!("filters[{}]", filter.name))?;
    }
    Ok(chain)
}

#[allow(deprecated)] // Once a listener filter's business.
fn refuse_old_chain(proto: &proto::FilterChain) -> Result<()> {
    refuse_set!(proto; use_proxy_proto)
}

#[allow(deprecated)] // The old place of `bind_to_port`.
fn refuse_old_listener(proto: &proto::Listener) -> Result<()> {
    refuse_set!(proto; deprecated_v1)
}

fn typed(filter: &proto::Filter) -> Result<&envoy_api::Any> {
    match &filter.config_type {
        Some(proto::filter::ConfigType::TypedConfig(any)) => Ok(any),
        _ => Err(Refusal::new("typed_config", "is missing")),
    }
}

fn network_filter(chain: &mut FilterChain, any: &envoy_api::Any) -> Result<()> {
    match extension(any)?.as_str() {
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let rbac: Rbac = unpack(any)?;
            refuse_set!(rbac; delay_deny, enforcement_type)?;
            if rbac.matcher.is_some() || rbac.shadow_matcher.is_some() {
                return Err(Refusal::unsupported("matcher"));
            }
            if let Some(rules) = &rbac.shadow_rules {
                chain.shadow_rbac.push(engine(rules).under("shadow_rules")?);
            }
            if let Some(rules) = &rbac.rules {
                chain.rbac.push(engine(rules).under("rules")?);
            }
        }
        "stats.PluginConfig" => {
            chain.stats = true;
            chain.report_every = report_every(any)?.unwrap_or(REPORT_EVERY);
        }
        "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig" => {
            let names = names::sni(&unpack(any)?)?;
            match &mut chain.terminal {
                Terminal::Tcp(proxy) => Arc::make_mut(proxy).names = Some(names),
                Terminal::Http(_) => return Err(Refusal::new("typed_config", "is for tcp_proxy alone")),
            }
        }
        // Only with ALPN `istio-peer-exchange`, to which we never agree (tls.rs).
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {}
        other => return Err(Refusal::new("typed_config", format!("network filter {other} is not supported"))),
    }
    Ok(())
}

/// `tcp_reporting_duration` of Istio's stats filter.
fn report_every(any: &envoy_api::Any) -> Result<Option<Duration>> {
    const FIELD: &str = "tcp_reporting_duration";
    if kind(any) == "stats.PluginConfig" {
        return Err(Refusal::new("typed_config", "stats.PluginConfig must come as a TypedStruct"));
    }
    let typed: envoy_api::udpa::r#type::v1::TypedStruct = unpack(any)?;
    let value = typed.value.as_ref().and_then(|v| v.fields.get(FIELD)).and_then(|v| v.kind.as_ref());
    match value {
        None => Ok(None),
        Some(envoy_api::google::protobuf::value::Kind::StringValue(text)) => {
            let seconds = text.strip_suffix('s').and_then(|n| n.parse::<f64>().ok());
            let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).filter(|d| !d.is_zero());
            time.map(Some).ok_or_else(|| Refusal::new(FIELD, format!("\"{text}\" is not a duration above zero")))
        }
        Some(_) => Err(Refusal::new(FIELD, "is not a duration")),
    }
}

fn terminal(any: &envoy_api::Any, context: &Context) -> Result<Terminal> {
    match kind(any) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let manager: HttpConnectionManager = unpack(any)?;
            Ok(Terminal::Http(Arc::new(http::compile(&manager, context)?)))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            Ok(Terminal::Tcp(Arc::new(tcp_proxy(&unpack(any)?, context)?)))
        }
        other => Err(Refusal::new("typed_config", format!("the chain must end in HTTP or tcp_proxy, not {other}"))),
    }
}

fn tcp_proxy(proto: &tcp::TcpProxy, context: &Context) -> Result<TcpProxy> {
    refuse_tcp(proto)?;
    use envoy_api::envoy::r#type::v3::hash_policy::PolicySpecifier as Hash;
    if proto.hash_policy.iter().any(|p| !matches!(p.policy_specifier, Some(Hash::SourceIp(_)))) {
        return Err(Refusal::unsupported("hash_policy"));
    }
    let entry = |name: &str, weight: u32| WeightedCluster {
        cluster: context.clusters.slot(name),
        weight,
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        host_rewrite: None,
    };
    let clusters = match &proto.cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => vec![entry(name, 1)],
        Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
            let one = |c: &tcp_proxy::weighted_cluster::ClusterWeight| {
                refuse_set!(c; metadata_match).under("weighted_clusters").map(|()| entry(&c.name, c.weight))
            };
            weighted.clusters.iter().map(one).collect::<Result<_>>()?
        }
        None => return Err(Refusal::new("cluster", "is missing")),
    };
    Ok(TcpProxy {
        stat_prefix: proto.stat_prefix.as_str().into(),
        total_weight: clusters.iter().map(|c| c.weight).sum(),
        clusters,
        // Envoy's default; zero turns it off.
        idle_timeout: limit_or(proto.idle_timeout.as_ref(), Some(Duration::from_secs(3600))),
        names: None,
        tunnel: proto.tunneling_config.as_ref().map(tunnel).transpose().under("tunneling_config")?,
        hashes_source: !proto.hash_policy.is_empty(),
        max_duration: duration(proto.max_downstream_connection_duration.as_ref()),
        max_connect_attempts: proto.max_connect_attempts.map_or(1, |v| v.value).max(1),
        logs: access_log::compile(&proto.access_log)?,
    })
}

fn refuse_tcp(proto: &tcp::TcpProxy) -> Result<()> {
    let options = proto.access_log_options.as_ref();
    #[allow(deprecated)] // The old places of `access_log_options`.
    let (old_interval, old_connect) = (proto.access_log_flush_interval.is_some(), proto.flush_access_log_on_connected);
    refuse(&[
        ("on_demand", proto.on_demand.is_some()),
        ("metadata_match", proto.metadata_match.is_some()),
        ("downstream_idle_timeout", proto.downstream_idle_timeout.is_some()),
        ("upstream_idle_timeout", proto.upstream_idle_timeout.is_some()),
        ("backoff_options", proto.backoff_options.is_some()),
        (
            "max_downstream_connection_duration_jitter_percentage",
            proto.max_downstream_connection_duration_jitter_percentage.is_some(),
        ),
        ("access_log_flush_interval", old_interval),
        ("flush_access_log_on_connected", old_connect),
        (
            "access_log_options",
            options.is_some_and(|o| {
                o.access_log_flush_interval.is_some() || o.flush_access_log_on_connected || o.flush_access_log_on_start
            }),
        ),
        ("check_drain_close", proto.check_drain_close.is_set()),
        ("proxy_protocol_tlvs", !proto.proxy_protocol_tlvs.is_empty()),
        ("upstream_connect_mode", proto.upstream_connect_mode != 0),
        ("max_early_data_bytes", proto.max_early_data_bytes.is_some()),
    ])
}

fn tunnel(proto: &tcp::tcp_proxy::TunnelingConfig) -> Result<Tunnel> {
    let unsupported = [
        ("headers_to_add", !proto.headers_to_add.is_empty()),
        ("propagate_response_headers", proto.propagate_response_headers),
        ("propagate_response_trailers", proto.propagate_response_trailers),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Refusal::unsupported(field));
    }
    refuse_set!(proto; request_id_extension, request_id_header, request_id_metadata_key, formatters)?;
    let plain = |c: char| c.is_ascii_graphic() && c != '%';
    if proto.hostname.is_empty() || !proto.hostname.chars().all(plain) {
        return Err(Refusal::new("hostname", "is not host:port"));
    }
    if !proto.use_post && !proto.post_path.is_empty() {
        return Err(Refusal::new("post_path", "is for use_post alone"));
    }
    let path = if proto.post_path.is_empty() { "/" } else { &proto.post_path };
    let post = proto.use_post.then(|| PathAndQuery::try_from(path)).transpose();
    Ok(Tunnel { target: proto.hostname.as_str().into(), post: post.map_err(|e| Refusal::new("post_path", e))? })
}

fn chain_match(proto: Option<&proto::FilterChainMatch>) -> Result<ChainMatch> {
    let Some(proto) = proto else { return Ok(ChainMatch::default()) };
    let unsupported = [
        ("source_type", proto.source_type != 0),
        ("direct_source_prefix_ranges", !proto.direct_source_prefix_ranges.is_empty()),
        ("address_suffix", !proto.address_suffix.is_empty()),
        ("suffix_len", proto.suffix_len.is_some()),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, used)| *used) {
        return Err(Refusal::unsupported(field));
    }
    let port = |p: u32| u16::try_from(p).map_err(|_| Refusal::new("port", format!("{p} is not a port")));
    Ok(ChainMatch {
        destination_port: proto.destination_port.map(|p| port(p.value)).transpose()?,
        destination: proto.prefix_ranges.iter().map(cidr).collect::<Result<_>>()?,
        server_names: proto.server_names.iter().map(|n| n.to_ascii_lowercase()).collect(),
        transport: Some(proto.transport_protocol.clone()).filter(|t| !t.is_empty()),
        protocols: proto.application_protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
        source: proto.source_prefix_ranges.iter().map(cidr).collect::<Result<_>>()?,
        source_ports: proto.source_ports.iter().map(|p| port(*p)).collect::<Result<_>>()?,
    })
}
