//! `pilot-agent request` and `wait`: a question to the sidecar's own pages, from inside the pod.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Limit of one exchange.
const LIMIT: Duration = Duration::from_secs(10);

/// One exchange with a page of this pod: status and body.
///
/// # Errors
/// When nobody listens, or the answer is no HTTP.
pub(crate) fn ask(port: u16, method: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    write!(stream, "{method} {path} HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let odd = || io::Error::other("the answer is no HTTP");
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(odd)?;
    let status = std::str::from_utf8(&answer[..head]).ok().and_then(|h| h.split(' ').nth(1)?.parse().ok());
    Ok((status.ok_or_else(odd)?, answer[head + 4..].to_vec()))
}

/// Waits until the sidecar is ready.
///
/// # Errors
/// With what is missing, when the time is over.
pub(crate) fn wait(limit: Duration, pause: Duration) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let missing = match ask(15021, "GET", "/healthz/ready") {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= limit {
            return Err(format!("the sidecar is not ready after {limit:?}: {missing}"));
        }
        std::thread::sleep(pause);
    }
}
