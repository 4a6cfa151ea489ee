//! The way to istiod: gRPC over TLS, verified by the mesh's root and istiod's name.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mtls::{CertSlot, ClientTls, RootSlot, SanMatch};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

/// Limit of one connection attempt.
const CONNECT: Duration = Duration::from_secs(10);

/// A lazily connected channel to istiod at `address` (`HOST:PORT`). `certificate`, once set, is shown to it.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) fn istiod(
    address: &str,
    name: &str,
    roots: Arc<RootSlot>,
    certificate: Arc<CertSlot>,
) -> io::Result<Channel> {
    let tls = ClientTls {
        cert: Some(certificate),
        roots: Some(roots),
        sans: vec![SanMatch::Exact(name.to_owned())],
        revoked: Vec::new(),
        sni: Some(name.to_owned()),
        alpn: vec![b"h2".to_vec()],
    };
    let config = tls.build().map_err(io::Error::other)?;
    let server = tls.server_name().map_err(io::Error::other)?;
    let target = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, config, server) = (target.clone(), config.clone(), server.clone());
        async move {
            let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await??;
            tcp.set_nodelay(true)?;
            let stream = TlsConnector::from(config).connect(server, tcp).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{name}"))
        .map_err(io::Error::other)?
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20);
    Ok(endpoint.connect_with_connector_lazy(connector))
}
