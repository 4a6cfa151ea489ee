//! The control plane's process: started, watched, stopped and started again.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use net::netns::Place;
use serde_json::Value;
use tokio::sync::watch;

use crate::container::{Launch, Order, State, keep};
use crate::manifest::Problem;
use crate::model::Restart;
use crate::probe::http_get;
use crate::status;

/// istiod's debug pages, in the node's network namespace.
const DEBUG: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
const READY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// From SIGTERM to SIGKILL at the end of the mesh.
const GRACE: Duration = Duration::from_secs(3);

/// How istiod is started.
#[derive(Clone, Debug)]
pub struct IstiodOptions {
    /// The one binary.
    pub exe: PathBuf,
    /// The user's files and folders.
    pub sources: Vec<PathBuf>,
    /// The laptop's own objects.
    pub overlay: PathBuf,
    /// The certificate authority's folder.
    pub ca: PathBuf,
    /// The trust domain.
    pub trust_domain: String,
    /// Of objects without a namespace.
    pub default_namespace: String,
    /// Life of workload certificates; istiod's default when not given.
    pub cert_seconds: Option<u64>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// Its output.
    pub log: PathBuf,
}

/// What istiod says of the proxies and of the files.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// It answers ready.
    pub ready: bool,
    /// By `pod.namespace`: SYNCED and so on.
    pub sync: HashMap<String, String>,
    /// Refused files.
    pub problems: Vec<Problem>,
}

/// The supervised process.
pub struct Istiod {
    options: IstiodOptions,
    state: Rc<RefCell<State>>,
    running: RefCell<Option<Running>>,
    starts: Cell<u32>,
}

struct Running {
    orders: watch::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Istiod {
    /// Not started yet.
    pub fn new(options: IstiodOptions) -> Self {
        Self { options, state: Rc::default(), running: RefCell::default(), starts: Cell::new(0) }
    }

    /// Starts it, when it is not running.
    pub fn start(&self) {
        let mut running = self.running.borrow_mut();
        if running.is_some() {
            return;
        }
        let orders = watch::Sender::new(Order::Run);
        let task = tokio::task::spawn_local(keep(
            self.launch(),
            Restart::Always,
            self.state.clone(),
            orders.subscribe(),
            || {},
        ));
        self.starts.set(self.starts.get() + 1);
        *running = Some(Running { orders, task });
    }

    /// Ends it; `at_once` with SIGKILL.
    pub async fn stop(&self, at_once: bool) {
        let running = self.running.borrow_mut().take();
        if let Some(running) = running {
            running.orders.send_replace(Order::Stop { grace: if at_once { Duration::ZERO } else { GRACE } });
            // A panicked supervisor has no process left.
            let _ = running.task.await;
        }
    }

    /// Its process.
    pub fn status(&self, ready: bool) -> status::Istiod {
        let state = self.state.borrow();
        let restarts = state.restarts + self.starts.get().saturating_sub(1);
        status::Istiod { ready, restarts, pid: state.pid, stopped: self.running.borrow().is_none() }
    }

    /// How it ended last, when it does not run.
    pub fn last_end(&self) -> Option<String> {
        let state = self.state.borrow();
        if state.pid.is_some() { None } else { state.last_end.clone() }
    }

    fn launch(&self) -> Launch {
        let options = &self.options;
        let mut args = Vec::new();
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        for source in &options.sources {
            flag("--source", source.display().to_string());
        }
        flag("--overlay", options.overlay.display().to_string());
        flag("--ca", options.ca.display().to_string());
        flag("--trust-domain", options.trust_domain.clone());
        flag("--namespace", options.default_namespace.clone());
        // All of the mesh's own network namespace, and nothing beyond it.
        flag("--address", Ipv4Addr::UNSPECIFIED.to_string());
        if let Some(seconds) = options.cert_seconds {
            flag("--cert-seconds", seconds.to_string());
        }
        let mut env: BTreeMap<String, String> = std::env::vars().collect();
        env.extend(options.env.iter().cloned());
        Launch {
            program: options.exe.clone(),
            called: Some("istiod".to_owned()),
            args,
            env,
            place: Place { new_session: true, ..Place::default() },
            folder: None,
            log: options.log.clone(),
        }
    }
}

/// Asks istiod for what it knows. Blocks for some seconds at most.
pub fn look() -> View {
    let ready = http_get(READY, "/ready", ASK_TIMEOUT).is_ok_and(|(status, _)| status == 200);
    if !ready {
        return View::default();
    }
    let page = |path: &str| -> Option<Value> {
        let (status, body) = http_get(DEBUG, path, ASK_TIMEOUT).ok()?;
        (status == 200).then(|| serde_json::from_slice(&body).ok()).flatten()
    };
    let rows = page("/debug/syncz").and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let sync = rows.iter().filter_map(|row| Some((row.get("proxy")?.as_str()?.to_owned(), sync_of(row)))).collect();
    let problems = page("/debug/problems").and_then(|v| v.as_array().cloned()).unwrap_or_default();
    let problems = problems.into_iter().filter_map(|p| serde_json::from_value(p).ok()).collect();
    View { ready, sync, problems }
}

/// One word for a row of /debug/syncz: the worst of its types.
fn sync_of(row: &Value) -> String {
    let text = |key: String| row.get(&key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut any = false;
    for kind in ["cluster", "listener", "route", "endpoint"] {
        if !text(format!("{kind}_error")).is_empty() {
            return "ERROR".to_owned();
        }
        let (sent, acked) = (text(format!("{kind}_sent")), text(format!("{kind}_acked")));
        if sent != acked {
            return "STALE".to_owned();
        }
        any |= !sent.is_empty();
    }
    if any { "SYNCED" } else { "NOT SENT" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_worst_type_counts() {
        assert_eq!(sync_of(&json!({"cluster_sent": "a", "cluster_acked": "a", "listener_sent": ""})), "SYNCED");
        assert_eq!(sync_of(&json!({"cluster_sent": "a", "cluster_acked": "a", "route_sent": "b"})), "STALE");
        assert_eq!(sync_of(&json!({})), "NOT SENT");
    }
}
