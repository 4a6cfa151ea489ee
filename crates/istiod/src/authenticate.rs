//! Tokens of a cluster, judged by its API server before a request is served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use citadel::Judged;
use http::{HeaderMap, Request, header};
use kubernetes::Cluster;
use mtls::SpiffeId;
use tower::{Layer, Service};

/// Whom tokens must be for.
const AUDIENCE: &str = "istio-ca";
/// A token longer than this is not shown to anybody.
const MAX_TOKEN: usize = 16 * 1024;

/// Asks a cluster about the tokens of requests; without one, nothing is asked.
#[derive(Clone, Debug)]
pub(crate) struct Authenticate {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) trust_domain: Arc<str>,
}

impl<S> Layer<S> for Authenticate {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticated { inner, by: self.clone() }
    }
}

/// The service behind.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated<S> {
    inner: S,
    by: Authenticate,
}

impl<S, B> Service<Request<B>> for Authenticated<S>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        // The one that was asked whether it is ready is the one to call.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let by = self.by.clone();
        Box::pin(async move {
            if let (Some(cluster), Some(token)) = (&by.cluster, bearer(request.headers())) {
                let judged = judge(cluster, &token, &by.trust_domain).await;
                request.extensions_mut().insert(Judged(judged));
            }
            inner.call(request).await
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(|token| token.trim().to_owned())
}

async fn judge(cluster: &Cluster, token: &str, trust_domain: &str) -> Result<SpiffeId, String> {
    if token.len() > MAX_TOKEN {
        return Err("the token is too long".to_owned());
    }
    match cluster.review_token(token, AUDIENCE).await {
        Ok(Some((namespace, account))) => Ok(SpiffeId::new(trust_domain, &namespace, &account)),
        Ok(None) => Err(format!("the API server does not accept the token for the audience {AUDIENCE}")),
        Err(error) => Err(format!("the token cannot be checked now: {error}")),
    }
}
