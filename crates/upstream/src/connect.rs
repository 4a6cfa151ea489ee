//! One connection to a host: TCP, then TLS when the host asks for it; or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Address;
use crate::cluster::{Cluster, Permit};
use crate::config::{Security, Tls};
use crate::error::Cause;
use crate::host::Host;
use crate::proxied::{self, Proxied};

/// A byte stream to a host.
#[derive(Debug)]
pub enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Pipe(UnixStream),
    /// TLS over a Unix socket.
    PipeTls(Box<TlsStream<UnixStream>>),
    /// A way through something that both of these carry.
    Tunnel(DuplexStream),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
            Self::Pipe(s) => Pin::new(s).poll_read(cx, buf),
            Self::PipeTls(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tunnel(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
            Self::Pipe(s) => Pin::new(s).poll_write(cx, buf),
            Self::PipeTls(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tunnel(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
            Self::Pipe(s) => Pin::new(s).poll_flush(cx),
            Self::PipeTls(s) => Pin::new(s).poll_flush(cx),
            Self::Tunnel(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
            Self::Pipe(s) => Pin::new(s).poll_shutdown(cx),
            Self::PipeTls(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tunnel(s) => Pin::new(s).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Pipe(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::PipeTls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Tunnel(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
            Self::Pipe(s) => s.is_write_vectored(),
            Self::PipeTls(s) => s.is_write_vectored(),
            Self::Tunnel(s) => s.is_write_vectored(),
        }
    }
}

/// A connection and what is known of it.
#[derive(Debug)]
pub struct Connected {
    /// The stream.
    pub stream: Transport,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// URI name of the verified server, inside TLS.
    pub peer_uri: Option<Arc<str>>,
    /// Its place among the cluster's connections.
    pub permit: Permit,
}

/// Which TLS configuration a connection uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// As configured.
    Configured,
    /// Mesh HTTP/1.1.
    MeshHttp1,
    /// Mesh HTTP/2.
    MeshHttp2,
}

/// Connects to a host within the cluster's connect timeout.
///
/// # Errors
/// Refused, unreachable, too slow, TLS not agreed, or too many connections.
pub async fn connect(
    cluster: &Cluster,
    host: &Host,
    alpn: Alpn,
    proxied: Option<&Proxied>,
) -> Result<Connected, Cause> {
    let permit = cluster.connection_permit().ok_or(Cause::Overflow)?;
    connect_with(cluster, host, alpn, proxied, permit).await
}

/// The same, with a place among the connections already taken.
pub(crate) async fn connect_with(
    cluster: &Cluster,
    host: &Host,
    alpn: Alpn,
    proxied: Option<&Proxied>,
    permit: Permit,
) -> Result<Connected, Cause> {
    cluster.stats.cx_total.fetch_add(1, Relaxed);
    host.stats.cx_total.fetch_add(1, Relaxed);
    let attempt = timeout(cluster.config.connect_timeout, open(cluster, host, alpn, proxied)).await;
    let result = attempt.unwrap_or_else(|_| {
        cluster.stats.cx_connect_timeout.fetch_add(1, Relaxed);
        Err(Cause::ConnectTimeout)
    });
    match result {
        Ok((stream, local, peer_uri)) => Ok(Connected { stream, local, peer_uri, permit }),
        Err(cause) => {
            cluster.stats.cx_connect_fail.fetch_add(1, Relaxed);
            host.stats.cx_connect_fail.fetch_add(1, Relaxed);
            Err(cause)
        }
    }
}

type Opened = (Transport, Option<SocketAddr>, Option<Arc<str>>);

async fn open(cluster: &Cluster, host: &Host, alpn: Alpn, proxied: Option<&Proxied>) -> Result<Opened, Cause> {
    match &host.address {
        Address::Ip(at) => open_tcp(cluster, host, *at, alpn, proxied).await,
        Address::Pipe(path) => open_pipe(cluster, host, path, alpn, proxied).await,
    }
}

async fn open_pipe(
    cluster: &Cluster,
    host: &Host,
    path: &str,
    alpn: Alpn,
    proxied: Option<&Proxied>,
) -> Result<Opened, Cause> {
    let failed = |e: io::Error| Cause::Connect(format!("{path}: {e}"));
    // Linux knows abstract names by a leading zero byte.
    let name = path.strip_prefix('@').map(|rest| format!("\0{rest}"));
    let mut pipe = UnixStream::connect(name.as_deref().unwrap_or(path)).await.map_err(failed)?;
    if let Some(version) = cluster.config.proxy_protocol {
        pipe.write_all(&proxied::header(version, proxied)).await.map_err(failed)?;
    }
    let Security::Tls(tls) = cluster.security(host) else {
        return Ok((Transport::Pipe(pipe), None, None));
    };
    let (stream, peer_uri) = secured(pipe, tls, alpn).await?;
    Ok((Transport::PipeTls(Box::new(stream)), None, peer_uri))
}

async fn open_tcp(
    cluster: &Cluster,
    host: &Host,
    at: SocketAddr,
    alpn: Alpn,
    proxied: Option<&Proxied>,
) -> Result<Opened, Cause> {
    let failed = |e: io::Error| Cause::Connect(e.to_string());
    let socket = net::connect_socket(cluster.config.bind, None, at.is_ipv6()).map_err(failed)?;
    let std: std::net::TcpStream = socket.into();
    let mut tcp = tokio::net::TcpSocket::from_std_stream(std).connect(at).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if let Some(keepalive) = &cluster.config.keepalive {
        net::set_keepalive(&tcp, keepalive.time, keepalive.interval, keepalive.probes).map_err(failed)?;
    }
    let local = tcp.local_addr().ok();
    if let Some(version) = cluster.config.proxy_protocol {
        tcp.write_all(&proxied::header(version, proxied)).await.map_err(failed)?;
    }
    let Security::Tls(tls) = cluster.security(host) else {
        return Ok((Transport::Plain(tcp), local, None));
    };
    let (stream, peer_uri) = secured(tcp, tls, alpn).await?;
    Ok((Transport::Tls(Box::new(stream)), local, peer_uri))
}

/// Agrees on TLS; with it comes the URI name of the server.
async fn secured<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tls: &Tls,
    alpn: Alpn,
) -> Result<(TlsStream<S>, Option<Arc<str>>), Cause> {
    let config = match alpn {
        Alpn::Configured => &tls.plain,
        Alpn::MeshHttp1 => &tls.mesh_http1,
        Alpn::MeshHttp2 => &tls.mesh_http2,
    };
    let stream = TlsConnector::from(config.clone())
        .connect(tls.name.clone(), stream)
        .await
        .map_err(|e| Cause::Tls(format!("TLS_error: {e}")))?;
    let peer = stream.get_ref().1.peer_certificates().and_then(mtls::Peer::from_certs);
    Ok((stream, peer.and_then(|p| p.uri_sans.into_iter().next()).map(Arc::from)))
}
