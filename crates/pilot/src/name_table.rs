//! The name table: what the agent's DNS proxy answers.

use mesh::Snapshot;
use serde_json::{Map, Value, json};

use crate::{Proxy, Resource, scope};

/// The name table of a proxy, one resource.
pub fn name_table(snapshot: &Snapshot, proxy: &Proxy) -> Vec<Resource> {
    let mut table = Map::new();
    for service in scope::services(snapshot, proxy) {
        let mut addresses: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
        if addresses.is_empty()
            && service.headless
            && let Some(port) = service.ports.first()
        {
            addresses = snapshot.endpoints(&service.host, port.port).iter().map(|e| e.address.to_string()).collect();
        }
        addresses.retain(|address| address.parse::<std::net::IpAddr>().is_ok());
        if addresses.is_empty() || service.host.starts_with('*') {
            continue;
        }
        let kubernetes = service.host.ends_with(&format!(".svc.{}", proxy.domain_suffix));
        let mut entry = json!({"ips": addresses, "registry": if kubernetes { "Kubernetes" } else { "External" }});
        if kubernetes {
            entry["namespace"] = json!(service.namespace);
            entry["shortname"] = json!(service.name);
        }
        table.insert(service.host.to_string(), entry);
    }
    let json = json!({"@type": "type.googleapis.com/istio.networking.nds.v1.NameTable", "table": Value::Object(table)});
    Resource::from_json("", json).into_iter().collect()
}
