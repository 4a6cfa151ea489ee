//! Which ready pods stand behind which service, and what the kernel and cluster DNS are told about it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use serde_json::Value;

use crate::dns::{Answer, Table};
use crate::model::{Container, Service, resolve_port};

/// What of a pod matters here.
#[derive(Clone, Debug)]
pub struct Backend<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Gets traffic.
    pub ready: bool,
    /// For named target ports.
    pub containers: &'a [Container],
}

/// A service port, whether it is UDP, and where it leads.
pub type PortBackends = (u16, bool, Vec<(Ipv4Addr, u16)>);

/// A service with its address and its ready pods.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// The service.
    pub service: &'a Service,
    /// Its cluster IP; `None` for a headless or external one.
    pub address: Option<Ipv4Addr>,
    /// By service port: address and port of each ready pod.
    pub ports: Vec<PortBackends>,
    /// Addresses of the ready pods.
    pub pods: Vec<Ipv4Addr>,
}

impl<'a> Served<'a> {
    /// Finds the pods of a service.
    pub fn find(service: &'a Service, address: Option<Ipv4Addr>, pods: &[Backend<'_>]) -> Self {
        let mine: Vec<_> =
            pods.iter().filter(|p| p.ready && p.namespace == service.namespace && service.selects(p.labels)).collect();
        let ports = service.ports.iter().map(|port| {
            let target = |pod: &Backend<'_>| match &port.target_port {
                Value::Null => Some(port.port),
                named => resolve_port(named, pod.containers),
            };
            let backends = mine.iter().filter_map(|pod| Some((pod.address, target(pod)?))).collect();
            (port.port, port.protocol == "UDP", backends)
        });
        Self { service, address, ports: ports.collect(), pods: mine.iter().map(|p| p.address).collect() }
    }
}

/// kube-proxy's work as an nftables script for one pod: connections to a cluster IP go to a ready pod at random, or are
/// refused when there is none.
///
/// The chain comes after iptables' nat (priority -100), so that in a pod with a sidecar only what the sidecar itself sends
/// to a cluster IP, and what is excluded from capture, meets it.
pub fn nft_script(services: &[Served<'_>]) -> String {
    let mut nat = String::new();
    let mut refuse = String::new();
    for served in services {
        let Some(ip) = served.address else { continue };
        for (port, udp, backends) in &served.ports {
            let protocol = if *udp { "udp" } else { "tcp" };
            let seen = format!("ip daddr {ip} {protocol} dport {port}");
            let written = match backends.as_slice() {
                [] => writeln!(refuse, "    {seen} reject"),
                [(to, to_port)] => writeln!(nat, "    {seen} dnat to {to}:{to_port}"),
                many => {
                    let map: Vec<_> = many.iter().enumerate().map(|(i, (to, p))| format!("{i} : {to} . {p}")).collect();
                    writeln!(nat, "    {seen} dnat to numgen random mod {} map {{ {} }}", many.len(), map.join(", "))
                }
            };
            debug_assert!(written.is_ok(), "writing to a String cannot fail");
        }
    }
    // `add` first, so that the deletion has something to delete in a fresh namespace; the whole script is one transaction.
    format!(
        "add table ip meltemi\ndelete table ip meltemi\ntable ip meltemi {{\n  chain services {{\n    \
         type nat hook output priority -90; policy accept;\n{nat}  }}\n  chain none {{\n    \
         type filter hook output priority 10; policy accept;\n{refuse}  }}\n}}\n"
    )
}

/// What cluster DNS answers.
pub fn dns_table(services: &[Served<'_>], istiod: Ipv4Addr) -> Table {
    let mut table = Table::default();
    table.insert("istiod.istio-system.svc.cluster.local", Answer::Addresses(vec![istiod]));
    // The agent is told `istiod.istio-system.svc`, and asks for it with and without the search list.
    table.insert("istiod.istio-system.svc", Answer::Addresses(vec![istiod]));
    for served in services {
        let Service { name, namespace, external_name, .. } = served.service;
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let answer = match (external_name, served.address) {
            (Some(other), _) => Answer::Alias(other.clone()),
            (None, Some(address)) => Answer::Addresses(vec![address]),
            (None, None) => Answer::Addresses(served.pods.clone()),
        };
        table.insert(&host, answer);
    }
    table
}

#[cfg(test)]
mod tests;
