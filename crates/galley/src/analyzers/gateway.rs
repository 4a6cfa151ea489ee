//! Gateways: ports, certificates, conflicts.

use serde_json::Value;

use crate::input::{Object, text, texts};
use crate::message::{Message, codes};
use crate::world::{Labels, World, labels, overlap, within};

fn selector(gateway: &Object) -> Labels<'_> {
    labels(gateway.value(), "/spec/selector")
}

fn port(server: &Value) -> Option<u64> {
    server.pointer("/port/number").and_then(Value::as_u64)
}

/// Whether two gateways are configuration of the same pods.
fn same_pods(world: &World<'_>, a: &Object, b: &Object) -> bool {
    let (a, b) = (selector(a), selector(b));
    a == b || world.workloads.iter().any(|w| within(&a, &w.labels) && within(&b, &w.labels))
}

fn clashes(a: &Value, b: &Value) -> bool {
    let host = |h: &'_ str| h.split_once('/').map_or(h, |(_, h)| h).to_owned();
    port(a).is_some()
        && port(a) == port(b)
        && text(a, "/bind") == text(b, "/bind")
        && texts(a, "/hosts").any(|x| texts(b, "/hosts").any(|y| overlap(&host(x), &host(y))))
}

/// Gateways that claim one host on one port of the same pods.
pub(super) fn conflicts(world: &World<'_>) -> Vec<Message> {
    let all = world.networking("Gateway");
    let mut found = Vec::new();
    for gateway in all {
        let others: Vec<&str> = all
            .iter()
            .filter(|o| !std::ptr::eq(**o, *gateway) && same_pods(world, gateway, o))
            .filter(|o| {
                let servers = gateway.list("/spec/servers").iter();
                servers.into_iter().any(|a| o.list("/spec/servers").iter().any(|b| clashes(a, b)))
            })
            .map(|o| o.name.as_str())
            .collect();
        if !others.is_empty() {
            let text = format!("{} serves the same host and port at the same pods; only one counts", others.join(", "));
            found.push(gateway.message(codes::CONFLICTING_GATEWAYS, "/spec/servers", text));
        }
    }
    found
}

/// One certificate in several gateways of the same pods: browsers reuse connections and get 404.
pub(super) fn certificates(world: &World<'_>) -> Vec<Message> {
    let all = world.networking("Gateway");
    let credentials = |g: &Object| -> Vec<String> {
        let servers = g.list("/spec/servers").iter();
        servers.map(|s| text(s, "/tls/credentialName").to_owned()).filter(|c| !c.is_empty()).collect()
    };
    let mut found = Vec::new();
    for gateway in all {
        let own = credentials(gateway);
        let others: Vec<&str> = all
            .iter()
            .filter(|o| !std::ptr::eq(**o, *gateway) && within(&selector(gateway), &selector(o)))
            .filter(|o| credentials(o).iter().any(|c| own.contains(c)))
            .map(|o| o.name.as_str())
            .collect();
        if !others.is_empty() {
            let text = format!(
                "{} uses the same certificate; a browser that reuses its connection gets 404. Put the hosts into one Gateway",
                others.join(", ")
            );
            found.push(gateway.message(codes::GATEWAY_DUPLICATE_CERTIFICATE, "/spec/servers", text));
        }
    }
    found
}

/// Ports that no Service leads to.
pub(super) fn ports(world: &World<'_>) -> Vec<Message> {
    let mut found = Vec::new();
    for gateway in world.networking("Gateway") {
        let wanted = selector(gateway);
        let pods: Vec<_> = world.workloads.iter().filter(|w| within(&wanted, &w.labels)).collect();
        let mut open: Vec<u64> = Vec::new();
        // The gateway that Istio installs need not be among what is analysed.
        let stock = wanted.get("istio").is_some_and(|v| *v == "ingressgateway" || *v == "egressgateway");
        if stock && pods.is_empty() {
            open.extend([80, 443]);
        }
        for service in world.core("Service") {
            let behind = labels(service.value(), "/spec/selector");
            let leads = pods.iter().any(|p| p.object.namespace == service.namespace && within(&behind, &p.labels));
            if !behind.is_empty() && leads {
                let fields = ["port", "targetPort"];
                let all = service.list("/spec/ports").iter();
                open.extend(all.flat_map(|p| fields.iter().filter_map(|f| p.get(f).and_then(Value::as_u64))));
            }
        }
        if pods.is_empty() && !stock {
            continue;
        }
        for (i, server) in gateway.list("/spec/servers").iter().enumerate() {
            if let Some(number) = port(server).filter(|n| !open.contains(n)) {
                let text = format!("no Service leads to port {number} of the gateway's pods; clients cannot reach it");
                let pointer = format!("/spec/servers/{i}/port/number");
                found.push(gateway.message(codes::GATEWAY_PORT_NOT_DEFINED_ON_SERVICE, &pointer, text));
            }
        }
    }
    found
}
