//! The name table: what the agent's DNS proxy answers.

use mesh::{Service, Snapshot};
use serde_json::{Map, Value, json};

use crate::{Outlook, Proxy, Resource, scope};

/// The name table of a proxy, one resource.
pub fn name_table(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Resource> {
    called_names(snapshot, &Outlook::of_names(snapshot, proxy))
}

/// The same, for all proxies of an outlook.
pub fn called_names(snapshot: &Snapshot, outlook: &Outlook) -> Vec<Resource> {
    let proxy: &Proxy = outlook;
    let mut table = Map::new();
    for service in scope::services(snapshot, proxy) {
        let mut addresses: Vec<String> = scope::vips(service, proxy).iter().map(ToString::to_string).collect();
        if addresses.is_empty()
            && service.headless
            && let Some(port) = service.ports.first()
        {
            for endpoint in snapshot.endpoints_of(service, port.port) {
                if let Some(hostname) = &endpoint.hostname {
                    // As a StatefulSet's pods are known.
                    let host = format!("{hostname}.{}", service.host);
                    let short = format!("{hostname}.{}", service.name);
                    let entry = entry(service, &short, std::slice::from_ref(&endpoint.address), proxy);
                    table.insert(host, entry);
                }
                addresses.push(endpoint.address);
            }
        }
        addresses.retain(|address| address.parse::<std::net::IpAddr>().is_ok());
        addresses.dedup();
        if !addresses.is_empty() {
            table.insert(service.host.clone(), entry(service, &service.name, &addresses, proxy));
        }
    }
    let json = json!({"@type": "type.googleapis.com/istio.networking.nds.v1.NameTable", "table": Value::Object(table)});
    Resource::from_json("", json).into_iter().collect()
}

fn entry(service: &Service, short: &str, addresses: &[String], proxy: &Proxy) -> Value {
    let kubernetes = service.host.ends_with(&format!(".svc.{}", proxy.domain_suffix));
    let mut entry = json!({"ips": addresses, "registry": if kubernetes { "Kubernetes" } else { "External" }});
    if kubernetes {
        entry["namespace"] = json!(service.namespace);
        entry["shortname"] = json!(short);
    }
    entry
}
