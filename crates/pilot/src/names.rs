//! The names of clusters, server names and virtual-host domains, as Istio's tools and Envoy's statistics know them.

use std::net::IpAddr;

/// Where traffic goes that must not go anywhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Outbound traffic to addresses the mesh does not know.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Outbound HTTP to hosts the mesh does not know, where their names are looked up (ALLOW_ANY_DYNAMIC_DNS).
pub const NAMED: &str = "AllowAnyDynamicDNSCluster";
/// Inbound traffic to ports the mesh does not know.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The replicas of the workload beside a proxy, which asks for them under this name when it is told to
/// (`ISTIO_META_ENABLE_SELF_DISCOVERY`).
pub const LOCAL_CLUSTER: &str = "local_cluster";
/// Outbound capture port.
pub const OUTBOUND_PORT: u16 = 15001;
/// Inbound capture port.
pub const INBOUND_PORT: u16 = 15006;

/// `outbound|PORT|SUBSET|HOST`.
pub fn outbound_cluster(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

/// `inbound|PORT||`, by the workload's own port.
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// The SNI of mesh mTLS: the cluster name in a form that is a legal server name.
pub fn sni(port: u16, subset: &str, host: &str) -> String {
    format!("outbound_.{port}_.{subset}_.{host}")
}

/// Splits `outbound|PORT|SUBSET|HOST`.
pub fn parse_outbound(name: &str) -> Option<(u16, &str, &str)> {
    let mut parts = name.split('|');
    if parts.next() != Some("outbound") {
        return None;
    }
    let port = parts.next()?.parse().ok()?;
    Some((port, parts.next()?, parts.next()?)).filter(|_| parts.next().is_none())
}

/// The domains of a service's virtual host, as seen from `client_namespace`: every form its resolver accepts, and the VIPs.
pub fn domains(
    host: &str,
    client_namespace: &str,
    domain_suffix: &str,
    headless: bool,
    vips: &[IpAddr],
) -> Vec<String> {
    let mut names = vec![host.to_owned()];
    let suffix = format!(".svc.{domain_suffix}");
    if let Some((name, namespace)) = host.strip_suffix(&suffix).and_then(|short| short.split_once('.')) {
        names.push(format!("{host}."));
        if namespace == client_namespace {
            names.push(name.to_owned());
        }
        names.push(format!("{name}.{namespace}.svc"));
        names.push(format!("{name}.{namespace}"));
        if headless {
            let wild: Vec<String> = names.iter().map(|name| format!("*.{name}")).collect();
            names.extend(wild);
        }
    }
    names.extend(vips.iter().map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }));
    names
}
