//! A fixed amount of work for `scripts/instructions`: so many requests through the data plane, one after the other, in
//! one process with peers that cost next to nothing. Under callgrind the difference between two runs of unlike length
//! is what one request costs, in instructions, whatever else the machine does.
//! Usage: `request_path SCENARIO REQUESTS`, SCENARIO being `http1`, `http2`, `pair` or `connect`.

mod config;
mod http1;
mod http2;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use proxy::{Proxy, ProxyOptions};
use telemetry::{Telemetry, Workload};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Body of each answer.
const BODY: &[u8; 100] = &[b'x'; 100];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    // `cargo bench` and `cargo test` add flags of their own; without a scenario there is nothing to do.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [scenario, requests] = arguments.as_slice() else {
        println!("usage: request_path SCENARIO REQUESTS; see scripts/instructions");
        return Ok(());
    };
    let requests: u32 = requests.parse()?;
    // As in a sidecar, somebody has said where logs go; without that every span of h2 is written to the `log` crate.
    let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::default());
    let backend = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let upstream = backend.local_addr()?.port();
    let outer = free_port()?;
    match scenario.as_str() {
        "http1" => {
            http1::serve(backend);
            let _proxy = start(&config::hop(outer, upstream, false))?;
            http1::call(connect(outer)?, requests)
        }
        "http2" => {
            http2::serve(backend);
            let _proxy = start(&config::hop(outer, upstream, true))?;
            http2::call(connect(outer)?, requests)
        }
        "pair" => {
            http1::serve(backend);
            let _proxy = start(&config::pair(outer, free_port()?, upstream)?)?;
            http1::call(connect(outer)?, requests)
        }
        "connect" => {
            http1::serve(backend);
            let _proxy = start(&config::hop(outer, upstream, false))?;
            (0..requests).try_for_each(|_| http1::call(connect(outer)?, 1))
        }
        other => Err(format!("unknown scenario {other}").into()),
    }
}

/// A data plane with one worker and this configuration.
fn start(config: &config::Static) -> Result<Arc<Proxy>> {
    let proxy = Proxy::start(ProxyOptions {
        workers: 1,
        node_id: "bench".to_owned(),
        telemetry: Telemetry::new(Workload::unknown()),
        secrets: Arc::default(),
        undecided: Duration::from_millis(100),
    })?;
    let steps = [
        ("envoy.extensions.transport_sockets.tls.v3.Secret", &config.secrets),
        ("envoy.config.cluster.v3.Cluster", &config.clusters),
        ("envoy.config.listener.v3.Listener", &config.listeners),
    ];
    for (kind, items) in steps {
        proxy.apply(kind, items, &[]).map_err(|rejected| format!("{rejected:?}"))?;
    }
    Ok(proxy)
}

/// A port that nobody listens on.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Connects, waiting for the worker to listen.
fn connect(port: u16) -> Result<TcpStream> {
    let mut last = None;
    for _ in 0..500 {
        match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("the proxy does not listen: {last:?}").into())
}
