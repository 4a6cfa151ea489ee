//! A proxy in this process, from the configuration that Envoy takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::listener::v3::Listener;
use proxy::{Proxy, ProxyOptions};
use serde_json::{Value, json};
use telemetry::{Telemetry, Workload};

const TYPES: &str = "type.googleapis.com";

/// What a proxy is started from.
pub struct Config {
    pub listener: Value,
    pub clusters: Vec<Value>,
}

/// A running proxy.
pub struct Running {
    pub proxy: Arc<Proxy>,
    pub address: SocketAddr,
}

impl Config {
    /// HTTP on one listener, all requests to one upstream.
    pub fn http(upstream: SocketAddr) -> Self {
        Self { listener: listener(json!([chain(manager())])), clusters: vec![cluster("up", upstream)] }
    }

    /// Bytes on one listener, all to one upstream.
    pub fn tcp(upstream: SocketAddr) -> Self {
        Self { listener: listener(json!([chain(tcp_proxy())])), clusters: vec![cluster("up", upstream)] }
    }

    /// HTTP where the client's first bytes are HTTP, bytes otherwise: a port of undeclared protocol.
    pub fn undeclared(upstream: SocketAddr) -> Self {
        let mut http = chain(manager());
        http["filter_chain_match"] = json!({"application_protocols": ["http/1.1", "h2c"]});
        let mut listener = listener(json!([http, chain(tcp_proxy())]));
        listener["listener_filters"] = json!([{
            "name": "http_inspector",
            "typed_config": {"@type": format!("{TYPES}/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector")}
        }]);
        listener["listener_filters_timeout"] = json!("0s");
        listener["continue_on_listener_filters_timeout"] = json!(true);
        Self { listener, clusters: vec![cluster("up", upstream)] }
    }

    /// The connection manager of the first chain, to be changed.
    pub fn manager(&mut self) -> &mut Value {
        &mut self.listener["filter_chains"][0]["filters"][0]["typed_config"]
    }

    /// The action of the first route, to be changed.
    pub fn route(&mut self) -> &mut Value {
        &mut self.manager()["route_config"]["virtual_hosts"][0]["routes"][0]
    }

    /// HTTP options towards the first upstream.
    pub fn upstream_options(&mut self, mut options: Value) {
        options["@type"] = json!(format!("{TYPES}/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"));
        self.clusters[0]["typed_extension_protocol_options"] =
            json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
    }

    /// HTTP/2 towards the first upstream.
    pub fn http2_upstream(&mut self) {
        self.upstream_options(json!({"explicit_http_config": {"http2_protocol_options": {}}}));
    }

    /// Istio's metrics, before the last filter of the first chain (TCP) or of its manager (HTTP).
    pub fn metrics(&mut self, value: Value) {
        let filter = json!({
            "name": "istio.stats",
            "typed_config": {
                "@type": format!("{TYPES}/udpa.type.v1.TypedStruct"),
                "type_url": format!("{TYPES}/stats.PluginConfig"),
                "value": value
            }
        });
        let http = self.manager().get("http_filters").is_some();
        let list =
            if http { &mut self.manager()["http_filters"] } else { &mut self.listener["filter_chains"][0]["filters"] };
        list.as_array_mut().expect("filters").insert(0, filter);
    }

    /// Log lines to a file, in this format.
    pub fn log(&mut self, path: &str, format: &str) {
        self.manager()["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": format!("{TYPES}/envoy.extensions.access_loggers.file.v3.FileAccessLog"),
                "path": path,
                "log_format": {"text_format_source": {"inline_string": format!("{format}\n")}}
            }
        }]);
    }

    pub fn start(&self) -> Running {
        self.try_start().unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Starts, or says what was refused.
    pub fn try_start(&self) -> Result<Running, String> {
        let proxy = Proxy::start(ProxyOptions {
            workers: 1,
            node_id: "test".to_owned(),
            telemetry: Telemetry::new(Workload::unknown()),
            secrets: Arc::default(),
            // No time is needed for anything: tests go by the order of events.
            undecided: Duration::ZERO,
        })
        .expect("threads");
        let apply = |kind: &str, name: &Value, any: envoy_api::Any| {
            let name = name.as_str().unwrap_or_default().to_owned();
            proxy.apply(kind, &[(name, any)], &[]).map_err(|rejected| rejected[0].reason.clone())
        };
        for cluster in &self.clusters {
            let message: Cluster = envoy_api::message_from_json(cluster.clone()).map_err(|e| e.to_string())?;
            apply("envoy.config.cluster.v3.Cluster", &cluster["name"], envoy_api::pack(&message))?;
        }
        let message: Listener = envoy_api::message_from_json(self.listener.clone()).map_err(|e| e.to_string())?;
        apply("envoy.config.listener.v3.Listener", &self.listener["name"], envoy_api::pack(&message))?;
        let address = proxy.bound_address("in").expect("a bound listener");
        Ok(Running { proxy, address })
    }
}

impl Running {
    /// The sum of a Prometheus metric over the series that hold all of these labels.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.proxy.telemetry().render_prometheus();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

pub fn listener(chains: Value) -> Value {
    json!({
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": chains
    })
}

pub fn chain(filter: Value) -> Value {
    json!({"filters": [filter]})
}

pub fn manager() -> Value {
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{TYPES}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "normalize_path": true,
            "generate_request_id": false,
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": format!("{TYPES}/envoy.extensions.filters.http.router.v3.Router")}
            }],
            "route_config": {
                "name": "all",
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s"}}]
                }]
            }
        }
    })
}

pub fn tcp_proxy() -> Value {
    json!({
        "name": "tcp",
        "typed_config": {
            "@type": format!("{TYPES}/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "in",
            "cluster": "up"
        }
    })
}

pub fn cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": to.ip().to_string(), "port_value": to.port()}}
            }}]}]
        }
    })
}
