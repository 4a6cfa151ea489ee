//! The load client for what lasts: gRPC streams, TCP connections and upgraded HTTP/1 connections (as WebSocket is begun)
//! that carry one message after the other at a fixed rate, each echoed before the next is sent.
//!
//! A stream may end in order: the server says [`FAREWELL`], the client sends nothing more, gets what it is still owed,
//! and closes; then it opens another one. Everything else that ends a stream is a failure, and so is a message that is
//! not echoed.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::report::{Report, Tally};

/// What a server says before it ends.
pub(crate) const FAREWELL: &str = "bye";
/// A client that understands [`FAREWELL`] says so in this header.
pub(crate) const FAREWELL_HEADER: &str = "x-app-farewell";
/// The longest message that is waited for.
const MAX_MESSAGE: usize = 64 << 10;

/// What to keep open, and how much to send.
#[derive(Clone, Debug)]
pub(crate) struct StreamOptions {
    /// `http://HOST:PORT/SERVICE/METHOD` for gRPC, `tcp://HOST:PORT` for TCP, `ws://HOST:PORT/PATH` for an upgrade.
    pub(crate) url: Uri,
    /// At the same time.
    pub(crate) streams: usize,
    /// Messages a second in all.
    pub(crate) rate: f64,
    /// How long.
    pub(crate) duration: Duration,
    /// The longest wait for one echo, the opening of a stream included.
    pub(crate) timeout: Duration,
}

/// Keeps the streams open until the time is over.
pub(crate) async fn load(options: StreamOptions) -> Report {
    let started = Instant::now();
    let tally: Rc<RefCell<Tally>> = Rc::default();
    let local = LocalSet::new();
    let options = Rc::new(options);
    let tasks: Vec<_> = (0..options.streams.max(1))
        .map(|index| local.spawn_local(keep(options.clone(), index, started, tally.clone())))
        .collect();
    local
        .run_until(async {
            for task in tasks {
                // A task that panicked has counted what it did.
                let _ = task.await;
            }
        })
        .await;
    tally.borrow_mut().take(started.elapsed())
}

/// One stream after the other.
async fn keep(options: Rc<StreamOptions>, index: usize, started: Instant, tally: Rc<RefCell<Tally>>) {
    let mut open: Option<Open> = None;
    for turn in 0_u64.. {
        let place = turn as f64 * options.streams.max(1) as f64 + index as f64;
        let at = started + Duration::from_secs_f64(place / options.rate.max(0.001));
        if at.duration_since(started) >= options.duration {
            break;
        }
        idle_until(at, &mut open, &tally).await;
        let text = format!("{index}.{turn}");
        match timeout(options.timeout, exchange(&options, &mut open, &text, &tally)).await {
            Ok(Ok(pod)) => tally.borrow_mut().answered("ok", true, None, pod.as_deref(), at.elapsed()),
            Ok(Err(error)) => {
                tally.borrow_mut().failed(&error.to_string());
                open = None;
            }
            Err(_) => {
                tally.borrow_mut().failed(&format!("no echo in {:?}", options.timeout));
                open = None;
            }
        }
    }
    if let Some(open) = open.take()
        && let Err(error) = open.finish().await
    {
        tally.borrow_mut().failed(&format!("the last stream did not end in order: {error}"));
    }
}

/// Between two messages the server may say goodbye; a stream that breaks then is a failure as well.
async fn idle_until(at: Instant, open: &mut Option<Open>, tally: &RefCell<Tally>) {
    let Some(stream) = open else { return tokio::time::sleep_until(at.into()).await };
    let heard = tokio::select! {
        heard = stream.receive() => heard,
        () = tokio::time::sleep_until(at.into()) => return,
    };
    let ended = match heard {
        Ok(Some(text)) if text == FAREWELL => match open.take() {
            Some(stream) => stream.finish().await,
            None => Ok(()),
        },
        Ok(Some(text)) => Err(odd(&format!("unasked for: {text}"))),
        Ok(None) => Err(odd("the server ended the stream without a farewell")),
        Err(error) => Err(error),
    };
    *open = None;
    match ended {
        Ok(()) => tally.borrow_mut().moved(),
        Err(error) => tally.borrow_mut().failed(&error.to_string()),
    }
    tokio::time::sleep_until(at.into()).await;
}

/// One message and its echo; the pod that echoed it, when it says so.
async fn exchange(
    options: &StreamOptions,
    open: &mut Option<Open>,
    text: &str,
    tally: &RefCell<Tally>,
) -> io::Result<Option<String>> {
    let stream = match open {
        Some(stream) => stream,
        None => {
            tally.borrow_mut().opened();
            open.insert(Open::new(&options.url).await?)
        }
    };
    stream.send(text).await?;
    let mut leaving = false;
    loop {
        match stream.receive().await? {
            Some(heard) if heard == FAREWELL => leaving = true,
            Some(heard) if heard == text => break,
            Some(other) => return Err(odd(&format!("sent {text}, got {other}"))),
            None => return Err(odd("the server ended the stream and still owed an echo")),
        }
    }
    let pod = stream.pod.clone();
    if leaving && let Some(stream) = open.take() {
        stream.finish().await?;
        tally.borrow_mut().moved();
    }
    Ok(pod)
}

fn odd(text: &str) -> io::Error {
    io::Error::other(text.to_owned())
}

/// A stream that is open.
struct Open {
    way: Way,
    pod: Option<String>,
    buffer: BytesMut,
}

/// Both directions of a connection.
trait Bytewise: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Bytewise for T {}

enum Way {
    Bytes(Box<dyn Bytewise>),
    Grpc { messages: mpsc::UnboundedSender<Bytes>, answers: Incoming, trailers: Option<HeaderMap> },
}

impl Open {
    async fn new(url: &Uri) -> io::Result<Self> {
        let authority = url.authority().ok_or_else(|| odd("the URL names no host"))?;
        let target = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(&target)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot connect to {target}: {e}")))?;
        stream.set_nodelay(true)?;
        let (way, pod) = match url.scheme_str() {
            Some("tcp") => (Way::Bytes(Box::new(stream)), None),
            Some("ws") => upgrade(url, stream).await?,
            _ => grpc(url, stream).await?,
        };
        Ok(Self { way, pod, buffer: BytesMut::new() })
    }

    async fn send(&mut self, text: &str) -> io::Result<()> {
        match &mut self.way {
            Way::Bytes(stream) => stream.write_all(format!("{text}\n").as_bytes()).await,
            Way::Grpc { messages, .. } => {
                messages.send(framed(text)).map_err(|_| odd("the stream takes no more messages"))
            }
        }
    }

    /// The next message; `None` when the server has ended the stream. May be given up between two messages.
    async fn receive(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(message) = self.buffered() {
                return Ok(Some(message));
            }
            if self.buffer.len() > MAX_MESSAGE {
                return Err(odd("the message is too long"));
            }
            match &mut self.way {
                Way::Bytes(stream) => {
                    if stream.read_buf(&mut self.buffer).await? == 0 {
                        return Ok(None);
                    }
                }
                Way::Grpc { answers, trailers, .. } => match answers.frame().await {
                    None => return Ok(None),
                    Some(frame) => match frame.map_err(explain)?.into_data() {
                        Ok(data) => self.buffer.extend_from_slice(&data),
                        Err(other) => *trailers = other.into_trailers().ok(),
                    },
                },
            }
        }
    }

    fn buffered(&mut self) -> Option<String> {
        let text = match &self.way {
            Way::Bytes(_) => {
                let end = self.buffer.iter().position(|b| *b == b'\n')?;
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                line
            }
            Way::Grpc { .. } => {
                let length = self.buffer.get(1..5).map(|mut b| b.get_u32())?;
                let whole = usize::try_from(length).ok()?.checked_add(5)?;
                if self.buffer.len() < whole {
                    return None;
                }
                let mut message = self.buffer.split_to(whole);
                message.advance(5);
                message
            }
        };
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends our side, and waits for the server's end; only a farewell may still come.
    async fn finish(mut self) -> io::Result<()> {
        const LIMIT: Duration = Duration::from_secs(5);
        match &mut self.way {
            Way::Bytes(stream) => stream.shutdown().await?,
            // The body ends with its last sender.
            Way::Grpc { messages, .. } => *messages = mpsc::unbounded_channel().0,
        }
        loop {
            match timeout(LIMIT, self.receive()).await {
                Err(_) => return Err(odd("the server does not end the stream that we have ended")),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(Some(text))) if text == FAREWELL => {}
                Ok(Ok(Some(text))) => return Err(odd(&format!("unasked for: {text}"))),
                Ok(Ok(None)) => break,
            }
        }
        match &self.way {
            Way::Bytes(_) => Ok(()),
            Way::Grpc { trailers, .. } => {
                let status = trailers.as_ref().and_then(|t| t.get("grpc-status")).and_then(|v| v.to_str().ok());
                if status == Some("0") { Ok(()) } else { Err(odd(&format!("grpc-status {status:?} at the end"))) }
            }
        }
    }
}

/// Begins as WebSocket does; what follows are lines.
async fn upgrade(url: &Uri, stream: TcpStream) -> io::Result<(Way, Option<String>)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(explain)?;
    tokio::task::spawn_local(connection.with_upgrades());
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = url.authority().map_or("", http::uri::Authority::as_str);
    let request =
        Request::get(path).header("host", host).header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(explain)?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(odd(&format!("answered {} to an upgrade", response.status())));
    }
    let pod = response.headers().get("x-app-pod").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let upgraded = hyper::upgrade::on(response).await.map_err(explain)?;
    Ok((Way::Bytes(Box::new(TokioIo::new(upgraded))), pod))
}

/// Opens a gRPC stream on a connection of its own.
async fn grpc(url: &Uri, stream: TcpStream) -> io::Result<(Way, Option<String>)> {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(explain)?;
    tokio::task::spawn_local(connection);
    let (messages, inbox) = mpsc::unbounded_channel::<Bytes>();
    let frames = futures_util::stream::unfold(inbox, |mut inbox| async move {
        let message = inbox.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(message)), inbox))
    });
    let mut request = Request::post(url.clone()).body(StreamBody::new(frames.boxed())).map_err(io::Error::other)?;
    *request.version_mut() = Version::HTTP_2;
    let fixed = [("content-type", "application/grpc"), ("te", "trailers"), (FAREWELL_HEADER, "true")];
    for (name, value) in fixed {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let response = sender.send_request(request).await.map_err(explain)?;
    let (head, answers) = response.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    if head.status != http::StatusCode::OK || text("grpc-status").is_some_and(|s| s != "0") {
        let why = format!("answered {}, grpc-status {:?}", head.status, text("grpc-status"));
        return Err(odd(&why));
    }
    let pod = text("x-app-pod").map(str::to_owned);
    Ok((Way::Grpc { messages, answers, trailers: None }, pod))
}

/// A gRPC message, uncompressed.
pub(crate) fn framed(text: &str) -> Bytes {
    let mut framed = BytesMut::with_capacity(text.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    framed.put_slice(text.as_bytes());
    framed.freeze()
}

/// An error with its causes, since hyper's own text says only where it was.
fn explain(error: hyper::Error) -> io::Error {
    io::Error::other(crate::client::explain(error).to_string())
}

#[cfg(test)]
mod tests;
