//! What is known of a connected proxy, for `proxy-status`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use envoy_api::envoy::config::core::v3::Node;

/// One type of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Nonce of the last answer.
    pub sent: String,
    /// Nonce of the last acknowledged answer.
    pub acked: String,
    /// When the last answer was sent.
    pub sent_at: Option<SystemTime>,
    /// Why the proxy refused an answer; cleared by the next acknowledgement.
    pub error: Option<String>,
}

impl TypeStatus {
    /// `SYNCED`, `STALE`, `NOT SENT` or `ERROR`, as `proxy-status` prints it.
    pub fn word(&self) -> &'static str {
        match self {
            Self { error: Some(_), .. } => "ERROR",
            Self { sent, .. } if sent.is_empty() => "NOT SENT",
            Self { sent, acked, .. } if sent == acked => "SYNCED",
            _ => "STALE",
        }
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Node id.
    pub node: String,
    /// The whole node, as the proxy sent it.
    pub about: Node,
    /// `CLUSTER_ID` of the node.
    pub cluster: String,
    /// `ISTIO_VERSION` of the node.
    pub version: String,
    /// Since when.
    pub connected: SystemTime,
    /// By bare type name.
    pub types: BTreeMap<String, TypeStatus>,
}
