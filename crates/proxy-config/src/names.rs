//! Names that callers bring: the caches of Envoy's dynamic forward proxy.

use envoy_api::envoy::config::cluster::v3 as proto;
use envoy_api::envoy::config::core::v3::TypedExtensionConfig;
use envoy_api::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig, cluster_config::ClusterImplementationSpecifier as Of,
};
use envoy_api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_api::envoy::extensions::filters::http::dynamic_forward_proxy::v3::{
    FilterConfig, filter_config::ImplementationSpecifier,
};
use envoy_api::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::{
    FilterConfig as SniConfig, filter_config::PortSpecifier,
};
use upstream::{Discovery, NameLimits};

use crate::cluster::resolver;
use crate::common::{kind, limit, unpack};
use crate::context::{Refusal, Result, Under};
use crate::protocol::refuse_set;

/// A cluster whose type is an extension's.
pub(crate) fn cluster(custom: &proto::cluster::CustomClusterType, secure: bool) -> Result<Discovery> {
    let any = custom.typed_config.as_ref().ok_or_else(|| Refusal::new("typed_config", "is missing"))?;
    if kind(any) != "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" {
        return Err(Refusal::new("typed_config", format!("{} is not supported", custom.name)));
    }
    let config: ClusterConfig = unpack(any)?;
    refuse_set!(config; allow_coalesced_connections)?;
    if secure {
        return Err(Refusal::new("typed_config", "TLS towards names that callers bring is not supported"));
    }
    match &config.cluster_implementation_specifier {
        Some(Of::DnsCacheConfig(given)) => cache(given).under("dns_cache_config").map(Discovery::Names),
        Some(Of::SubClustersConfig(_)) => Err(Refusal::unsupported("sub_clusters_config")),
        None => Err(Refusal::new("dns_cache_config", "is missing")),
    }
}

/// The HTTP filter: the host of a request is the name.
pub(crate) fn http(config: &FilterConfig) -> Result<NameLimits> {
    refuse_set!(config; save_upstream_address, allow_dynamic_host_from_filter_state)?;
    match &config.implementation_specifier {
        Some(ImplementationSpecifier::DnsCacheConfig(given)) => cache(given).under("dns_cache_config"),
        Some(ImplementationSpecifier::SubClusterConfig(_)) => Err(Refusal::unsupported("sub_cluster_config")),
        None => Err(Refusal::new("dns_cache_config", "is missing")),
    }
}

/// The network filter: the server name of TLS is the name, the port is configured.
pub(crate) fn sni(config: &SniConfig) -> Result<(u16, NameLimits)> {
    refuse_set!(config; save_upstream_address)?;
    let given = config.dns_cache_config.as_ref().ok_or_else(|| Refusal::new("dns_cache_config", "is missing"))?;
    let Some(PortSpecifier::PortValue(port)) = config.port_specifier else {
        return Err(Refusal::new("port_value", "is missing"));
    };
    let port = u16::try_from(port).ok().filter(|port| *port != 0);
    Ok((port.ok_or_else(|| Refusal::new("port_value", "is not a port"))?, cache(given).under("dns_cache_config")?))
}

/// All caches are apart here: each cluster has its own.
fn cache(proto: &DnsCacheConfig) -> Result<NameLimits> {
    use proto::cluster::DnsLookupFamily as F;
    refuse_old(proto)?;
    refuse_set!(proto;
        dns_cache_circuit_breaker, preresolve_hostnames, dns_query_timeout, key_value_config,
        disable_dns_refresh_on_failure, resolved_address_filter,
    )?;
    let ipv4_only = match proto.dns_lookup_family() {
        F::V6Only | F::All => return Err(Refusal::unsupported("dns_lookup_family")),
        family => family == F::V4Only,
    };
    resolver(proto.typed_dns_resolver_config.as_ref().and_then(|c: &TypedExtensionConfig| c.typed_config.as_ref()))?;
    let default = NameLimits::default();
    Ok(NameLimits {
        most: proto.max_hosts.map_or(default.most, |v| v.value),
        unused: limit(proto.host_ttl.as_ref()).unwrap_or(default.unused),
        ipv4_only,
    })
}

#[allow(deprecated)] // The old places of `typed_dns_resolver_config`.
fn refuse_old(proto: &DnsCacheConfig) -> Result<()> {
    refuse_set!(proto; use_tcp_for_dns_lookups, dns_resolution_config)
}
