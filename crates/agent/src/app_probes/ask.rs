//! One question to the application, over HTTP, TCP or gRPC.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mtls::ClientTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Http;

/// As many redirects as a kubelet follows.
const MAX_REDIRECTS: usize = 10;
/// As much of an answer as a kubelet reads.
const MAX_BODY: usize = 10 << 10;
/// What comes from here is not captured: it is how the sidecar talks to its application.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// Headers that are of one connection, or that the probe sets itself.
const NOT_PASSED: [header::HeaderName; 6] =
    [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE, header::TE];

/// A connection to the application as its sidecar makes it.
///
/// # Errors
/// When nobody listens.
pub(super) async fn connect(pod: IpAddr, port: u16) -> io::Result<TcpStream> {
    let to = SocketAddr::new(pod, port);
    let socket = match pod {
        IpAddr::V4(_) => {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(SOURCE.into(), 0))?;
            socket
        }
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.connect(to).await.map_err(|e| io::Error::new(e.kind(), format!("cannot connect to {to}: {e}")))
}

/// Asks over HTTP; redirects within the application are followed, one to elsewhere is the answer.
///
/// # Errors
/// When the application does not answer in HTTP, or sends us round in circles.
pub(super) async fn http(asked: &Http, passed: &HeaderMap, pod: IpAddr) -> io::Result<(StatusCode, Bytes)> {
    let mut path = asked.path.clone();
    for _ in 0..=MAX_REDIRECTS {
        let response = exchange(asked, &path, passed, pod).await?;
        match onward(asked, &response.0, &path, pod) {
            Some(next) => path = next,
            None => return Ok((response.0.status(), response.1)),
        }
    }
    Err(io::Error::other(format!("more than {MAX_REDIRECTS} redirects")))
}

/// The path of a redirect that stays within the application.
fn onward(asked: &Http, response: &Response<()>, path: &str, pod: IpAddr) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let to = response.headers().get(header::LOCATION)?.to_str().ok()?;
    if to.starts_with('/') && !to.starts_with("//") {
        return Some(to.to_owned());
    }
    let uri: Uri = to.parse().ok()?;
    match uri.authority() {
        // Relative to the page that said it.
        None => Some(format!("{}/{to}", path.split('?').next()?.rsplit_once('/')?.0)),
        Some(authority) => {
            let here = authority.host().trim_matches(['[', ']']) == pod.to_string()
                && authority.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
                    == asked.port
                && (uri.scheme_str() == Some("https")) == asked.tls;
            here.then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string))
        }
    }
}

async fn exchange(asked: &Http, path: &str, passed: &HeaderMap, pod: IpAddr) -> io::Result<(Response<()>, Bytes)> {
    let at = SocketAddr::new(pod, asked.port).to_string();
    let host = match &asked.host {
        Some(host) => host.clone(),
        None => HeaderValue::from_str(&at).map_err(io::Error::other)?,
    };
    let mut request = Request::builder().uri(path).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    for (name, value) in passed.iter().filter(|(name, _)| !NOT_PASSED.contains(name)) {
        request.headers_mut().append(name, value.clone());
    }
    // What the probe says stands above what came with the question.
    for (name, _) in &asked.headers {
        request.headers_mut().remove(name);
    }
    for (name, value) in &asked.headers {
        request.headers_mut().append(name, value.clone());
    }
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let stream = connect(pod, asked.port).await?;
    if !asked.tls {
        return over(stream, request).await;
    }
    // A kubelet does not look at the certificate either.
    let tls = ClientTls {
        cert: None,
        roots: None,
        sans: Vec::new(),
        revoked: Vec::new(),
        sni: None,
        alpn: vec![b"http/1.1".to_vec()],
    };
    let name = tls.server_name().map_err(io::Error::other)?;
    let config = tls.build().map_err(io::Error::other)?;
    over(TlsConnector::from(config).connect(name, stream).await?, request).await
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> io::Result<(Response<()>, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (parts, body) = response.into_parts();
        Ok::<_, io::Error>((Response::from_parts(parts, ()), beginning(body).await?))
    };
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        // An error of the connection is also one of the answer.
        _ = &mut connection => answer.await,
    }
}

/// The first part of a body: nobody shows more of it.
async fn beginning(mut body: Incoming) -> io::Result<Bytes> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() >= MAX_BODY {
            read.truncate(MAX_BODY);
            break;
        }
    }
    Ok(read.freeze())
}

/// Asks gRPC's health service; only `SERVING` is healthy.
///
/// # Errors
/// When the application has no such service, or does not know the one asked for.
pub(super) async fn grpc(pod: IpAddr, port: u16, service: &str) -> io::Result<(StatusCode, Bytes)> {
    let to = SocketAddr::new(pod, port);
    let connector = tower::service_fn(move |_: Uri| async move { connect(pod, port).await.map(TokioIo::new) });
    let endpoint = Endpoint::from_shared(format!("http://{to}")).map_err(io::Error::other)?;
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| io::Error::other(cause(&e)))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    let status =
        answer.map_err(|e| io::Error::other(format!("{:?}: {}", e.code(), e.message())))?.into_inner().status();
    Ok(match status {
        ServingStatus::Serving => (StatusCode::OK, Bytes::new()),
        other => (StatusCode::INTERNAL_SERVER_ERROR, format!("the service is {}\n", other.as_str_name()).into()),
    })
}

/// What lies at the ground of an error.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
