//! The pages as xDS: what `istioctl` asks on port 15012, as a stock istiod answers it.

use bytes::Bytes;
use envoy_api::envoy::config::core::v3::Node;
use envoy_api::envoy::service::status::v3::ClientConfig;
use envoy_api::{Any, any_from_json, message_from_json, pack};
use http::StatusCode;
use mtls::SpiffeId;
use serde_json::{Value, json};
use tonic::Status;
use xds::{ConnectionStatus, TypeStatus, types};

use super::{dump, proxy_name, status};
use crate::server::State;

/// Whose callers may see everything; others see their own namespace's proxies.
const SYSTEM: &str = "istio-system";

/// The extension configurations' type, which istiod always reports on.
const EXTENSION: &str = "envoy.config.core.v3.TypedExtensionConfig";
/// Types that are reported for every proxy.
const REPORTED: [&str; 5] = [types::CLUSTER, types::LISTENER, types::ROUTE, types::ENDPOINT, EXTENSION];

/// The pod istiod runs in.
pub(crate) fn own_name() -> String {
    std::env::var("POD_NAME").ok().filter(|n| !n.is_empty()).unwrap_or_else(|| "istiod".to_owned())
}

/// Who answers, in the JSON that stock tools read.
pub(crate) fn identifier() -> String {
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"), "revision": "", "golang_version": "", "status": "", "tag": "",
    });
    json!({"Component": "istiod", "ID": own_name(), "Info": info}).to_string()
}

/// Answers a tool.
///
/// # Errors
/// When the caller may not know, or there is no such page or proxy.
#[allow(clippy::result_large_err, reason = "tonic's own type")]
pub(crate) fn resources(
    state: &State,
    caller: &SpiffeId,
    type_url: &str,
    names: &[String],
) -> Result<Vec<(String, Any)>, Status> {
    let one = || match names {
        [name] => Ok(name.as_str()),
        _ => Err(Status::invalid_argument(format!("{type_url} takes one name"))),
    };
    let (page, query) = match type_url {
        types::DEBUG => one()?.split_once('?').unwrap_or((one()?, "")),
        types::CONFIG_DUMP => ("config_dump", ""),
        _ => ("", ""),
    };
    let about = match type_url {
        types::CONFIG_DUMP => one()?,
        _ => query.split('&').find_map(|p| p.strip_prefix("proxyID=")).unwrap_or_default(),
    };
    let own = about.rsplit_once('.').is_some_and(|(_, namespace)| namespace == caller.namespace);
    if caller.namespace != SYSTEM && !(own && ["config_dump", "edsz", "ndsz"].contains(&page)) {
        return Err(Status::permission_denied(format!(
            "{caller} may not see this; use a service account of {SYSTEM}, or ask about a proxy of {}",
            caller.namespace
        )));
    }
    match type_url {
        types::SYNCZ => Ok(status::sorted(state).iter().map(sync).collect()),
        types::CONFIG_DUMP => {
            let sent = dump::sent(state, about).map_err(|(_, reason)| Status::not_found(reason))?;
            let sections = dump::sections(&sent).into_iter().map(any_from_json).collect::<Result<Vec<_>, _>>();
            let sections = sections.map_err(|e| Status::internal(e.to_string()))?;
            Ok(sections.into_iter().map(|section| (section.type_url.clone(), section)).collect())
        }
        types::DEBUG => {
            let body = super::answer(state, page, query).map_err(|(code, reason)| match code {
                StatusCode::NOT_FOUND => Status::not_found(reason),
                _ => Status::invalid_argument(reason),
            })?;
            let value = Bytes::from(format!("{body:#}\n"));
            Ok(vec![(page.to_owned(), Any { type_url: types::DEBUG.to_owned(), value })])
        }
        _ => Ok(status::sorted(state).iter().map(|c| (c.node.clone(), pack(&connected(c)))).collect()),
    }
}

/// A connected proxy, without what only it needs to know.
fn connected(connection: &ConnectionStatus) -> Node {
    Node { id: connection.node.clone(), metadata: connection.about.metadata.clone(), ..Node::default() }
}

/// What one proxy has.
fn sync(connection: &ConnectionStatus) -> (String, Any) {
    let id = proxy_name(connection);
    let namespace = id.rsplit_once('.').map_or("", |(_, namespace)| namespace);
    let configs: Vec<Value> = REPORTED.iter().map(|kind| config(kind, connection.types.get(*kind))).collect();
    let value = json!({
        "node": {
            "id": id,
            "metadata": {
                "CLUSTER_ID": connection.cluster, "ISTIO_VERSION": connection.version, "NAMESPACE": namespace,
            },
        },
        "generic_xds_configs": configs,
    });
    let message: ClientConfig = message_from_json(value).unwrap_or_default();
    (id.to_owned(), pack(&message))
}

fn config(kind: &str, status: Option<&TypeStatus>) -> Value {
    let mut config = json!({"type_url": types::url(kind), "config_status": word(status)});
    if let Some(at) = status.and_then(|s| s.sent_at) {
        config["last_updated"] = status::time(at).into();
    }
    if let Some(error) = status.and_then(|s| s.error.as_ref()) {
        config["error_state"] = json!({"details": error});
    }
    config
}

/// Envoy's word for how a type stands. What a proxy never asked for is not known to be missing.
fn word(status: Option<&TypeStatus>) -> &'static str {
    match status.map(TypeStatus::word) {
        None => "UNKNOWN",
        Some("SYNCED") => "SYNCED",
        Some("STALE") => "STALE",
        Some("ERROR") => "ERROR",
        Some(_) => "NOT_SENT",
    }
}
