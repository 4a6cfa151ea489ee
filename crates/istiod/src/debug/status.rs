//! Who is connected, and what each has.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use xds::{ConnectionStatus, TypeStatus, types};

use super::proxy_name;
use crate::server::State;

/// Types under the short names of `/debug/syncz`.
const SHORT: [(&str, &str); 4] = [
    ("cluster", types::CLUSTER),
    ("listener", types::LISTENER),
    ("route", types::ROUTE),
    ("endpoint", types::ENDPOINT),
];

pub(super) fn time(at: std::time::SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

/// All connections, by proxy.
pub(super) fn sorted(state: &State) -> Vec<ConnectionStatus> {
    let mut all = state.ads.connections();
    all.sort_by(|a, b| proxy_name(a).cmp(proxy_name(b)));
    all
}

/// What every proxy was sent and has acknowledged.
pub(super) fn syncz(state: &State) -> Value {
    let row = |c: &ConnectionStatus| {
        let of = |kind: &str| c.types.get(kind).cloned().unwrap_or_default();
        let mut row = json!({
            "cluster_id": c.cluster, "proxy": proxy_name(c), "proxy_type": c.node.split('~').next(), "istio_version": c.version,
            "istiod": super::xds_pages::own_name(),
        });
        for (name, kind) in SHORT {
            let TypeStatus { sent, acked, .. } = of(kind);
            row[format!("{name}_sent")] = json!(sent);
            row[format!("{name}_acked")] = json!(acked);
            row[format!("{name}_status")] = json!(of(kind).word());
            row[format!("{name}_error")] = json!(of(kind).error.unwrap_or_default());
        }
        let resources: Map<String, Value> = c
            .types
            .iter()
            .map(|(kind, s)| {
                let at = s.sent_at.map(time);
                (types::url(kind), json!({"sent": s.sent, "acked": s.acked, "sentTime": at, "status": s.word()}))
            })
            .collect();
        row["resources"] = resources.into();
        row
    };
    sorted(state).iter().map(row).collect()
}

/// Who is connected, and since when.
pub(super) fn connections(state: &State) -> Value {
    let one = |c: &ConnectionStatus| {
        let types: Vec<&String> = c.types.keys().collect();
        let metadata = c.about.metadata.as_ref().and_then(|m| envoy_api::message_to_json(m).ok());
        json!({
            "connectionId": c.node, "proxy": proxy_name(c), "connectedAt": time(c.connected),
            "address": c.node.split('~').nth(1), "metadata": metadata, "watches": types,
        })
    };
    let all: Vec<Value> = sorted(state).iter().map(one).collect();
    json!({"totalClients": all.len(), "clients": all})
}
