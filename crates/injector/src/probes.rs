//! Probes of the application, asked through the sidecar: a kubelet cannot speak mTLS.

use serde_json::{Map, Value, json};

use crate::containers::PROXY;

/// Probes with the last part of their path.
const PROBES: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];
/// Hooks likewise.
const HOOKS: [(&str, &str); 2] = [("preStop", "prestopz"), ("postStart", "poststartz")];

/// Rewrites all probes of a pod's spec to a port; what they were comes back by path, for the sidecar.
pub(crate) fn rewrite(pod: &mut Value, port: u16) -> Map<String, Value> {
    let mut asked = Map::new();
    for field in ["containers", "initContainers"] {
        let containers = pod.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let stays = field == "containers" || container["restartPolicy"] == "Always";
            if container["name"] != PROXY && stays {
                of_container(container, port, &mut asked);
            }
        }
    }
    asked.sort_keys();
    asked
}

fn of_container(container: &mut Value, port: u16, asked: &mut Map<String, Value>) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let ports = container["ports"].clone();
    for (field, end) in PROBES {
        let path = format!("/app-health/{name}/{end}");
        let Some(probe) = container.get_mut(field) else { continue };
        let seconds = probe.get("timeoutSeconds").cloned();
        if let Some(mut was) = turn(probe, &ports, &path, port) {
            if let Some(seconds) = seconds {
                was["timeoutSeconds"] = seconds;
            }
            asked.insert(path, was);
        }
    }
    for (field, end) in HOOKS {
        let path = format!("/app-lifecycle/{name}/{end}");
        let hook = container.get_mut("lifecycle").and_then(|l| l.get_mut(field));
        if let Some(was) = hook.and_then(|hook| turn(hook, &ports, &path, port)) {
            asked.insert(path, was);
        }
    }
}

/// Turns a probe or hook; `None` when it needs no turning: a command, or the sidecar's port already.
fn turn(probe: &mut Value, ports: &Value, path: &str, port: u16) -> Option<Value> {
    let kind = ["httpGet", "tcpSocket", "grpc"].into_iter().find(|kind| probe[*kind].is_object())?;
    let mut was = probe[kind].clone();
    let number = resolve(&was["port"], ports)?;
    if number == u64::from(port) {
        return None;
    }
    was["port"] = number.into();
    let mut asked = json!({"path": path, "port": port});
    if was.get("scheme").is_some() {
        asked["scheme"] = "HTTP".into();
    }
    let map = probe.as_object_mut()?;
    map.shift_remove(kind);
    map.insert("httpGet".to_owned(), asked);
    Some(json!({ kind: was }))
}

/// The number of a port that may be a name; a name that no port has stays the kubelet's business.
fn resolve(port: &Value, ports: &Value) -> Option<u64> {
    match port {
        Value::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => ports.as_array()?.iter().find(|p| p["name"] == *name)?["containerPort"].as_u64(),
        },
        other => other.as_u64(),
    }
}
