//! The way into a mesh on a cluster: its API server.

use kubernetes::{Cluster, ClusterError, Place};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::access::{Access, Method, Pod};

/// istiod's debug pages.
const DEBUG: u16 = 15014;

/// A cluster. The runtime belongs to the connection: it lives between questions.
pub(crate) struct ByCluster {
    runtime: Runtime,
    cluster: Cluster,
}

impl ByCluster {
    /// The cluster that kubectl would ask.
    ///
    /// # Errors
    /// When none is known.
    pub(crate) fn connect(access: &installer::Access) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let (file, context) = (access.kubeconfig.clone(), access.context.clone());
        let cluster = runtime.block_on(Cluster::connect(file, context, &access.namespace));
        Ok(Self { runtime, cluster: cluster.map_err(|e| e.to_string())? })
    }

    /// Asks what pods and pages do not cover.
    ///
    /// # Errors
    /// The server's words.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(&Cluster) -> Result<T, ClusterError>) -> Result<T, String> {
        self.runtime.block_on(question(&self.cluster)).map_err(|e| e.to_string())
    }

    /// The address of the API server.
    pub(crate) fn server(&self) -> &str {
        &self.cluster.server
    }

    fn list(&self, namespace: Option<&str>, label: Option<&str>) -> Result<Vec<Pod>, String> {
        let list = Place::list("v1", "pods", namespace);
        let all = self.runtime.block_on(self.cluster.all(&list, label)).map_err(|e| e.to_string())?;
        Ok(all.iter().map(pod).collect())
    }

    fn page(&self, pod: &Pod, method: http::Method, port: u16, path: &str) -> Result<Vec<u8>, String> {
        let name = (pod.namespace.as_str(), pod.name.as_str());
        let page = self.cluster.page(name, port, method, path, "");
        let page = self.runtime.block_on(page).map_err(|e| e.to_string())?;
        page.map_err(|said| format!("{} says {said}", pod.proxy_id()))
    }
}

impl Access for ByCluster {
    fn pods(&self) -> Result<Vec<Pod>, String> {
        self.list(None, None)
    }

    fn pod_page(&self, pod: &Pod, method: Method, port: u16, path: &str) -> Result<Vec<u8>, String> {
        let method = if method == Method::Get { http::Method::GET } else { http::Method::POST };
        self.page(pod, method, port, path)
    }

    /// Each replica knows its own proxies: their lists are one.
    fn istiod_page(&self, path: &str) -> Result<Vec<u8>, String> {
        let istiods = self.list(Some(&self.cluster.namespace), Some("app=istiod"))?;
        if istiods.is_empty() {
            return Err(format!("no istiod runs in namespace {}", self.cluster.namespace));
        }
        let ready = istiods.iter().filter(|p| p.ready);
        joined(ready.map(|p| self.page(p, http::Method::GET, DEBUG, path)).collect())
    }

    fn istiods(&self, pod: Option<&str>, selector: &str) -> Result<Vec<String>, String> {
        let namespace = &self.cluster.namespace;
        let all = self.list(Some(namespace), Some(selector))?;
        let names: Vec<String> = all.into_iter().map(|p| p.name).filter(|n| pod.is_none_or(|p| p == n)).collect();
        match (names.is_empty(), pod) {
            (false, _) => Ok(names),
            (_, Some(pod)) => Err(format!("there is no pod {pod} with the labels {selector} in namespace {namespace}")),
            (_, None) => Err(format!("there is no pod with the labels {selector} in namespace {namespace}")),
        }
    }

    fn control(&self, istiod: &str, port: u16, path: &str, content: Option<&str>) -> Result<Vec<u8>, String> {
        let method = if content.is_some() { http::Method::PUT } else { http::Method::GET };
        let name = (self.cluster.namespace.as_str(), istiod);
        let page = self.ask(async |c| c.page(name, port, method, path, content.unwrap_or_default()).await)?;
        page.map_err(|said| format!("{istiod} says {said}"))
    }

    fn log(&self, pod: Option<&Pod>, container: &str, lines: u32) -> Result<Vec<u8>, String> {
        let (pods, container) = match pod {
            Some(pod) => (vec![pod.clone()], container),
            None => (self.list(Some(&self.cluster.namespace), Some("app=istiod"))?, "discovery"),
        };
        let mut all = String::new();
        for pod in pods {
            let name = (pod.namespace.as_str(), pod.name.as_str());
            all.push_str(&self.ask(async |cluster| cluster.log(name, container, lines.into()).await)?);
        }
        Ok(all.into_bytes())
    }

    fn objects(&self, api_version: &str, plural: &str) -> Result<Vec<Value>, String> {
        let list = Place::list(api_version, plural, None);
        self.ask(async |cluster| match cluster.all(&list, None).await {
            // A kind that is not installed has no objects.
            Err(error) if error.is_absent() => Ok(Vec::new()),
            other => other,
        })
    }

    fn tunnel(&self, pod: &Pod, port: u16, listener: &std::net::TcpListener) -> Option<Result<(), String>> {
        Some(self.runtime.block_on(async {
            let listener = listener.try_clone().and_then(|l| {
                l.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(l)
            });
            let listener = listener.map_err(|e| e.to_string())?;
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                let (cluster, pod) = (self.cluster.clone(), pod.clone());
                tokio::spawn(async move {
                    match cluster.forward((&pod.namespace, &pod.name), port).await {
                        // Either side may end when it likes.
                        Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut stream, &mut far).await),
                        Err(error) => eprintln!("{error}"),
                    }
                });
            }
        }))
    }
}

/// One answer of several: lists are joined, of others the first good one counts.
fn joined(answers: Vec<Result<Vec<u8>, String>>) -> Result<Vec<u8>, String> {
    let mut rows: Vec<Value> = Vec::new();
    let mut first: Option<Vec<u8>> = None;
    let mut last = Err("no istiod is ready".to_owned());
    let mut lists = true;
    for answer in answers {
        match answer {
            Ok(body) => {
                match serde_json::from_slice(&body) {
                    Ok(Value::Array(more)) => {
                        for row in more {
                            if !rows.contains(&row) {
                                rows.push(row);
                            }
                        }
                    }
                    _ => lists = false,
                }
                first.get_or_insert(body);
            }
            Err(reason) => last = Err(reason),
        }
    }
    match first {
        Some(_) if lists => Ok(Value::Array(rows).to_string().into_bytes()),
        Some(body) => Ok(body),
        None => last,
    }
}

fn pod(object: &Value) -> Pod {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
    let sidecars = list("/spec/initContainers").filter(|c| c["restartPolicy"] == "Always");
    let containers = list("/spec/containers").chain(sidecars);
    let name = text("/metadata/name");
    Pod {
        namespace: text("/metadata/namespace"),
        workload: workload(object).unwrap_or_else(|| name.clone()),
        name,
        labels: labels.collect(),
        ip: text("/status/podIP"),
        ready: list("/status/conditions").any(|c| c["type"] == "Ready" && c["status"] == "True"),
        containers: containers.filter_map(|c| Some(c["name"].as_str()?.to_owned())).collect(),
    }
}

/// A Deployment's name is that of its ReplicaSet without the hash of its template.
fn workload(object: &Value) -> Option<String> {
    let owner = object["metadata"]["ownerReferences"].as_array()?.iter().find(|o| o["controller"] == true)?;
    let name = owner["name"].as_str()?;
    let hash = object["metadata"]["labels"]["pod-template-hash"].as_str();
    let short = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    Some(short.filter(|_| owner["kind"] == "ReplicaSet").unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests;
