//! What a mesh says of itself, and what it can be told: the words of the control socket.

use serde::{Deserialize, Serialize};

use crate::manifest::Problem;

/// What the node can be told; one JSON line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// How it stands.
    Status,
    /// End a pod in order; its Deployment makes another.
    DeletePod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// Replace all pods of a Deployment one by one, as `kubectl rollout restart` does.
    Roll {
        /// Its namespace.
        namespace: String,
        /// Its name.
        workload: String,
    },
    /// Kill the processes of a pod at once (SIGKILL); they are started again in the same pod.
    KillPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
        /// Only this container.
        container: Option<String>,
    },
    /// Kill istiod and leave it dead.
    StopIstiod,
    /// Start it again.
    StartIstiod,
    /// Kill it, and start it again later.
    RestartIstiod {
        /// Seconds without istiod.
        after_seconds: u64,
    },
    /// A page of a port inside a pod, or of istiod (empty pod).
    Get {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod; empty for istiod.
        pod: String,
        /// The port on 127.0.0.1.
        port: u16,
        /// The path.
        path: String,
    },
    /// A page of istiod's that is given a new content.
    Put {
        /// The port on 127.0.0.1.
        port: u16,
        /// The path.
        path: String,
        /// The content, as JSON.
        body: String,
    },
    /// End everything.
    Down,
}

/// The node's answer; one JSON line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Response {
    /// Why not, when not.
    pub error: Option<String>,
    /// To [`Request::Status`].
    pub status: Option<Status>,
    /// To [`Request::Get`].
    pub body: Option<String>,
}

/// How a mesh stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Every wanted pod is ready, and every sidecar has what istiod sent last.
    pub ready: bool,
    /// The control plane.
    pub istiod: Istiod,
    /// All pods.
    pub pods: Vec<Pod>,
    /// What in the files cannot be used.
    pub problems: Vec<Problem>,
    /// What went wrong in the node itself, newest last.
    pub troubles: Vec<String>,
}

/// The control plane's process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Istiod {
    /// It answers on its ports.
    pub ready: bool,
    /// Starts after the first.
    pub restarts: u32,
    /// Its process id in the mesh.
    pub pid: Option<u32>,
    /// It was stopped on purpose.
    pub stopped: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Deployment, or its own name.
    pub workload: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its address.
    pub ip: Option<std::net::Ipv4Addr>,
    /// `Pending`, `Running`, `Terminating`; `Succeeded` or `Failed` for a pod that is not to run for ever.
    pub phase: String,
    /// Gets traffic.
    pub ready: bool,
    /// Has a sidecar.
    pub injected: bool,
    /// The sidecar answers ready.
    pub sidecar_ready: bool,
    /// `SYNCED`, `STALE`, `NOT SENT`, `ERROR`, or nothing when istiod does not know the pod.
    pub sync: Option<String>,
    /// The application's containers, then the sidecar's.
    pub containers: Vec<Container>,
    /// What keeps it from being ready.
    pub message: Option<String>,
    /// Seconds since it was made.
    pub age_seconds: u64,
    /// Descriptors of its network and mount namespaces in the node.
    pub namespaces: Option<(i32, i32)>,
}

/// A container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// As written; nothing is pulled.
    pub image: String,
    /// Its process in the mesh.
    pub pid: Option<u32>,
    /// Starts after the first.
    pub restarts: u32,
    /// How it ended last.
    pub last_end: Option<String>,
}
