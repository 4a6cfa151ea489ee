//! The way of istioctl's commands into a laptop mesh: its control socket.

use std::process::{Command, Stdio};

use istioctl::{Access, Method, Pod};
use laptop::status::{Request, Response};
use laptop::{StateDir, ask};

/// A laptop mesh.
struct Laptop {
    name: String,
    state: StateDir,
}

/// The laptop mesh that `MELTEMI_MESH` names; `None` when it is not up.
pub(crate) fn laptop() -> Option<Box<dyn Access>> {
    let name = std::env::var("MELTEMI_MESH").unwrap_or_else(|_| "default".to_owned());
    let state = StateDir::of(&name);
    state.socket().exists().then(|| Box::new(Laptop { name, state }) as Box<dyn Access>)
}

impl Laptop {
    fn ask(&self, request: &Request) -> Result<Response, String> {
        ask(&self.state.socket(), request).map_err(|e| e.to_string())
    }

    fn page(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Vec<u8>, String> {
        let (namespace, pod, path) = (namespace.to_owned(), pod.to_owned(), path.to_owned());
        let response = self.ask(&Request::Get { namespace, pod, port, path })?;
        response.body.map(String::into_bytes).ok_or_else(|| "the node gave no page".to_owned())
    }
}

impl Access for Laptop {
    fn pods(&self) -> Result<Vec<Pod>, String> {
        let status = self.ask(&Request::Status)?.status.ok_or("the node gave no status")?;
        let pod = |p: laptop::status::Pod| Pod {
            namespace: p.namespace,
            name: p.name,
            workload: p.workload,
            labels: p.labels,
            ip: p.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ready: p.ready,
            containers: p.containers.into_iter().map(|c| c.name).collect(),
        };
        Ok(status.pods.into_iter().map(pod).collect())
    }

    fn pod_page(&self, pod: &Pod, method: Method, port: u16, path: &str) -> Result<Vec<u8>, String> {
        if method == Method::Get {
            return self.page(&pod.namespace, &pod.name, port, path);
        }
        // What changes something is asked from inside the pod, as on a cluster.
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        let output = Command::new(exe)
            .args(["exec", "--mesh", &self.name, "-n", &pod.namespace, "-c", "istio-proxy", &pod.name, "--"])
            .args(["pilot-agent", "request", "POST", path, "--debug-port", &port.to_string()])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(format!("{}: {}", pod.proxy_id(), String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    fn log(&self, pod: Option<&Pod>, container: &str, lines: u32) -> Result<Vec<u8>, String> {
        let exe = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(exe);
        command.args(["logs", "--mesh", &self.name, "--tail", &lines.to_string()]);
        match pod {
            Some(pod) => command.args(["-n", &pod.namespace, "-c", container, &pod.name]),
            None => command.arg("istiod"),
        };
        let output = command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn control(&self, _istiod: &str, port: u16, path: &str, content: Option<&str>) -> Result<Vec<u8>, String> {
        let Some(content) = content else { return self.page("", "", port, path) };
        let response = self.ask(&Request::Put { port, path: path.to_owned(), body: content.to_owned() })?;
        Ok(response.body.unwrap_or_default().into_bytes())
    }

    fn istiod_page(&self, path: &str) -> Result<Vec<u8>, String> {
        self.page("", "", 15014, path)
    }
}
