//! Who asks: the few facts about a proxy that decide what it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use envoy_api::envoy::config::core::v3::{Locality, Node};
use serde_json::Value;

/// What a proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Beside a workload.
    Sidecar,
    /// A gateway.
    Router,
}

/// A connected proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// The whole node id.
    pub id: String,
    /// Sidecar or gateway.
    pub kind: Kind,
    /// The pod's address.
    pub ip: IpAddr,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// DNS domain of the mesh, usually `cluster.local`.
    pub domain_suffix: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The pod's service account; `default` when the node does not say.
    pub service_account: String,
    /// Where it says to be, as `region/zone/subzone`; empty when it does not say.
    pub locality: String,
    /// The Kubernetes node it says to be on.
    pub node: Option<String>,
    /// Node metadata as JSON; read it through the methods.
    pub metadata: Value,
    /// Names and type URLs of the extensions the proxy says it has; none when it does not say.
    pub extensions: Option<BTreeSet<String>>,
    /// A list of extensions was given and Istio's own are not in it.
    pub stock_envoy: bool,
}

/// Why a node cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NodeError {
    /// The id has not the four parts.
    #[error("node id {0:?} is not of the form sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN")]
    Id(String),
    /// The first part is unknown.
    #[error("node id {id:?} starts with {kind:?}; only sidecar and router are served")]
    Kind {
        /// The whole id.
        id: String,
        /// Its first part.
        kind: String,
    },
    /// The second part is no address.
    #[error("node id {id:?} has {ip:?} where an IP address belongs")]
    Ip {
        /// The whole id.
        id: String,
        /// Its second part.
        ip: String,
    },
    /// A machine that wants a WorkloadEntry made of a WorkloadGroup.
    #[error("{id} asks to be registered in the WorkloadGroup {group}: that is not built; write a WorkloadEntry for it")]
    Registration {
        /// The whole id.
        id: String,
        /// The group.
        group: String,
    },
}

impl Proxy {
    /// Reads Envoy's node.
    ///
    /// # Errors
    /// When the id does not say who asks.
    pub fn from_node(node: &Node) -> Result<Self, NodeError> {
        let id = node.id.as_str();
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, ip, pod, domain] = parts.as_slice() else { return Err(NodeError::Id(id.to_owned())) };
        let kind = match *kind {
            "sidecar" => Kind::Sidecar,
            "router" => Kind::Router,
            other => return Err(NodeError::Kind { id: id.to_owned(), kind: other.to_owned() }),
        };
        let ip = ip.parse().map_err(|_| NodeError::Ip { id: id.to_owned(), ip: (*ip).to_owned() })?;
        let (name, pod_namespace) = pod.rsplit_once('.').ok_or_else(|| NodeError::Id(id.to_owned()))?;
        let metadata = node.metadata.as_ref().map_or(Value::Null, envoy_api::struct_to_json);
        let extensions: BTreeSet<String> = node
            .extensions
            .iter()
            .flat_map(|e| std::iter::once(e.name.clone()).chain(e.type_urls.iter().cloned()))
            .filter(|name| !name.is_empty())
            .collect();
        let extensions = Some(extensions).filter(|all| !all.is_empty());
        let stock_envoy = extensions.as_ref().is_some_and(|all| !all.contains("istio.alpn"));
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        if let Some(group) = text("AUTO_REGISTER_GROUP").filter(|group| !group.is_empty()) {
            return Err(NodeError::Registration { id: id.to_owned(), group });
        }
        let labels = metadata.get("LABELS").and_then(Value::as_object).map_or_else(BTreeMap::new, |map| {
            map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
        });
        Ok(Self {
            kind,
            ip,
            name: name.to_owned(),
            namespace: text("NAMESPACE").unwrap_or_else(|| pod_namespace.to_owned()),
            domain_suffix: domain.split_once(".svc.").map_or("cluster.local", |(_, suffix)| suffix).to_owned(),
            labels,
            service_account: text("SERVICE_ACCOUNT").unwrap_or_else(|| "default".to_owned()),
            id: id.to_owned(),
            locality: node.locality.as_ref().map(place).unwrap_or_default(),
            node: text("NODE_NAME"),
            metadata,
            extensions,
            stock_envoy,
        })
    }

    /// One text value of the node metadata, e.g. `CLUSTER_ID`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// Whether HTTP/1 header names keep their case (`proxyHeaders.preserveHttp1HeaderCase` of the injected ProxyConfig).
    pub fn preserves_case(&self) -> bool {
        self.metadata.pointer("/PROXY_CONFIG/proxyHeaders/preserveHttp1HeaderCase") == Some(&Value::Bool(true))
    }

    /// The cluster the proxy runs in.
    pub fn cluster_id(&self) -> &str {
        self.meta("CLUSTER_ID").unwrap_or("Kubernetes")
    }

    /// Whether the proxy has an extension, by name; a proxy that does not list its extensions has Istio's.
    pub fn has(&self, extension: &str) -> bool {
        self.extensions.as_ref().is_none_or(|all| all.contains(extension))
    }

    /// Whether it asks for its own replicas (`ISTIO_META_ENABLE_SELF_DISCOVERY`).
    pub fn knows_replicas(&self) -> bool {
        self.meta("ENABLE_SELF_DISCOVERY").is_some_and(|v| v == "true" || v == "1")
    }

    /// Whether the agent answers DNS, so that addresses the mesh invented are reachable.
    pub fn dns_capture(&self) -> bool {
        self.meta("DNS_CAPTURE").is_some_and(|v| v == "true" || v == "1")
    }
}

fn place(of: &Locality) -> String {
    format!("{}/{}/{}", of.region, of.zone, of.sub_zone).trim_end_matches('/').to_owned()
}
