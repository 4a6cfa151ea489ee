//! TLS connections as tonic wants them, each with the certificate its client has shown.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use citadel::PeerCertificate;
use futures_util::Stream;
use mtls::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// A TLS connection and who is at its other end.
pub(crate) struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Option<PeerCertificate>,
}

impl Connected for Secured {
    type ConnectInfo = Option<PeerCertificate>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Limit of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Accepted connections waiting to be served.
const QUEUE: usize = 64;

/// Accepts connections; a failed handshake is that client's own matter.
pub(crate) fn accept(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
) -> impl Stream<Item = io::Result<Secured>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        loop {
            let (tcp, source) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
                    Ok(Ok(stream)) => {
                        let peer = stream.get_ref().1.peer_certificates().and_then(Peer::from_certs);
                        let peer = peer.map(|p| PeerCertificate(Arc::new(p)));
                        // Without a receiver the server has ended.
                        let _ = sender.send(Ok(Secured { stream, peer })).await;
                    }
                    Ok(Err(error)) => tracing::info!(%source, %error, "TLS handshake failed"),
                    Err(_) => tracing::info!(%source, "TLS handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}
