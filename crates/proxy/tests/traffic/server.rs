//! Servers behind the proxy: they say what they saw, and misbehave when told to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// What a server does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// Answers 200 with a description of the request.
    Echo,
    /// Answers so.
    Status(u16),
    /// A gRPC answer without a body.
    Grpc(u16),
    /// Breaks the connection after the request was read.
    Break,
    /// Waits, then echoes.
    Late(Duration),
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    pub http2: bool,
}

type Behaviour = Box<dyn FnMut(&Seen) -> Act + Send>;

pub struct State {
    pub name: String,
    pub address: SocketAddr,
    pub seen: Mutex<Vec<Seen>>,
    pub connections: AtomicUsize,
    pub open: AtomicUsize,
    /// Requests that have arrived, answered or not.
    pub arrived: AtomicUsize,
    /// Server names that TLS clients asked for.
    pub names: Mutex<Vec<String>>,
    act: Mutex<Behaviour>,
}

/// A server on an address of its own.
#[derive(Clone)]
pub struct Server(pub Arc<State>);

impl Server {
    /// A server that echoes.
    pub async fn echo(name: &str) -> Self {
        Self::with(name, |_| Act::Echo).await
    }

    /// A server that does what `act` says.
    pub async fn with(name: &str, act: impl FnMut(&Seen) -> Act + Send + 'static) -> Self {
        let listener = listen().await;
        let server = Self::state(name, listener.local_addr().unwrap(), act);
        let state = server.0.clone();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(state.clone(), stream));
            }
        });
        server
    }

    /// A server that echoes on a Unix socket; a path that begins with `@` is an abstract name.
    pub async fn on_socket(name: &str, path: &str) -> Self {
        let listener = UnixListener::bind(path.replacen('@', "\0", 1)).expect("it can be bound");
        let server = Self::state(name, SocketAddr::from(([127, 0, 0, 1], 0)), |_| Act::Echo);
        let state = server.0.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                state.connections.fetch_add(1, SeqCst);
                tokio::spawn(http(state.clone(), TokioIo::new(stream), false));
            }
        });
        server
    }

    /// An address where nobody listens.
    pub async fn refusing(name: &str) -> Self {
        let listener = listen().await;
        Self::state(name, listener.local_addr().unwrap(), |_| Act::Echo)
    }

    /// A TCP server: it says its name first, then echoes bytes.
    pub async fn tcp(name: &str) -> Self {
        let listener = listen().await;
        let server = Self::state(name, listener.local_addr().unwrap(), |_| Act::Echo);
        let state = server.0.clone();
        tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                state.connections.fetch_add(1, SeqCst);
                let name = state.name.clone();
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt as _;
                    let (mut read, mut write) = stream.split();
                    if write.write_all(format!("{name}\n").as_bytes()).await.is_ok() {
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                        let _ = write.shutdown().await;
                    }
                });
            }
        });
        server
    }

    pub fn state(name: &str, address: SocketAddr, act: impl FnMut(&Seen) -> Act + Send + 'static) -> Self {
        Self(Arc::new(State {
            name: name.to_owned(),
            address,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            names: Mutex::default(),
            act: Mutex::new(Box::new(act)),
        }))
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.0.seen.lock().len()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.0.connections.load(SeqCst)
    }

    /// What the last request looked like.
    pub fn last(&self) -> Seen {
        self.0.seen.lock().last().cloned().expect("a request came")
    }

    /// Does something else from now on.
    pub fn change(&self, act: impl FnMut(&Seen) -> Act + Send + 'static) {
        *self.0.act.lock() = Box::new(act);
    }
}

/// A socket on a loopback address that no other server of this process has.
pub async fn listen() -> TcpListener {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let n = NEXT.fetch_add(1, SeqCst);
    TcpListener::bind(format!("127.77.{}.{}:0", n / 250, n % 250 + 1)).await.expect("loopback can be bound")
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    state.connections.fetch_add(1, SeqCst);
    state.open.fetch_add(1, SeqCst);
    serve_on(state.clone(), stream).await;
    state.open.fetch_sub(1, SeqCst);
}

/// Serves HTTP/1 or HTTP/2, whichever the first bytes are.
async fn serve_on(state: Arc<State>, stream: TcpStream) {
    let mut first = [0; 3];
    let http2 = loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return,
            Ok(n) if n < 3 => tokio::task::yield_now().await,
            Ok(_) => break &first == b"PRI",
        }
    };
    http(state, TokioIo::new(stream), http2).await;
}

/// Serves HTTP on any stream.
pub async fn http<S>(state: Arc<State>, io: TokioIo<S>, http2: bool)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| answer(state.clone(), request, http2));
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
    http2: bool,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    state.arrived.fetch_add(1, SeqCst);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in &parts.headers {
        let value = value.to_str().unwrap_or("?");
        headers.entry(name.to_string()).and_modify(|all| *all = format!("{all},{value}")).or_insert(value.to_owned());
    }
    if let Some(authority) = parts.uri.authority() {
        headers.entry("host".to_owned()).or_insert(authority.to_string());
    }
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        http2,
    };
    let act = (state.act.lock())(&seen);
    let text = json!({
        "server": state.name, "method": seen.method, "path": seen.path, "headers": seen.headers, "body": seen.body
    });
    state.seen.lock().push(seen);
    let reply = |status: u16, body: String| {
        Response::builder().status(status).header("x-server", &state.name).body(Full::new(Bytes::from(body))).unwrap()
    };
    match act {
        Act::Echo => Ok(reply(200, text.to_string())),
        Act::Status(status) => Ok(reply(status, state.name.clone())),
        Act::Grpc(code) => {
            let mut response = reply(200, String::new());
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            response.headers_mut().insert("grpc-status", code.into());
            Ok(response)
        }
        Act::Break => Err(std::io::Error::other("told to break")),
        Act::Late(time) => {
            tokio::time::sleep(time).await;
            Ok(reply(200, text.to_string()))
        }
    }
}

/// Waits for a condition; a test that waits in vain ends with what it waited for.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}
