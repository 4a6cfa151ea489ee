//! Services and the Deployments behind them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::input::{Object, text};
use crate::message::{Message, codes};
use crate::world::{World, labels, within};

/// Namespaces of Kubernetes itself.
pub(super) const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// The user the sidecar runs as; what it sends is not redirected.
const SIDECAR_UID: u64 = 1337;

const PROTOCOLS: [&str; 11] =
    ["http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "mysql", "redis"];

/// The protocol a port declares; `None` when it does not.
fn declared(port: &Value) -> Option<&'static str> {
    let known = |name: &str| PROTOCOLS.into_iter().find(|p| *p == name);
    let application = text(port, "/appProtocol").to_ascii_lowercase();
    match application.as_str() {
        "kubernetes.io/h2c" => return Some("http2"),
        "kubernetes.io/ws" => return Some("http"),
        "kubernetes.io/wss" => return Some("https"),
        // An explicit protocol that is not ours, such as hbone, is a declaration all the same.
        other if !other.is_empty() => return Some(known(other).unwrap_or("tcp")),
        _ => {}
    }
    if text(port, "/protocol") == "UDP" {
        return Some("udp");
    }
    let name = text(port, "/name").to_ascii_lowercase();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some("grpc-web");
    }
    known(name.split('-').next().unwrap_or_default())
}

/// Ports whose protocol has to be guessed.
pub(super) fn port_names(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for service in world.core("Service") {
        let of_mesh = service.label("istio").is_some()
            || service.label("release") == Some("istio")
            || service.label("gateway.istio.io/managed").is_some();
        if SYSTEM.contains(&service.namespace.as_str()) || of_mesh {
            continue;
        }
        let external = service.text("/spec/type") == "ExternalName";
        for (i, port) in service.list("/spec/ports").iter().enumerate() {
            let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
            let name = text(port, "/name");
            let pointer = format!("/spec/ports/{i}");
            match declared(port) {
                None | Some("tcp") if external => {
                    let text = format!(
                        "port {number} (\"{name}\") of an ExternalName service is taken as TCP and catches all traffic \
                         to this port; name it after its protocol, such as https-{number}"
                    );
                    found.push(service.message(codes::EXTERNAL_NAME_SERVICE_TYPE_INVALID_PORT_NAME, &pointer, text));
                }
                None if ![25, 53, 3306, 27017].contains(&number) => {
                    let text = format!(
                        "the name \"{name}\" of port {number} does not say its protocol, which is then guessed from the \
                         first bytes; name it PROTOCOL or PROTOCOL-SUFFIX, such as http-{number}, or set appProtocol"
                    );
                    found.push(service.message(codes::PORT_NAME_IS_NOT_UNDER_NAMING_CONVENTION, &pointer, text));
                }
                _ => {}
            }
        }
    }
    found
}

/// Deployments whose Services contradict each other.
pub(super) fn associations(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for workload in world.workloads.iter().filter(|w| w.in_mesh && w.object.kind == "Deployment") {
        let deployment = workload.object;
        let behind: Vec<&&Object> = world
            .core("Service")
            .iter()
            .filter(|s| s.namespace == deployment.namespace)
            .filter(|s| {
                let selector = labels(s.value(), "/spec/selector");
                !selector.is_empty() && within(&selector, &workload.labels)
            })
            .collect();
        let names = || behind.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut protocols: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        let mut ports_of: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for port in behind.iter().flat_map(|s| s.list("/spec/ports")) {
            let number = port.get("port").and_then(Value::as_u64).unwrap_or_default();
            let transport = text(port, "/protocol");
            let kind = if ["", "TCP"].contains(&transport) { declared(port).unwrap_or("tcp") } else { transport };
            protocols.entry(number).or_default().insert(kind);
            let target = port.get("targetPort").map_or_else(|| number.to_string(), plain);
            ports_of.entry(target).or_default().insert(number);
        }
        for (port, kinds) in protocols.iter().filter(|(_, kinds)| kinds.len() > 1) {
            let kinds = kinds.iter().copied().collect::<Vec<_>>().join(", ");
            let text =
                format!("the Services {} call port {port} by different protocols ({kinds}); agree on one", names());
            found.push(deployment.message(codes::DEPLOYMENT_ASSOCIATED_TO_MULTIPLE_SERVICES, "", text));
        }
        for (target, ports) in ports_of.iter().filter(|(_, ports)| ports.len() > 1) {
            let ports = ports.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            let text = format!("the Services {} lead different ports ({ports}) to the target port {target}", names());
            found.push(deployment.message(codes::DEPLOYMENT_CONFLICTING_PORTS, "", text));
        }
    }
    found
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Applications whose traffic would pass the sidecar by.
pub(super) fn application_uid(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for workload in &world.workloads {
        let object = workload.object;
        let spec = if object.kind == "Pod" { "/spec" } else { "/spec/template/spec" };
        let runs = |pointer: &str| object.value().pointer(pointer).and_then(Value::as_u64) == Some(SIDECAR_UID);
        let containers = object.list(&format!("{spec}/containers")).iter().enumerate();
        let own = containers.filter(|(_, c)| c["name"] != "istio-proxy").map(|(i, _)| format!("{spec}/containers/{i}"));
        let places = std::iter::once(spec.to_owned()).chain(own);
        let pointer = places.map(|p| format!("{p}/securityContext/runAsUser")).find(|p| runs(p));
        if let Some(pointer) = pointer {
            let text = "the application runs as user 1337, which is the sidecar's: its traffic passes the sidecar by. \
                        Use another user";
            found.push(object.message(codes::INVALID_APPLICATION_UID, &pointer, text));
        }
    }
    found
}
