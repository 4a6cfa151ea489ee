//! A cluster as configuration describes it; plain data.

use crate::address::Address;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mtls::{ClientTls, Offer, TlsError};

/// A whole cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Its name, such as `outbound|8080|v1|payment-api.production.svc.cluster.local`.
    pub name: Arc<str>,
    /// Where its hosts come from.
    pub discovery: Discovery,
    /// How a host is picked.
    pub balance: Balance,
    /// Limit of one connection attempt, TLS included.
    pub connect_timeout: Duration,
    /// How a new host's share grows.
    pub slow_start: Option<SlowStart>,
    /// Places share the traffic of a priority by their own weights.
    pub locality_weighted: bool,
    /// Requests prefer their own zone, where the proxy knows its own replicas.
    pub zone_aware: Option<ZoneAware>,
    /// Circuit breakers.
    pub thresholds: Thresholds,
    /// When a host is put aside.
    pub outlier: Option<Outlier>,
    /// Below this share of healthy hosts (percent) all are used; 0 turns it off.
    pub panic_percent: u32,
    /// What HTTP version is spoken upstream.
    pub protocol: Protocol,
    /// How long an unused connection is kept.
    pub idle_timeout: Option<Duration>,
    /// The longest life of an HTTP connection; then it serves no new request.
    pub max_connection_duration: Option<Duration>,
    /// Names are asked for IPv4 addresses alone.
    pub ipv4_only: bool,
    /// HTTP/2 pings on silent connections.
    pub http2_keepalive: Option<Http2Keepalive>,
    /// Who connects is told in front of all bytes (the PROXY protocol).
    pub proxy_protocol: Option<ProxyVersion>,
    /// Requests after which a connection is closed; 0 is no limit.
    pub max_requests_per_connection: u32,
    /// Streams on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// HTTP/1 header names keep the case they came in.
    pub preserve_case: bool,
    /// Transport security by endpoint metadata; the first match counts.
    pub transport_matches: Vec<TransportMatch>,
    /// Transport security when none matches.
    pub security: Security,
    /// Source address of connections.
    pub bind: Option<IpAddr>,
    /// TCP keep-alive.
    pub keepalive: Option<Keepalive>,
    /// The services it stands for, for metrics.
    pub services: Vec<Service>,
}

impl ClusterConfig {
    /// A cluster with Envoy's defaults: round robin over plain HTTP/1.1, no outlier detection.
    pub fn new(name: &str, discovery: Discovery) -> Self {
        Self {
            name: name.into(),
            discovery,
            balance: Balance::RoundRobin,
            slow_start: None,
            locality_weighted: false,
            zone_aware: Some(ZoneAware::default()),
            connect_timeout: Duration::from_secs(5),
            thresholds: Thresholds::default(),
            outlier: None,
            panic_percent: 50,
            protocol: Protocol::Http1,
            idle_timeout: None,
            max_connection_duration: None,
            ipv4_only: false,
            http2_keepalive: None,
            proxy_protocol: None,
            max_requests_per_connection: 0,
            max_concurrent_streams: 1024,
            preserve_case: false,
            transport_matches: Vec::new(),
            security: Security::Plain,
            bind: None,
            keepalive: None,
            services: Vec::new(),
        }
    }
}

/// A service behind a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Fully qualified.
    pub host: Arc<str>,
    /// Short.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

/// Where hosts come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// From the cluster itself.
    Static(Vec<HostConfig>),
    /// From a `ClusterLoadAssignment` of this name.
    Eds(Arc<str>),
    /// From DNS: all addresses are hosts.
    Dns(Vec<DnsTarget>),
    /// The address the client dialled.
    OriginalDst,
    /// From DNS, by the name that each caller brings.
    Names(NameLimits),
}

/// How many names that callers bring are kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameLimits {
    /// Names known at once.
    pub most: u32,
    /// A name that nobody has called for so long is forgotten.
    pub unused: Duration,
    /// Names are asked for IPv4 addresses alone.
    pub ipv4_only: bool,
}

impl Default for NameLimits {
    /// Envoy's defaults of a DNS cache: `max_hosts`, `host_ttl`.
    fn default() -> Self {
        Self { most: 1024, unused: Duration::from_secs(300), ipv4_only: false }
    }
}

/// A name to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsTarget {
    /// The name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What every host of the name is like, but for its address.
    pub like: HostConfig,
}

impl DnsTarget {
    /// A name whose hosts have nothing special.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, like: HostConfig::new(SocketAddr::from(([0, 0, 0, 0], port))) }
    }
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Where it listens.
    pub address: Address,
    /// Its share; at least 1.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Where it is, as `region/zone/subzone`.
    pub locality: Option<Arc<str>>,
    /// The share of its place.
    pub locality_weight: u32,
    /// Whether discovery says that it is well.
    pub healthy: bool,
    /// `envoy.transport_socket_match` metadata.
    pub transport: Vec<(String, String)>,
    /// `istio.workload` metadata: `workload;namespace;canonical name;revision;cluster`.
    pub workload: Option<Arc<str>>,
}

impl HostConfig {
    /// A well host of weight 1 and the first priority.
    pub fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            weight: 1,
            priority: 0,
            locality: None,
            locality_weight: 1,
            healthy: true,
            transport: Vec::new(),
            workload: None,
        }
    }
}

/// How a host is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// One after the other, by weight.
    RoundRobin,
    /// The less busy of this many random ones.
    LeastRequest(u32),
    /// Any, by weight.
    Random,
    /// Consistent hashing on a ring of at least this many points.
    RingHash(u32),
    /// Consistent hashing by Maglev's table of this (prime) size.
    Maglev(u32),
    /// The address the client dialled.
    Original,
}

/// How a new host's share grows (Envoy's `SlowStartConfig`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// Until the share is whole.
    pub window: Duration,
    /// 1: the share grows evenly; more: faster at the beginning.
    pub aggression: f64,
    /// The least part of a share, from 0 to 1.
    pub least: f64,
}

/// How requests prefer their own zone (Envoy's `ZoneAwareLbConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneAware {
    /// Of a hundred requests so many do.
    pub percent: u32,
    /// With fewer hosts that are well than this, none does.
    pub least_hosts: u64,
}

impl Default for ZoneAware {
    /// Envoy's defaults.
    fn default() -> Self {
        Self { percent: 100, least_hosts: 6 }
    }
}

/// Versions of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// HTTP version spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the caller speaks.
    Downstream,
}

/// Circuit breakers; `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections.
    pub connections: u32,
    /// Requests waiting for a connection.
    pub pending: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Retries in flight.
    pub retries: u32,
    /// Retries in flight as a part of the requests; takes the place of `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// How many retries may be in flight (Envoy's `RetryBudget`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of a million requests that are in flight or waiting.
    pub per_million: u32,
    /// So many always may.
    pub least: u32,
    /// Requests that began within this time count, whether they have ended or not; `None`: those in flight.
    pub interval: Option<Duration>,
}

impl Default for Thresholds {
    /// Envoy's defaults.
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3, retry_budget: None }
    }
}

/// When a host is put aside (Envoy's outlier detection; defaults are Envoy's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// 5xx answers in a row; 0 turns the check off.
    pub consecutive_5xx: u32,
    /// 502, 503, 504 in a row; 0 turns the check off.
    pub consecutive_gateway: u32,
    /// Failures to connect in a row, when counted apart; 0 turns the check off.
    pub consecutive_local: u32,
    /// Failures to connect are counted apart from answers.
    pub split_local: bool,
    /// How often memory of past ejections fades.
    pub interval: Duration,
    /// Time aside, times the number of ejections.
    pub base_ejection: Duration,
    /// The longest time aside.
    pub max_ejection: Duration,
    /// Share of hosts that may be aside at once, in percent.
    pub max_ejection_percent: u32,
}

impl Default for Outlier {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway: 0,
            consecutive_local: 5,
            split_local: false,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
        }
    }
}

/// TCP keep-alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
}

/// A transport for endpoints whose metadata has all of these.
#[derive(Clone, Debug)]
pub struct TransportMatch {
    /// Key and value, such as `tlsMode` = `istio`; empty matches all.
    pub metadata: Vec<(String, String)>,
    /// The transport.
    pub security: Security,
}

/// Transport security of a connection.
#[derive(Clone, Debug)]
pub enum Security {
    /// None.
    Plain,
    /// TLS.
    Tls(Arc<Tls>),
}

/// TLS configurations of one context, built once: as configured, and with the ALPN that Istio's `istio.alpn` filter
/// puts in for HTTP.
#[derive(Debug)]
pub struct Tls {
    /// As configured.
    pub plain: Arc<rustls::ClientConfig>,
    /// For HTTP/1.1 requests inside the mesh.
    pub mesh_http1: Arc<rustls::ClientConfig>,
    /// For HTTP/2 requests inside the mesh.
    pub mesh_http2: Arc<rustls::ClientConfig>,
    /// Server name.
    pub name: rustls::pki_types::ServerName<'static>,
}

impl Tls {
    /// Builds all configurations of a context.
    ///
    /// # Errors
    /// When the context cannot be used.
    pub fn new(context: &ClientTls, offer: &Offer) -> Result<Self, TlsError> {
        let alpn = |names: [&str; 3]| names.map(|n| n.as_bytes().to_vec()).to_vec();
        Ok(Self {
            plain: context.build_within(offer)?,
            mesh_http1: context.with_alpn(alpn(["istio-http/1.1", "istio", "http/1.1"])).build_within(offer)?,
            mesh_http2: context.with_alpn(alpn(["istio-h2", "istio", "h2"])).build_within(offer)?,
            name: context.server_name()?,
        })
    }
}

/// When an HTTP/2 connection is asked whether its other end is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Time between two pings.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// Up to so many per cent are added to the interval, so that connections made together do not ping together.
    pub jitter_percent: u32,
}

impl Http2Keepalive {
    /// Envoy's default of `interval_jitter`.
    pub const JITTER_PERCENT: u32 = 15;

    /// The interval of one connection.
    pub fn draw(&self) -> Duration {
        let most = self.interval.as_nanos().saturating_mul(u128::from(self.jitter_percent)) / 100;
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        self.interval.saturating_add(Duration::from_nanos(fastrand::u64(..=most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_do_not_ping_together() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let of = |jitter_percent| Http2Keepalive { interval: minute, timeout: second, jitter_percent };
        assert_eq!(of(0).draw(), minute);
        let drawn: Vec<Duration> = (0..100).map(|_| of(10).draw()).collect();
        assert!(drawn.iter().all(|d| *d >= minute && *d <= minute + Duration::from_secs(6)), "{drawn:?}");
        assert!(drawn.iter().any(|d| *d != drawn[0]));
    }
}
