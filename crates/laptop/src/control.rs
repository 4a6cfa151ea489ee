//! The control socket: one JSON line asks, one JSON line answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use crate::node::Node;
use crate::status::{Request, Response};

/// The longest request.
const MAX_REQUEST: u64 = 64 << 10;

/// Why the node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no mesh is up here ({0}); start one with `meltemi up DIR`")]
    NotUp(String),
    /// The conversation broke off.
    #[error("the mesh's node does not answer: {0}")]
    Broken(#[from] std::io::Error),
    /// It answered with a refusal.
    #[error("{0}")]
    Refused(String),
}

/// Asks the node behind a socket.
///
/// # Errors
/// See [`ControlError`].
pub fn ask(socket: &Path, request: &Request) -> Result<Response, ControlError> {
    let mut stream = UnixStream::connect(socket).map_err(|_| ControlError::NotUp(socket.display().to_string()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut line = serde_json::to_vec(request).map_err(std::io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let response: Response = serde_json::from_str(&answer).map_err(std::io::Error::from)?;
    match response.error {
        Some(reason) => Err(ControlError::Refused(reason)),
        None => Ok(response),
    }
}

/// Serves the socket until the node ends.
///
/// # Errors
/// When the socket cannot be made, mostly because its path is longer than 107 bytes.
pub fn serve(socket: &Path, node: Rc<Node>) -> std::io::Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener = tokio::net::UnixListener::bind(socket)?;
    tokio::task::spawn_local(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let node = node.clone();
                tokio::task::spawn_local(async move {
                    // A client that goes away needs no answer.
                    let _ = converse(stream, &node).await;
                });
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    Ok(())
}

async fn converse(stream: tokio::net::UnixStream, node: &Rc<Node>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = tokio::io::BufReader::new(reader.take(MAX_REQUEST)).lines();
    while let Some(line) = lines.next_line().await? {
        let response = match serde_json::from_str(&line) {
            Ok(request) => node.clone().obey(request).await,
            Err(error) => Response { error: Some(format!("not a request: {error}")), ..Response::default() },
        };
        let mut text = serde_json::to_vec(&response).map_err(std::io::Error::from)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
    }
    Ok(())
}
