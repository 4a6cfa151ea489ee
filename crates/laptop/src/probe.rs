//! Is it ready? Asked from inside the pod, where the way to the application does not lead through the sidecar.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use net::netns::{Place, place, run_in};

use crate::model::{Container, Exec, Handler, HttpGet, Probe, resolve_port};

/// An answer's size that is read at most.
const MAX_ANSWER: u64 = 64 << 20;

/// What is asked, with the port found.
#[derive(Clone, Debug)]
pub enum Question {
    /// `GET path` at this port.
    Http(u16, String),
    /// A connection to this port.
    Tcp(u16),
    /// This command's end.
    Exec(Vec<String>),
}

impl Question {
    /// Of a container's probe; `None` when it asks nothing that can be asked.
    pub fn of(probe: &Probe, container: &Container) -> Option<Self> {
        if let Some(tcp) = probe.tcp_socket.as_ref().filter(|_| probe.http_get.is_none()) {
            return Some(Self::Tcp(resolve_port(&tcp.port, std::slice::from_ref(container))?));
        }
        Self::of_parts(probe.http_get.as_ref(), probe.exec.as_ref(), container)
    }

    /// Of a container's hook; `None` when it asks nothing that can be asked.
    pub fn of_handler(hook: &Handler, container: &Container) -> Option<Self> {
        Self::of_parts(hook.http_get.as_ref(), hook.exec.as_ref(), container)
    }

    fn of_parts(http: Option<&HttpGet>, exec: Option<&Exec>, container: &Container) -> Option<Self> {
        if let Some(http) = http {
            let path = if http.path.is_empty() { "/".to_owned() } else { http.path.clone() };
            return Some(Self::Http(resolve_port(&http.port, std::slice::from_ref(container))?, path));
        }
        exec.map(|exec| Self::Exec(exec.command.clone()))
    }

    /// Asks, from inside the pod. Blocks for at most `timeout`.
    pub fn ask(&self, address: Ipv4Addr, at: &Place, timeout: Duration) -> bool {
        match self {
            Self::Http(port, path) => {
                let target = SocketAddr::from((address, *port));
                inside(at, || http_get(target, path, timeout)).is_ok_and(|(status, _)| (200..400).contains(&status))
            }
            Self::Tcp(port) => {
                let target = SocketAddr::from((address, *port));
                inside(at, || TcpStream::connect_timeout(&target, timeout)).is_ok()
            }
            Self::Exec(command) => run(command, at, timeout).unwrap_or(false),
        }
    }
}

/// Does network work in the network namespace of `at`.
pub fn inside<T: Send>(at: &Place, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match &at.net {
        Some(path) => run_in(Path::new(path), work)?,
        None => work(),
    }
}

fn run(command: &[String], at: &Place, timeout: Duration) -> io::Result<bool> {
    let Some((program, args)) = command.split_first() else { return Ok(false) };
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    place(&mut command, at)?;
    let mut child = command.spawn()?;
    let deadline = std::time::Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if std::time::Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A plain `GET`: the status and the body.
///
/// # Errors
/// What the sockets say; `InvalidData` for what is not HTTP.
pub fn http_get(target: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, Vec<u8>)> {
    http("GET", target, path, timeout)
}

/// A plain request without a body: the status and the body of the answer.
///
/// # Errors
/// As [`http_get`].
pub fn http(method: &str, target: SocketAddr, path: &str, timeout: Duration) -> io::Result<(u16, Vec<u8>)> {
    exchange(method, target, path, "", timeout)
}

/// A plain `PUT` of JSON: the status and the body of the answer.
///
/// # Errors
/// As [`http_get`].
pub fn http_put(target: SocketAddr, path: &str, body: &str, timeout: Duration) -> io::Result<(u16, Vec<u8>)> {
    let with = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    exchange("PUT", target, path, &with, timeout)
}

/// Sends a request; `more` is what follows its headers, from further headers on.
fn exchange(method: &str, target: SocketAddr, path: &str, more: &str, timeout: Duration) -> io::Result<(u16, Vec<u8>)> {
    let more = if more.is_empty() { "\r\n" } else { more };
    let mut stream = TcpStream::connect_timeout(&target, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // A stock Envoy's admin pages refuse HTTP/1.0, under which there would be nothing to decode.
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: meltemi-probe\r\nConnection: close\r\n{more}"
    )?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, format!("{target} did not answer in HTTP"));
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(not_http)?;
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(not_http)?;
    answer.drain(..end + 4);
    let chunked = head.lines().any(|line| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
    });
    Ok((status, if chunked { unchunked(&answer).ok_or_else(not_http)? } else { answer }))
}

/// The content of a chunked body (RFC 9112, section 7.1); `None` when it is cut off or malformed.
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::with_capacity(body.len());
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(body.get(..line)?).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        body = body.get(line + 2..)?;
        if size == 0 {
            return Some(content);
        }
        content.extend_from_slice(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together() {
        let whole = unchunked(b"4\r\nWiki\r\n5;x=1\r\npedia\r\n0\r\n\r\n");
        assert_eq!(whole.as_deref(), Some(b"Wikipedia".as_slice()));
        assert_eq!(unchunked(b"4\r\nWi"), None);
        assert_eq!(unchunked(b"ffffffffffffffff\r\nWi"), None);
    }
}
