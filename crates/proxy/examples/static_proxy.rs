//! Runs the data plane on a static Envoy bootstrap (JSON), so that a bench can give Envoy and us the same file.
//! Usage: `static_proxy --config FILE [--workers N]`

use std::error::Error;
use std::sync::Arc;

use envoy_api::envoy::config::bootstrap::v3::Bootstrap;
use proxy::{Proxy, ProxyOptions};
use telemetry::{Telemetry, Workload};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<(), Box<dyn Error>> {
    // As a sidecar does.
    tikv_jemalloc_ctl::background_thread::write(true).map_err(|error| error.to_string())?;
    let mut arguments = std::env::args().skip(1);
    let (mut config, mut workers) = (None, 1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--config" => config = Some(value),
            "--workers" => workers = value.parse()?,
            other => return Err(format!("unknown flag {other}; usage: --config FILE [--workers N]").into()),
        }
    }
    let text = std::fs::read_to_string(config.ok_or("--config FILE is missing")?)?;
    let bootstrap: Bootstrap = envoy_api::message_from_json(serde_json::from_str(&text)?)?;
    let resources = bootstrap.static_resources.unwrap_or_default();
    let proxy = Proxy::start(ProxyOptions {
        workers,
        node_id: "static".to_owned(),
        telemetry: Telemetry::new(Workload::unknown()),
        secrets: Arc::default(),
        undecided: proxy::UNDECIDED,
    })?;
    let named = |items: Vec<(String, envoy_api::Any)>, url: &str| {
        proxy.apply(url, &items, &[]).map_err(|rejected| {
            rejected.iter().map(|r| format!("{}: {}", r.name, r.reason)).collect::<Vec<_>>().join("\n")
        })
    };
    let secrets = resources.secrets.iter().map(|s| (s.name.clone(), envoy_api::pack(s))).collect();
    named(secrets, "envoy.extensions.transport_sockets.tls.v3.Secret")?;
    let clusters = resources.clusters.iter().map(|c| (c.name.clone(), envoy_api::pack(c))).collect();
    named(clusters, "envoy.config.cluster.v3.Cluster")?;
    let listeners = resources.listeners.iter().map(|l| (l.name.clone(), envoy_api::pack(l))).collect();
    named(listeners, "envoy.config.listener.v3.Listener")?;
    // What JSON was read by is larger than the proxy.
    drop((text, resources));
    envoy_api::release_descriptors();
    loop {
        std::thread::park();
    }
}
