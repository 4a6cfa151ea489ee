//! The HTTP connection manager and its filters.

use mesh::Snapshot;
use serde_json::{Value, json};

use crate::Proxy;

/// What differs between the HTTP connection managers of a sidecar.
pub(crate) struct Manager<'a> {
    /// Prefix of its statistics.
    pub stat_prefix: String,
    /// Access log entries.
    pub access_log: Option<Value>,
    /// `{"rds": ...}` or `{"routeConfig": ...}`.
    pub routes: Routes<'a>,
    /// Filters between metadata exchange and fault: token checks and authorization.
    pub security: Vec<Value>,
    /// Whether requests come from other workloads to this one.
    pub inbound: bool,
    /// Whether requests are counted ([`counts`]).
    pub counts: bool,
    /// Per cent of requests that are traced.
    pub sampling: f64,
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
            "httpFilters": http_filters(proxy, self.inbound, self.counts, self.security),
            "normalizePath": true,
            "pathWithEscapedSlashesAction": "KEEP_UNCHANGED",
            "proxy100Continue": true,
            "requestIdExtension": {"typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "useRequestIdForTraceSampling": true
            }},
            "statPrefix": format!("{};", self.stat_prefix),
            "streamIdleTimeout": "0s",
            "tracing": tracing(proxy, self.sampling),
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
        if let Some(log) = self.access_log {
            manager["accessLog"] = json!([log]);
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

fn http_filters(proxy: &Proxy, inbound: bool, counts: bool, security: Vec<Value>) -> Vec<Value> {
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

fn tracing(proxy: &Proxy, sampling: f64) -> Value {
    let mut tags: Vec<Value> = ["allow", "deny"].iter().flat_map(|action| dry_run_tags(action)).collect();
    let label = |key: &str| proxy.labels.get(key).map(String::as_str);
    let service =
        label("service.istio.io/canonical-name").or_else(|| label("app.kubernetes.io/name")).or_else(|| label("app"));
    let revision = label("service.istio.io/canonical-revision")
        .or_else(|| label("app.kubernetes.io/version"))
        .or_else(|| label("version"));
    let literals = [
        ("istio.canonical_revision", revision.unwrap_or("latest")),
        ("istio.canonical_service", service.unwrap_or("unknown")),
        ("istio.cluster_id", proxy.cluster_id()),
        ("istio.mesh_id", proxy.meta("MESH_ID").unwrap_or(&proxy.domain_suffix)),
        ("istio.namespace", &proxy.namespace),
    ];
    tags.extend(literals.iter().map(|(tag, value)| json!({"literal": {"value": value}, "tag": tag})));
    json!({
        "clientSampling": {"value": 100},
        "customTags": tags,
        "overallSampling": {"value": 100},
        "randomSampling": {"value": sampling}
    })
}

fn dry_run_tags(action: &str) -> [Value; 2] {
    [("shadow_effective_policy_id", "name"), ("shadow_engine_result", "result")].map(|(key, tag)| {
        json!({
            "metadata": {
                "kind": {"request": {}},
                "metadataKey": {
                    "key": "envoy.filters.http.rbac",
                    "path": [{"key": format!("istio_dry_run_{action}_{key}")}]
                }
            },
            "tag": format!("istio.authorization.dry_run.{action}_policy.{tag}")
        })
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
pub(crate) fn tcp_proxy(cluster: &str, access_log: Option<Value>) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "cluster": cluster,
        "statPrefix": cluster
    });
    if let Some(log) = access_log {
        config["accessLog"] = json!([log]);
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typedConfig": config})
}
