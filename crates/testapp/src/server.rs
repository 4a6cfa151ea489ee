//! Binds every port, then serves until told to stop.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::fault::{FaultOptions, Faults};
use crate::{http_server, tcp};

/// What the application is and where it listens.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address of all ports.
    pub bind: IpAddr,
    /// HTTP/1.1, h2c and gRPC; 0 picks a free port.
    pub http: Vec<u16>,
    /// TCP echo; 0 picks a free port.
    pub tcp: Vec<u16>,
    /// Sent by the TCP ports before the client has said anything.
    pub banner: Option<String>,
    /// The TCP ports say `bye` at the stop signal, and let their clients end the connection.
    pub farewell: bool,
    /// `app` in answers.
    pub name: String,
    /// `version` in answers.
    pub version: String,
    /// `pod` in answers.
    pub pod: String,
    /// What fails.
    pub faults: FaultOptions,
    /// After the stop signal new connections are still served for this long.
    pub linger: Duration,
}

/// Why the application could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be had.
    #[error("cannot listen on {address}: {source}; is another process on this port?")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
}

/// State that all connections share.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) pod: String,
    pub(crate) banner: Option<String>,
    pub(crate) farewell: bool,
    pub(crate) faults: Faults,
    pub(crate) ready: AtomicBool,
    open: AtomicUsize,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It has not begun.
    Running,
    /// New connections are served still; clients are told not to come back.
    Leaving,
    /// Idle connections are closed, the others after what is in flight.
    Ending,
}

/// A running application.
pub struct Running {
    /// Bound HTTP addresses, in the order asked for.
    pub http: Vec<SocketAddr>,
    /// Bound TCP addresses, in the order asked for.
    pub tcp: Vec<SocketAddr>,
    app: Arc<App>,
    stop: watch::Sender<Stage>,
    linger: Duration,
}

impl Running {
    /// Serves new connections for the linger time more, and tells clients not to come back; then asks open connections to
    /// end, and returns when none is left or `at_most` is over.
    pub async fn stop(self, at_most: Duration) {
        self.stop.send_replace(Stage::Leaving);
        let deadline = tokio::time::Instant::now() + at_most;
        tokio::time::sleep(self.linger.min(at_most)).await;
        self.stop.send_replace(Stage::Ending);
        while self.app.open.load(Ordering::Relaxed) > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Binds and starts serving on the current runtime.
///
/// # Errors
/// The first port that cannot be bound.
pub async fn start(options: ServerOptions) -> Result<Running, ServeError> {
    let http = bind_all(options.bind, &options.http).await?;
    let tcp = bind_all(options.bind, &options.tcp).await?;
    let addresses = |all: &[TcpListener]| all.iter().filter_map(|l| l.local_addr().ok()).collect();
    let (http_addresses, tcp_addresses) = (addresses(&http), addresses(&tcp));
    let app = Arc::new(App {
        name: options.name,
        version: options.version,
        pod: options.pod,
        banner: options.banner,
        farewell: options.farewell,
        faults: Faults::new(options.faults),
        ready: AtomicBool::new(true),
        open: AtomicUsize::new(0),
    });
    let (stop, stopping) = watch::channel(Stage::Running);
    for listener in http {
        tokio::spawn(accept(listener, app.clone(), stopping.clone(), Kind::Http));
    }
    for listener in tcp {
        tokio::spawn(accept(listener, app.clone(), stopping.clone(), Kind::Tcp));
    }
    Ok(Running { http: http_addresses, tcp: tcp_addresses, app, stop, linger: options.linger })
}

async fn bind_all(ip: IpAddr, ports: &[u16]) -> Result<Vec<TcpListener>, ServeError> {
    let mut bound = Vec::new();
    for port in ports {
        let address = SocketAddr::new(ip, *port);
        bound.push(TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?);
    }
    Ok(bound)
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Tcp,
}

async fn accept(listener: TcpListener, app: Arc<App>, stopping: watch::Receiver<Stage>, kind: Kind) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: give open connections time to end.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (app, stopping) = (app.clone(), stopping.clone());
        tokio::spawn(async move {
            let open = OpenConnection::new(app);
            match kind {
                Kind::Http => http_server::serve(stream, peer, &open.0, stopping).await,
                Kind::Tcp => tcp::serve(stream, &open.0, stopping).await,
            }
        });
    }
}

/// Counts a connection as open for as long as it lives.
struct OpenConnection(Arc<App>);

impl OpenConnection {
    fn new(app: Arc<App>) -> Self {
        app.open.fetch_add(1, Ordering::Relaxed);
        Self(app)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
