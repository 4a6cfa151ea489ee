//! A client's byte stream: plain, over the network or a Unix socket, or TLS.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// A client's byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// A Unix socket.
    Pipe(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Waits until there is something to read, or the end, and looks at it without taking it; what is inside TLS cannot
    /// be looked at.
    pub(crate) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.peek(buffer).await,
            Self::Pipe(stream) => stream.async_io(Interest::READABLE, || net::peek(stream, buffer)).await,
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the other end will say no more; for when there is something to read.
    pub(crate) async fn is_finished(&self) -> bool {
        let ready = match self {
            Self::Plain(stream) => stream.ready(Interest::READABLE).await,
            Self::Pipe(stream) => stream.ready(Interest::READABLE).await,
            Self::Tls(_) => return false,
        };
        ready.is_ok_and(|ready| ready.is_read_closed())
    }

    /// Ends a connection whose bytes are unwanted, `delayed` at the most.
    pub(crate) async fn dismiss(mut self, delayed: Option<Duration>) {
        let mut farewell = Farewell::new(delayed);
        // How it ends is no news.
        let _ = std::future::poll_fn(|cx| farewell.poll(&mut self, cx)).await;
    }
}

/// The end of a connection whose peer may still be sending. The kernel would reset one with bytes unread, and the peer might
/// lose what we said last: we end our direction, and read and throw away until it has ended its own, for a while.
#[derive(Debug)]
pub(crate) struct Farewell {
    delayed: Option<Duration>,
    /// Runs once our direction has ended.
    limit: Option<Pin<Box<Sleep>>>,
    thrown_away: usize,
}

impl Farewell {
    pub(crate) fn new(delayed: Option<Duration>) -> Self {
        Self { delayed, limit: None, thrown_away: 0 }
    }

    pub(crate) fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        /// Who sends so much meanwhile does not listen.
        const MOST: usize = 16 << 20;
        if self.limit.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let Some(delayed) = self.delayed else { return Poll::Ready(Ok(())) };
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(delayed)));
        let mut buffer = [MaybeUninit::uninit(); 4096];
        while limit.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::uninit(&mut buffer);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            self.thrown_away += buffer.filled().len();
            if read.is_err() || buffer.filled().is_empty() || self.thrown_away > MOST {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Pipe(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Pipe(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Pipe(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Pipe(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Pipe(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Pipe(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
        }
    }
}
