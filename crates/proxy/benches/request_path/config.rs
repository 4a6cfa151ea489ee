//! Static configurations, as Envoy would take them.

use envoy_api::Any;
use envoy_api::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};
use envoy_api::envoy::extensions::transport_sockets::tls::v3::Secret;
use serde_json::{Value, json};

use crate::Result;

/// Named resources of each kind.
#[derive(Default)]
pub(crate) struct Static {
    pub(crate) secrets: Vec<(String, Any)>,
    pub(crate) clusters: Vec<(String, Any)>,
    pub(crate) listeners: Vec<(String, Any)>,
}

/// One hop: router filter only.
pub(crate) fn hop(port: u16, upstream: u16, http2: bool) -> Static {
    let mut made = Static::default();
    made.cluster(cluster("app", upstream, http2, None));
    made.listener(listener("in", port, "app", vec![], None, false));
    made
}

/// Two listeners of one process as outbound and inbound sidecar, with what a mesh has: mTLS, RBAC, metrics with
/// metadata exchange, JSON access log.
pub(crate) fn pair(outer: u16, inner: u16, upstream: u16) -> Result<Static> {
    let mut made = Static::default();
    for secret in secrets()? {
        let secret: Secret = envoy_api::message_from_json(secret)?;
        made.secrets.push((secret.name.clone(), envoy_api::pack(&secret)));
    }
    made.cluster(cluster("app", upstream, false, None));
    made.cluster(cluster("peer", inner, false, Some(tls("UpstreamTlsContext"))));
    made.listener(listener("inbound", inner, "app", vec![rbac()], Some(tls("DownstreamTlsContext")), true));
    made.listener(listener("outbound", outer, "peer", vec![], None, true));
    Ok(made)
}

impl Static {
    fn cluster(&mut self, json: Value) {
        let cluster: Cluster = envoy_api::message_from_json(json).expect("a cluster of this bench");
        self.clusters.push((cluster.name.clone(), envoy_api::pack(&cluster)));
    }

    fn listener(&mut self, json: Value) {
        let listener: Listener = envoy_api::message_from_json(json).expect("a listener of this bench");
        self.listeners.push((listener.name.clone(), envoy_api::pack(&listener)));
    }
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn any(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{kind}"));
    fields
}

/// A filter of Istio's, as istiod sends it: JSON cannot name its type, which is not among Envoy's.
fn istio(name: &str, kind: &str) -> Value {
    let config = json!({"type_url": format!("type.googleapis.com/{kind}"), "value": {}});
    json!({"name": name, "typed_config": any("udpa.type.v1.TypedStruct", config)})
}

fn cluster(name: &str, port: u16, http2: bool, tls: Option<Value>) -> Value {
    let mut made = json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}});
    if http2 {
        let options = json!({"explicit_http_config": {"http2_protocol_options": {}}});
        made["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
            any("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", options)});
    }
    if let Some(tls) = tls {
        made["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    }
    made
}

fn listener(name: &str, port: u16, cluster: &str, mut filters: Vec<Value>, tls: Option<Value>, mesh: bool) -> Value {
    let filter = |name: &str, kind: &str| json!({"name": name, "typed_config": any(kind, json!({}))});
    if mesh {
        filters.push(istio("istio.metadata_exchange", "io.istio.http.peer_metadata.Config"));
        filters.push(istio("istio.stats", "stats.PluginConfig"));
    }
    filters.push(filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"));
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "30s"}});
    let mut manager = json!({"stat_prefix": name, "codec_type": "AUTO", "generate_request_id": mesh,
        "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters});
    if mesh {
        manager["access_log"] = json!([{"name": "envoy.access_loggers.file", "typed_config":
            any("envoy.extensions.access_loggers.file.v3.FileAccessLog", json!({"path": "/dev/null", "log_format": log()}))}]);
    }
    let manager = any("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager);
    let mut chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    }
    let direction = if name == "inbound" { "INBOUND" } else { "OUTBOUND" };
    json!({"name": name, "address": address(port), "traffic_direction": direction, "filter_chains": [chain]})
}

/// The keys of Istio's JSON access log that a request fills.
fn log() -> Value {
    json!({"json_format": {
        "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
        "response_code_details": "%RESPONSE_CODE_DETAILS%", "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%", "request_id": "%REQ(X-REQUEST-ID)%",
        "authority": "%REQ(:AUTHORITY)%", "user_agent": "%REQ(USER-AGENT)%", "upstream_host": "%UPSTREAM_HOST%",
        "upstream_cluster": "%UPSTREAM_CLUSTER%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "route_name": "%ROUTE_NAME%"}})
}

fn rbac() -> Value {
    let principal = json!({"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/bench/sa/app"}}});
    let rules =
        json!({"action": "ALLOW", "policies": {"app": {"permissions": [{"any": true}], "principals": [principal]}}});
    json!({"name": "envoy.filters.http.rbac", "typed_config": any("envoy.extensions.filters.http.rbac.v3.RBAC", json!({"rules": rules}))})
}

fn tls(kind: &str) -> Value {
    let common = json!({"alpn_protocols": ["http/1.1"], "tls_certificate_sds_secret_configs": [{"name": "default"}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]},
            "validation_context_sds_secret_config": {"name": "ROOTCA"}}});
    let mut context = json!({"common_tls_context": common});
    if kind == "DownstreamTlsContext" {
        context["require_client_certificate"] = json!(true);
    } else {
        context["sni"] = json!("peer");
    }
    any(&format!("envoy.extensions.transport_sockets.tls.v3.{kind}"), context)
}

/// One leaf for both ends, and its root.
fn secrets() -> Result<[Value; 2]> {
    let root_key = rcgen::KeyPair::generate()?;
    let mut root = rcgen::CertificateParams::new(Vec::new())?;
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root_pem = root.self_signed(&root_key)?.pem();
    let key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::new(Vec::new())?;
    leaf.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/ns/bench/sa/app".try_into()?)];
    leaf.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let chain = leaf.signed_by(&key, &rcgen::Issuer::from_params(&root, &root_key))?.pem();
    Ok([
        json!({"name": "default", "tls_certificate": {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key.serialize_pem()}}}),
        json!({"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": root_pem}}}),
    ])
}
