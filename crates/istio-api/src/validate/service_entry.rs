//! ServiceEntry, WorkloadEntry and WorkloadGroup.

use std::collections::BTreeSet;

use super::FieldError;
use crate::service_entry::{ServiceEntry, WorkloadEntry, WorkloadGroup};
use crate::unix;

type Found = Vec<FieldError>;

fn no(found: &mut Found, pointer: impl AsRef<str>, message: impl Into<String>) {
    found.push(FieldError::new(pointer.as_ref(), message));
}

fn is_port(port: u32) -> bool {
    (1..=65535).contains(&port)
}

/// Whether an address is a range of several addresses.
fn is_range(address: &str) -> bool {
    let whole = if address.contains(':') { "128" } else { "32" };
    address.split_once('/').is_some_and(|(_, prefix)| prefix != whole)
}

pub(super) fn service_entry(spec: &ServiceEntry, found: &mut Found) {
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    if spec.hosts.is_empty() {
        no(found, "/spec/hosts", "a ServiceEntry needs at least one host");
    }
    for (i, host) in spec.hosts.iter().enumerate() {
        let at = format!("/spec/hosts/{i}");
        match host.as_str() {
            "" => no(found, at, "a host cannot be empty"),
            "*" => no(found, at, "a host cannot be \"*\" alone: it would stand for everything"),
            h if h.starts_with('*') && resolution.starts_with("DNS") => {
                no(
                    found,
                    at,
                    "a wildcard cannot be asked of DNS; use resolution DYNAMIC_DNS or NONE, or name the hosts",
                );
            }
            _ => {}
        }
    }
    match resolution {
        "NONE" | "STATIC" | "DNS" | "DNS_ROUND_ROBIN" => {}
        "DYNAMIC_DNS" => dynamic(spec, found),
        other => no(
            found,
            "/spec/resolution",
            format!("unknown resolution \"{other}\"; use NONE, STATIC, DNS, DNS_ROUND_ROBIN or DYNAMIC_DNS"),
        ),
    }
    let location = spec.location.as_deref().unwrap_or("MESH_EXTERNAL");
    if !["MESH_EXTERNAL", "MESH_INTERNAL"].contains(&location) {
        no(found, "/spec/location", format!("unknown location \"{location}\"; use MESH_EXTERNAL or MESH_INTERNAL"));
    }
    if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
        no(found, "/spec/endpoints", "a ServiceEntry has either endpoints or a workloadSelector");
    }
    for (key, value) in spec.workload_selector.iter().flat_map(|s| &s.labels) {
        if key.contains('*') || value.contains('*') {
            no(found, "/spec/workloadSelector/labels", "a selector knows no wildcards");
        }
    }
    if resolution == "NONE" && !spec.endpoints.is_empty() {
        no(found, "/spec/endpoints", "resolution NONE takes no endpoints: connections go where the client dialled");
    }
    if resolution == "DNS_ROUND_ROBIN" && spec.endpoints.len() > 1 {
        no(found, "/spec/endpoints", "resolution DNS_ROUND_ROBIN takes one endpoint");
    }
    addresses(spec, resolution, found);
    ports(spec, found);
    for (i, endpoint) in spec.endpoints.iter().enumerate() {
        entry(endpoint, &format!("/spec/endpoints/{i}"), found);
        let at = format!("/spec/endpoints/{i}/address");
        let pipe = unix::socket_path(&endpoint.address).is_some();
        if pipe && resolution != "STATIC" {
            no(found, at, "a Unix socket needs resolution STATIC");
        } else if pipe && spec.ports.len() != 1 {
            no(found, at, "behind a Unix socket there is one port; give the entry one port");
        } else if !pipe && resolution == "STATIC" && endpoint.address.parse::<std::net::IpAddr>().is_err() {
            no(found, at, format!("resolution STATIC needs an IP address, not \"{}\"", endpoint.address));
        }
    }
}

/// DYNAMIC_DNS: each caller names a host, by the Host of HTTP or the server name of TLS.
fn dynamic(spec: &ServiceEntry, found: &mut Found) {
    for (i, host) in spec.hosts.iter().enumerate() {
        if !host.starts_with("*.") {
            no(found, format!("/spec/hosts/{i}"), "resolution DYNAMIC_DNS is for wildcard hosts; use DNS for this one");
        }
    }
    if !spec.endpoints.is_empty() {
        no(found, "/spec/endpoints", "resolution DYNAMIC_DNS takes no endpoints: callers name the hosts");
    }
    if spec.workload_selector.is_some() {
        no(found, "/spec/workloadSelector", "resolution DYNAMIC_DNS selects no workloads: callers name the hosts");
    }
    for (i, port) in spec.ports.iter().enumerate() {
        let protocol = port.protocol.to_ascii_uppercase();
        if !["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS"].contains(&protocol.as_str()) {
            let message = "resolution DYNAMIC_DNS needs a protocol that names hosts: HTTP, HTTP2, GRPC, HTTPS or TLS";
            no(found, format!("/spec/ports/{i}/protocol"), message);
        }
        if port.target_port != 0 && port.target_port != port.number {
            no(found, format!("/spec/ports/{i}/targetPort"), "resolution DYNAMIC_DNS has no other port");
        }
    }
}

fn addresses(spec: &ServiceEntry, resolution: &str, found: &mut Found) {
    for (i, address) in spec.addresses.iter().enumerate() {
        let at = format!("/spec/addresses/{i}");
        let (ip, prefix) = address.split_once('/').unwrap_or((address, "0"));
        let most = if ip.contains(':') { 128 } else { 32 };
        if ip.parse::<std::net::IpAddr>().is_err() || prefix.parse::<u8>().map_or(true, |p| p > most) {
            no(found, at, format!("\"{address}\" is neither an IP address nor a CIDR"));
        } else if is_range(address) && !["NONE", "STATIC"].contains(&resolution) {
            no(found, at, "ranges of addresses are for the resolutions NONE and STATIC");
        }
    }
}

fn ports(spec: &ServiceEntry, found: &mut Found) {
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in spec.ports.iter().enumerate() {
        let at = |field: &str| format!("/spec/ports/{i}/{field}");
        if !is_port(port.number) {
            no(found, at("number"), format!("{} is not a port; ports go from 1 to 65535", port.number));
        }
        if port.target_port != 0 && !is_port(port.target_port) {
            no(found, at("targetPort"), format!("{} is not a port; ports go from 1 to 65535", port.target_port));
        }
        if port.name.is_empty() {
            no(found, at("name"), "a port needs a name");
        }
        if !numbers.insert(port.number) {
            no(found, at("number"), format!("the port {} is there twice", port.number));
        }
        if !names.insert(port.name.as_str()) {
            no(found, at("name"), format!("the port name \"{}\" is there twice", port.name));
        }
    }
}

/// A WorkloadEntry, alone or as an endpoint.
pub(super) fn entry(spec: &WorkloadEntry, at: &str, found: &mut Found) {
    if spec.address.is_empty() {
        no(found, format!("{at}/address"), "an address is needed");
    } else if let Some(message) = unix::mistake(&spec.address) {
        no(found, format!("{at}/address"), message);
    } else if unix::socket_path(&spec.address).is_some() && !spec.ports.is_empty() {
        no(found, format!("{at}/ports"), "a Unix socket has no ports");
    }
    for (name, port) in &spec.ports {
        if !is_port(*port) {
            no(found, format!("{at}/ports/{name}"), format!("{port} is not a port; ports go from 1 to 65535"));
        }
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.to_ascii_lowercase().chars().all(known) {
            no(found, format!("{at}/ports"), format!("\"{name}\" is no port name"));
        }
    }
    if !spec.network.is_empty() {
        let message = "a mesh is one network here: every endpoint is called at its address; remove the field";
        no(found, format!("{at}/network"), message);
    }
}

/// A WorkloadGroup is a template for machines that register themselves.
pub(super) fn group(spec: &WorkloadGroup, found: &mut Found) {
    if let Some(template) = &spec.template {
        if !template.address.is_empty() {
            no(found, "/spec/template/address", "a template has no address: each machine brings its own");
        }
        let with = WorkloadEntry { address: "0.0.0.0".to_owned(), ports: Default::default(), ..template.clone() };
        entry(&with, "/spec/template", found);
    }
    if spec.probe.is_some() {
        no(found, "/spec/probe", "health checks of machines are not built; remove the field");
    }
}
