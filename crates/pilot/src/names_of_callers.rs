//! DYNAMIC_DNS: callers bring the names of hosts. Envoy's dynamic forward proxy, as a cluster and as the filters that
//! find a name's addresses before the cluster is asked.

use std::collections::HashSet;

use mesh::{Resolution, Snapshot};
use serde_json::{Value, json};

use crate::{Proxy, names, scope};

/// One cache, shared by name: all who speak of it must say the same. Where unknown hosts are looked up it has Istio's name
/// and size for that.
fn cache(snapshot: &Snapshot) -> Value {
    let mut out = json!({
        "dnsLookupFamily": "V4_ONLY",
        "name": "dynamic_dns",
        "typedDnsResolverConfig": {
            "name": "envoy.network.dns_resolver.cares",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "udpMaxQueries": 100
            }
        }
    });
    if scope::names_unknown_somewhere(snapshot) {
        out["name"] = json!("allow_any_dfp_dns_cache");
        out["maxHosts"] = json!(1024);
    }
    out
}

/// The hosts of which callers name one.
pub(crate) fn hosts(snapshot: &Snapshot) -> HashSet<&str> {
    let dynamic = snapshot.services().filter(|service| service.resolution == Resolution::DynamicDns);
    dynamic.map(|service| service.host.as_str()).collect()
}

/// The type of a cluster.
pub(crate) fn cluster_type(snapshot: &Snapshot) -> Value {
    json!({
        "name": "envoy.clusters.dynamic_forward_proxy",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
            "dnsCacheConfig": cache(snapshot)
        }
    })
}

/// The type of the cluster of unknown hosts.
pub(crate) fn unknown_cluster_type(snapshot: &Snapshot) -> Value {
    let mut out = cluster_type(snapshot);
    // There is no TLS; Envoy wants to hear that this is meant.
    out["typedConfig"]["allowInsecureClusterOptions"] = json!(true);
    out
}

/// The filter by which requests name hosts, where any service, or all that is unknown, is called so.
pub(crate) fn http_filter(snapshot: &Snapshot, proxy: &Proxy) -> Option<Value> {
    (scope::names_unknown(snapshot, proxy) || snapshot.has_named_by_callers()).then(|| {
        json!({
            "name": "envoy.filters.http.dynamic_forward_proxy",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
                "dnsCacheConfig": cache(snapshot)
            }
        })
    })
}

/// The filter by which the server name of TLS names the host, where a cluster is called so.
pub(crate) fn sni_filter(snapshot: &Snapshot, proxy: &Proxy, cluster: &str) -> Option<Value> {
    let (port, _, host) = names::parse_outbound(cluster)?;
    let service = snapshot.service_for(host, &proxy.namespace)?;
    (service.resolution == Resolution::DynamicDns).then(|| {
        json!({
            "name": "envoy.filters.network.sni_dynamic_forward_proxy",
            "typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
                "dnsCacheConfig": cache(snapshot),
                "portValue": port
            }
        })
    })
}
