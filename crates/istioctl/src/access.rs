//! How commands reach a mesh that runs: its pods, their pages, and istiod's.

use std::collections::BTreeMap;

use serde_json::Value;

/// A way into a mesh. A cluster's goes through its API server, a laptop mesh's through its control socket.
pub trait Access {
    /// All pods, of one namespace or of all.
    ///
    /// # Errors
    /// A sentence, when the mesh cannot be asked.
    fn pods(&self) -> Result<Vec<Pod>, String>;

    /// A page of a port inside a pod, on its loopback address.
    ///
    /// # Errors
    /// A sentence, when the pod does not answer or refuses.
    fn pod_page(&self, pod: &Pod, method: Method, port: u16, path: &str) -> Result<Vec<u8>, String>;

    /// A debug page of istiod, such as `/debug/syncz`.
    ///
    /// # Errors
    /// A sentence, when istiod does not answer or refuses.
    fn istiod_page(&self, path: &str) -> Result<Vec<u8>, String>;

    /// The last lines of a container's log; without a pod, of istiod's.
    ///
    /// # Errors
    /// A sentence, when there is none.
    fn log(&self, pod: Option<&Pod>, container: &str, lines: u32) -> Result<Vec<u8>, String>;

    /// All objects of a kind, as the API server has them.
    ///
    /// # Errors
    /// A sentence, when the server refuses or there is none.
    fn objects(&self, _api_version: &str, plural: &str) -> Result<Vec<Value>, String> {
        Err(format!(
            "{plural} are kept by an API server, which a laptop mesh has not; name a cluster with --kubeconfig"
        ))
    }

    /// Names of the istiods that a pod's name or labels mean; a laptop mesh has one.
    ///
    /// # Errors
    /// A sentence, when there is none.
    fn istiods(&self, _pod: Option<&str>, _selector: &str) -> Result<Vec<String>, String> {
        Ok(vec!["istiod".to_owned()])
    }

    /// A page of an istiod's ControlZ, on its loopback address; with content it is given that (`PUT`).
    ///
    /// # Errors
    /// A sentence, when istiod does not answer or refuses.
    fn control(&self, _istiod: &str, _port: u16, _path: &str, _content: Option<&str>) -> Result<Vec<u8>, String> {
        Err("this mesh has no way to istiod's ControlZ".to_owned())
    }

    /// Carries connections of `listener` to a port of a pod until the process ends; `None` where only pages can be had.
    fn tunnel(&self, _pod: &Pod, _port: u16, _listener: &std::net::TcpListener) -> Option<Result<(), String>> {
        None
    }
}

/// How a page is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It only looks.
    Get,
    /// It changes something.
    Post,
}

/// A pod, as far as commands need it.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What made it: a Deployment's name, or its own.
    pub workload: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub ip: String,
    /// It gets traffic.
    pub ready: bool,
    /// Its containers.
    pub containers: Vec<String>,
}

impl Pod {
    /// Whether it has a sidecar.
    pub fn in_mesh(&self) -> bool {
        self.containers.iter().any(|c| c == "istio-proxy")
    }

    /// `POD.NAMESPACE`, as xDS names proxies.
    pub fn proxy_id(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

/// The pod that `[TYPE/]NAME[.NAMESPACE]` means.
///
/// # Errors
/// A sentence that says what there is.
pub(crate) fn choose(pods: &[Pod], target: &str, namespace: Option<&str>) -> Result<Pod, String> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let by_workload = match kind {
        "pod" | "pods" | "po" => false,
        "deployment" | "deployments" | "deploy" => true,
        other => return Err(format!("{other}/... is not known; write POD[.NAMESPACE] or deployment/NAME[.NAMESPACE]")),
    };
    let called = |p: &&Pod, name: &str| if by_workload { p.workload == name } else { p.name == name };
    let in_namespace = |name: &str, space: &str| pods.iter().find(|p| p.namespace == space && called(p, name)).cloned();
    // Names may have dots themselves; the last part is a namespace when there is such a pod.
    if let Some((short, space)) = name.rsplit_once('.')
        && let Some(pod) = in_namespace(short, space)
    {
        return Ok(pod);
    }
    let mut found: Vec<&Pod> =
        pods.iter().filter(|p| called(p, name) && namespace.is_none_or(|n| p.namespace == n)).collect();
    found.sort_by_key(|p| !p.ready);
    let spaces: std::collections::BTreeSet<&str> = found.iter().map(|p| p.namespace.as_str()).collect();
    match found.first() {
        Some(pod) if spaces.len() == 1 => Ok((*pod).clone()),
        Some(_) => {
            let all = spaces.into_iter().collect::<Vec<_>>().join(", ");
            Err(format!("{target} is in several namespaces ({all}); choose one with -n"))
        }
        None => {
            let some: Vec<String> = pods.iter().take(8).map(Pod::proxy_id).collect();
            Err(format!("there is no {target}; pods are {}", some.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, namespace: &str, workload: &str) -> Pod {
        Pod { name: name.to_owned(), namespace: namespace.to_owned(), workload: workload.to_owned(), ..Pod::default() }
    }

    #[test]
    fn targets_name_pods_and_workloads() {
        let pods = [pod("web-1", "a", "web"), pod("web-1", "b", "web"), pod("db-0", "a", "db")];
        assert_eq!(choose(&pods, "web-1.b", None).map(|p| p.namespace).as_deref(), Ok("b"));
        assert_eq!(choose(&pods, "deploy/db", None).map(|p| p.name).as_deref(), Ok("db-0"));
        assert_eq!(choose(&pods, "web-1", Some("a")).map(|p| p.namespace).as_deref(), Ok("a"));
        assert!(choose(&pods, "web-1", None).is_err_and(|e| e.contains("a, b")));
        assert!(choose(&pods, "nobody", None).is_err_and(|e| e.contains("db-0.a")));
        assert!(choose(&pods, "svc/web", None).is_err_and(|e| e.contains("svc")));
    }
}
