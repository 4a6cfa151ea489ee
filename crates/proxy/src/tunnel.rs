//! The way through a forward proxy: CONNECT over HTTP/1.1 (RFC 9110, 9.3.6), or POST.

mod post;

use std::io;

use proxy_config::Tunnel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upstream::Transport;

/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;

/// Asks for a tunnel. Gives back its stream, and what came behind the answer's head: it is the target's.
pub(crate) async fn open(stream: Transport, wanted: &Tunnel) -> io::Result<(Transport, Vec<u8>)> {
    match &wanted.post {
        None => connect(stream, &wanted.target).await,
        Some(path) => post::open(stream, &wanted.target, path).await.map(|stream| (stream, Vec::new())),
    }
}

async fn connect(mut stream: Transport, target: &str) -> io::Result<(Transport, Vec<u8>)> {
    let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut read = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        if let Some(end) = end_of_head(&read) {
            let rest = read.split_off(end);
            return if accepted(&read) { Ok((stream, rest)) } else { Err(io::Error::other(refusal(&read))) };
        }
        if read.len() > MAX_HEAD {
            return Err(io::Error::other("the tunnel's answer has no end"));
        }
        match stream.read(&mut chunk).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read.extend(chunk.iter().take(n)),
        }
    }
}

fn end_of_head(read: &[u8]) -> Option<usize> {
    read.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// `HTTP/1.x 2xx`
fn accepted(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(8..10) == Some(b" 2")
}

fn refusal(head: &[u8]) -> String {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    format!("the tunnel was refused: {}", String::from_utf8_lossy(line))
}
