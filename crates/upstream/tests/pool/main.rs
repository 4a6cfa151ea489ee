//! Pools against servers in this process.

mod http1;
mod http2;
mod server;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::task::LocalSet;
use upstream::{
    Answer, Body, Cluster, ClusterConfig, Discovery, Host, HostConfig, HttpPools, PickContext, Registry, SendError,
    SendOptions, Version,
};

/// A cluster in force, its only host, and the pools of one worker.
#[derive(Clone)]
struct Client {
    registry: Arc<Registry>,
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    pools: HttpPools,
    options: SendOptions,
}

impl Client {
    fn new(address: SocketAddr, version: Version, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let hosts = Discovery::Static(vec![HostConfig::new(address)]);
        let mut config = ClusterConfig::new("outbound|80||a", hosts);
        change(&mut config);
        let registry = Arc::new(Registry::default());
        registry.apply(config);
        let cluster = registry.slot("outbound|80||a").load().expect("just applied");
        let host = cluster.pick(&PickContext::default()).expect("one host");
        let options = SendOptions { version, mesh_alpn: false, proxied: None, fresh: false };
        Self { registry, cluster, host, pools: HttpPools::default(), options }
    }

    async fn send(&self, path: &str) -> Result<Box<Answer>, SendError> {
        let uri = format!("http://a{path}");
        let request = Request::builder().uri(uri).header("host", "a").body(Body::Empty).expect("a request");
        self.pools.send(&self.cluster, &self.host, Box::new(request), self.options).await
    }

    /// Sends and reads the whole answer.
    async fn get(&self, path: &str) -> Result<(StatusCode, String), SendError> {
        let (head, body) = self.send(path).await?.response.into_parts();
        let bytes = body.collect().await.expect("the body comes whole").to_bytes();
        Ok((head.status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Runs a test as a worker runs: everything on one thread.
async fn worker(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}
