//! Pages of ports inside pods, through the API server: also those that listen on a pod's loopback address.

use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::cluster::{Cluster, ClusterError};

/// The largest page: a dump of a large mesh.
const MAX_PAGE: usize = 256 << 20;

impl Cluster {
    /// A connection to a port on the loopback address of a pod.
    ///
    /// # Errors
    /// When the API server refuses. That nobody listens there shows on the connection.
    pub async fn forward(
        &self,
        (namespace, pod): (&str, &str),
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, ClusterError> {
        let broken = |e: &dyn std::fmt::Display| {
            ClusterError::Unreachable(format!("port {port} of pod {namespace}/{pod} cannot be reached: {e}"))
        };
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut forward = pods.portforward(pod, &[port]).await.map_err(|e| broken(&e))?;
        forward.take_stream(port).ok_or_else(|| broken(&"no stream"))
    }

    /// The last lines of a container's log.
    ///
    /// # Errors
    /// When the API server refuses or does not answer.
    pub async fn log(
        &self,
        (namespace, pod): (&str, &str),
        container: &str,
        lines: i64,
    ) -> Result<String, ClusterError> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let wanted =
            LogParams { container: Some(container.to_owned()), tail_lines: Some(lines), ..LogParams::default() };
        let broken = |e| ClusterError::Unreachable(format!("no log of {container} in pod {namespace}/{pod}: {e}"));
        pods.logs(pod, &wanted).await.map_err(broken)
    }

    /// The body of a page that is asked with `content`. `Err` within `Ok`: the pod answers, with another status than 200.
    ///
    /// # Errors
    /// When the API server refuses, or nobody answers in the pod.
    pub async fn page(
        &self,
        (namespace, pod): (&str, &str),
        port: u16,
        method: Method,
        path: &str,
        content: &str,
    ) -> Result<Result<Vec<u8>, String>, ClusterError> {
        let broken = |e: &dyn std::fmt::Display| {
            ClusterError::Unreachable(format!("port {port} of pod {namespace}/{pod} cannot be asked: {e}"))
        };
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut forward = pods.portforward(pod, &[port]).await.map_err(|e| broken(&e))?;
        let stream = forward.take_stream(port).ok_or_else(|| broken(&"no stream"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<bytes::Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|e| broken(&e))?;
        let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        let request = request.body(Full::from(content.to_owned())).map_err(|e| broken(&e))?;
        // What is sent to a connection just as another thread ends it may be lost without a word: it has the request first.
        let response = sender.send_request(request);
        let driver = tokio::spawn(connection);
        let response = response.await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await.map_err(|e| broken(&e))?;
        driver.abort();
        let body = body.to_bytes().to_vec();
        if status.is_success() {
            return Ok(Ok(body));
        }
        Ok(Err(format!("{}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim())))
    }
}
