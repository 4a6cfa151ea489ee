//! Questions to the pages of this pod: `pilot-agent request` and `wait`, and what the agent itself wants to know.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Limit of one exchange.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest page that is read.
const MAX_PAGE: usize = 256 << 20;

/// One exchange with a port of this pod: status and body.
///
/// # Errors
/// When nobody listens, the answer is no HTTP, or it takes too long.
pub(crate) async fn fetch(port: u16, method: &str, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        // An error of the connection is also one of the answer.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    };
    tokio::time::timeout(LIMIT, exchange).await?
}

/// As [`fetch`], for a command that has nothing else to do.
///
/// # Errors
/// As [`fetch`].
pub(crate) fn ask(port: u16, method: &str, path: &str) -> io::Result<(StatusCode, Bytes)> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(fetch(port, method, path))
}

/// Waits until the sidecar is ready.
///
/// # Errors
/// With what is missing, when the time is over.
pub(crate) fn wait(limit: Duration, pause: Duration) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let missing = match ask(15021, "GET", "/healthz/ready") {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= limit {
            return Err(format!("the sidecar is not ready after {limit:?}: {missing}"));
        }
        std::thread::sleep(pause);
    }
}
