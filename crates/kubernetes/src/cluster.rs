//! The connection to an API server: reading and writing single objects.

use std::path::PathBuf;

use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::kind::Kind;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Who writes, for server-side apply.
const MANAGER: &str = "meltemi";

/// Why the API server was not reached, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no way to find it.
    #[error("no Kubernetes API server is known: {0}; name a file with --kubeconfig or in KUBECONFIG")]
    Unknown(String),
    /// It does not answer.
    #[error("the Kubernetes API server does not answer: {0}")]
    Unreachable(String),
    /// It says no.
    #[error("the Kubernetes API server refuses {what}: {reason}")]
    Refused {
        /// Method and path.
        what: String,
        /// Its words.
        reason: String,
        /// HTTP status.
        code: u16,
    },
}

impl ClusterError {
    /// The object, or its kind, does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }
}

/// Where an object, or the list of a kind, is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    /// The list of a kind: `api_version` as in objects, `plural` as in paths; without a namespace: of the whole cluster.
    pub fn list(api_version: &str, plural: &str, namespace: Option<&str>) -> Self {
        let root = if api_version.contains('/') { "apis" } else { "api" };
        match namespace {
            Some(namespace) => Self(format!("/{root}/{api_version}/namespaces/{namespace}/{plural}")),
            None => Self(format!("/{root}/{api_version}/{plural}")),
        }
    }

    /// An object of the list.
    #[must_use]
    pub fn object(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    /// The status of an object.
    #[must_use]
    pub fn status(&self) -> Self {
        Self(format!("{}/status", self.0))
    }
}

/// An API server, and where our own objects are kept there. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// The server's address.
    pub server: String,
    /// Namespace of the control plane.
    pub namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects as `kubectl` would (KUBECONFIG, then the home folder), or as a pod does; `file` and `context` choose.
    ///
    /// # Errors
    /// When no server is known. Nothing is sent yet.
    pub async fn connect(
        file: Option<PathBuf>,
        context: Option<String>,
        namespace: &str,
    ) -> Result<Self, ClusterError> {
        let unknown = |e: &dyn std::fmt::Display| ClusterError::Unknown(e.to_string());
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = match file {
            Some(file) => {
                let read = Kubeconfig::read_from(&file).map_err(|e| unknown(&e))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|e| unknown(&e))?
            }
            None if options.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|e| unknown(&e))?,
            None => Config::infer().await.map_err(|e| unknown(&e))?,
        };
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|e| unknown(&e))?;
        Ok(Self { client, server, namespace: namespace.to_owned() })
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// What the server says about its own version.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn version(&self) -> Result<Value, ClusterError> {
        self.send(Method::GET, "/version", None, &Value::Null).await
    }

    /// An object; `None` when there is none.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn read(&self, place: &Place) -> Result<Option<Value>, ClusterError> {
        match self.send(Method::GET, &place.0, None, &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A new object in a list.
    ///
    /// # Errors
    /// When it exists already (a conflict), or the server refuses or does not answer.
    pub async fn create(&self, list: &Place, object: &Value) -> Result<Value, ClusterError> {
        self.send(Method::POST, &list.0, Some("application/json"), object).await
    }

    /// Replaces an object; its `resourceVersion` must be the one in force.
    ///
    /// # Errors
    /// When somebody else was faster (a conflict), or the server refuses or does not answer.
    pub async fn replace(&self, place: &Place, object: &Value) -> Result<Value, ClusterError> {
        self.send(Method::PUT, &place.0, Some("application/json"), object).await
    }

    /// Server-side apply: the object's fields are ours from now on.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn apply(&self, place: &Place, object: &Value) -> Result<Value, ClusterError> {
        let path = format!("{}?fieldManager={MANAGER}&force=true", place.0);
        self.send(Method::PATCH, &path, Some("application/apply-patch+yaml"), object).await
    }

    /// JSON patch (RFC 6902).
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn patch(&self, place: &Place, operations: &Value) -> Result<Value, ClusterError> {
        self.send(Method::PATCH, &place.0, Some("application/json-patch+json"), operations).await
    }

    /// JSON merge patch (RFC 7386): lists are replaced as a whole. With `metadata.resourceVersion` only that version of
    /// the object is changed.
    ///
    /// # Errors
    /// When somebody else was faster (a conflict), or the server refuses or does not answer.
    pub async fn merge(&self, place: &Place, part: &Value) -> Result<Value, ClusterError> {
        self.send(Method::PATCH, &place.0, Some("application/merge-patch+json"), part).await
    }

    /// Deletes an object; whether there was one.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn delete(&self, place: &Place) -> Result<bool, ClusterError> {
        match self.send(Method::DELETE, &place.0, None, &Value::Null).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects of a list; with `label` those that carry it (`key=value`).
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn all(&self, list: &Place, label: Option<&str>) -> Result<Vec<Value>, ClusterError> {
        let path = label.map_or_else(|| list.0.clone(), |label| format!("{}?labelSelector={label}", list.0));
        let mut answer = self.send(Method::GET, &path, None, &Value::Null).await?;
        Ok(answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Passes every object of a kind to `each`, page by page; of its versions the first that is served is asked. A kind
    /// that is not installed has none.
    ///
    /// # Errors
    /// When the server refuses or does not answer; some objects may have been passed then.
    pub async fn each(&self, kind: &Kind, mut each: impl FnMut(Value)) -> Result<(), ClusterError> {
        for version in kind.versions {
            let api = if kind.group.is_empty() { (*version).to_owned() } else { format!("{}/{version}", kind.group) };
            match self.pages(&Place::list(&api, kind.plural, None), &api, kind.kind, &mut each).await {
                Err(error) if error.is_absent() => {}
                done => return done,
            }
        }
        Ok(())
    }

    async fn pages(
        &self,
        list: &Place,
        api: &str,
        kind: &str,
        each: &mut impl FnMut(Value),
    ) -> Result<(), ClusterError> {
        let mut next = String::new();
        loop {
            let path = format!("{}?limit={PAGE}&continue={next}", list.0);
            let mut page = self.send(Method::GET, &path, None, &Value::Null).await?;
            next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            for mut object in page["items"].as_array_mut().map(std::mem::take).unwrap_or_default() {
                object["apiVersion"] = api.into();
                object["kind"] = kind.into();
                each(object);
            }
            if next.is_empty() {
                return Ok(());
            }
        }
    }

    async fn send(&self, method: Method, path: &str, kind: Option<&str>, body: &Value) -> Result<Value, ClusterError> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        if let Some(kind) = kind {
            request = request.header(http::header::CONTENT_TYPE, kind);
        }
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = request.body(body).map_err(|e| ClusterError::Unreachable(e.to_string()))?;
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) => {
                ClusterError::Refused { what, reason: status.message.clone(), code: status.code }
            }
            other => ClusterError::Unreachable(other.to_string()),
        })
    }
}
