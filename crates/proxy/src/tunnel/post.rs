//! A tunnel by POST: the client's bytes are the body of the request, the target's those of the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use upstream::Transport;

/// Bytes on their way in each direction.
const BUFFER: usize = 64 * 1024;

/// Sends the head of the request and waits for that of the answer.
pub(super) async fn open(stream: Transport, target: &str, path: &PathAndQuery) -> io::Result<Transport> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(connection);
    let (near, far) = tokio::io::duplex(BUFFER);
    let (read, write) = tokio::io::split(far);
    let mut request = Request::new(Upward { read, buffer: vec![0; 16 * 1024] });
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(path.clone());
    let host = HeaderValue::from_str(target).map_err(io::Error::other)?;
    request.headers_mut().insert(header::HOST, host);
    let mut sender = sender;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if !response.status().is_success() {
        return Err(io::Error::other(format!("the tunnel was refused: {}", response.status())));
    }
    tokio::task::spawn_local(downward(response.into_body(), write, sender));
    Ok(Transport::Tunnel(near))
}

/// The client's bytes, until it says that there are no more.
struct Upward {
    read: ReadHalf<DuplexStream>,
    buffer: Vec<u8>,
}

impl Body for Upward {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let mut buffer = ReadBuf::new(&mut this.buffer);
        ready!(Pin::new(&mut this.read).poll_read(cx, &mut buffer))?;
        let bytes = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }
}

/// The target's bytes, until its answer ends; one that breaks off breaks the tunnel off. The sender is kept so that the
/// connection is.
async fn downward(mut body: Incoming, mut write: WriteHalf<DuplexStream>, _sender: http1::SendRequest<Upward>) {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        match frame {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if write.write_all(&data).await.is_err() {
                    return;
                }
            }
            Some(Err(_)) => return,
            None => {
                let _ = write.shutdown().await;
                return;
            }
        }
    }
}
