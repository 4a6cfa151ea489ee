//! The HTTP connection manager and its filters.

use mesh::Snapshot;
use serde_json::{Value, json};

use crate::Proxy;

/// What differs between the HTTP connection managers of a sidecar.
pub(crate) struct Manager<'a> {
    /// Prefix of its statistics.
    pub stat_prefix: String,
    /// Access logs.
    pub access_logs: Vec<Value>,
    /// `{"rds": ...}` or `{"routeConfig": ...}`.
    pub routes: Routes<'a>,
    /// Filters between metadata exchange and fault: token checks and authorization.
    pub security: Vec<Value>,
    /// Whether requests come from other workloads to this one.
    pub inbound: bool,
    /// Whether requests are counted ([`counts`]).
    pub counts: bool,
    /// How requests are traced.
    pub tracing: Value,
    /// Finds the addresses of hosts that requests name (DYNAMIC_DNS).
    pub names: Option<Value>,
    /// How paths are made plain before anything looks at them (`pathNormalization`).
    pub normalization: &'a str,
}

/// Where routes come from.
pub(crate) enum Routes<'a> {
    /// By subscription.
    Rds(&'a str),
    /// Inline.
    Inline(Value),
}

impl Manager<'_> {
    /// The network filter.
    pub(crate) fn filter(self, proxy: &Proxy) -> Value {
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "httpFilters": http_filters(proxy, self.inbound, self.counts, self.security, self.names),
            "normalizePath": true,
            "pathWithEscapedSlashesAction": "KEEP_UNCHANGED",
            "proxy100Continue": true,
            "requestIdExtension": {"typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "useRequestIdForTraceSampling": true
            }},
            "statPrefix": format!("{};", self.stat_prefix),
            "streamIdleTimeout": "0s",
            "tracing": self.tracing,
            "upgradeConfigs": [{"upgradeType": "websocket"}],
            "useRemoteAddress": false
        });
        match self.normalization {
            "NONE" => manager["normalizePath"] = json!(false),
            "MERGE_SLASHES" => manager["mergeSlashes"] = json!(true),
            "DECODE_AND_MERGE_SLASHES" => {
                manager["mergeSlashes"] = json!(true);
                manager["pathWithEscapedSlashesAction"] = json!("UNESCAPE_AND_FORWARD");
            }
            _ => {}
        }
        if !self.access_logs.is_empty() {
            manager["accessLog"] = self.access_logs.into();
        }
        if proxy.preserves_case() {
            manager["httpProtocolOptions"] = preserve_case();
        }
        match self.routes {
            Routes::Rds(name) => {
                manager["rds"] = json!({
                    "configSource": {"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"},
                    "routeConfigName": name
                });
            }
            Routes::Inline(config) => manager["routeConfig"] = config,
        }
        if self.inbound {
            manager["forwardClientCertDetails"] = json!("APPEND_FORWARD");
            manager["setCurrentClientCertDetails"] = json!({"dns": true, "subject": true, "uri": true});
            manager["serverName"] = json!("istio-envoy");
        }
        json!({"name": "envoy.filters.network.http_connection_manager", "typedConfig": manager})
    }
}

/// HTTP/1 options by which header names keep the case they came in.
pub(crate) fn preserve_case() -> Value {
    json!({"headerKeyFormat": {"statefulFormatter": {
        "name": "preserve_case",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
        }
    }}})
}

fn http_filters(proxy: &Proxy, inbound: bool, counts: bool, security: Vec<Value>, names: Option<Value>) -> Vec<Value> {
    let mut filters = Vec::new();
    if proxy.has("istio.metadata_exchange") {
        filters.push(peer_metadata(inbound));
    }
    filters.extend(security);
    filters.push(json!({
        "name": "envoy.filters.http.grpc_stats",
        "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
            "emitFilterState": true,
            "statsForAllMethods": false
        }
    }));
    if !inbound && proxy.has("istio.alpn") {
        filters.push(alpn());
    }
    for (name, of) in [("fault", "fault.v3.HTTPFault"), ("cors", "cors.v3.Cors")] {
        filters.push(json!({
            "name": format!("envoy.filters.http.{name}"),
            "typedConfig": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{of}")}
        }));
    }
    if counts {
        filters.push(stats(inbound));
    }
    filters.extend(names);
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    }));
    filters
}

fn peer_metadata(inbound: bool) -> Value {
    let side = if inbound { "downstream" } else { "upstream" };
    json!({
        "name": "istio.metadata_exchange",
        "typedConfig": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "typeUrl": "type.googleapis.com/io.istio.http.peer_metadata.Config",
            "value": {
                format!("{side}_discovery"): [{"istio_headers": {}}, {"workload_discovery": {}}],
                format!("{side}_propagation"): [{"istio_headers": {}}]
            }
        }
    })
}

/// Whether the proxy counts for the mesh's own metrics: the mesh wants it, and the proxy can.
pub(crate) fn counts(snapshot: &Snapshot, proxy: &Proxy) -> bool {
    snapshot.mesh_config().metrics() && proxy.has("istio.stats")
}

/// The mesh's own metrics; works on HTTP requests and on TCP connections.
pub(crate) fn stats(inbound: bool) -> Value {
    let value = if inbound { json!({"disable_host_header_fallback": true}) } else { json!({}) };
    json!({
        "name": "istio.stats",
        "typedConfig": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "typeUrl": "type.googleapis.com/stats.PluginConfig",
            "value": value
        }
    })
}

/// Tells the server by ALPN, per request protocol, that HTTP comes from the mesh.
fn alpn() -> Value {
    json!({
        "name": "istio.alpn",
        "typedConfig": {
            "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
            "alpnOverride": [
                {"alpnOverride": ["istio-http/1.0", "istio", "http/1.0"]},
                {"alpnOverride": ["istio-http/1.1", "istio", "http/1.1"], "upstreamProtocol": "HTTP11"},
                {"alpnOverride": ["istio-h2", "istio", "h2"], "upstreamProtocol": "HTTP2"}
            ]
        }
    })
}

/// Peer identity and metadata on TCP connections.
pub(crate) fn metadata_exchange() -> Value {
    json!({
        "name": "istio.metadata_exchange",
        "typedConfig": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "typeUrl": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange",
            "value": {"enable_discovery": true, "protocol": "istio-peer-exchange"}
        }
    })
}

/// A TCP proxy to one cluster.
pub(crate) fn tcp_proxy(cluster: &str, access_logs: Vec<Value>) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "cluster": cluster,
        "statPrefix": cluster
    });
    if !access_logs.is_empty() {
        config["accessLog"] = access_logs.into();
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typedConfig": config})
}
