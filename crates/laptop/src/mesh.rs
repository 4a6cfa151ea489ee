//! A mesh as a value, for tests and for the demo: brought up, asked, disturbed, and gone when it is dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::control::{ControlError, ask};
use crate::paths::StateDir;
use crate::status::{Pod, Request, Response, Status};
use crate::{inside, launch};

/// How a mesh is brought up.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// The `meltemi` binary.
    pub binary: PathBuf,
    /// Files and folders of YAML.
    pub sources: Vec<PathBuf>,
    /// Of objects without a namespace.
    pub namespace: String,
    /// Where meshes keep their files; a temporary folder in tests.
    pub base: PathBuf,
    /// The mesh's name under it.
    pub name: String,
    /// No istiod and no sidecars.
    pub plain: bool,
    /// Life of workload certificates in seconds; a day by default.
    pub cert_seconds: Option<u64>,
    /// Environment of istiod.
    pub istiod_env: Vec<(String, String)>,
    /// Environment of sidecars.
    pub sidecar_env: Vec<(String, String)>,
    /// A stock Envoy to be run as every pod's proxy.
    pub envoy: Option<PathBuf>,
    /// How long it may take to get ready.
    pub patience: Duration,
}

impl MeshOptions {
    /// A mesh of these files, kept under `base`.
    pub fn new(binary: impl Into<PathBuf>, sources: Vec<PathBuf>, base: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            sources,
            namespace: "default".to_owned(),
            base: base.into(),
            name: "mesh".to_owned(),
            plain: false,
            cert_seconds: None,
            istiod_env: Vec::new(),
            sidecar_env: Vec::new(),
            envoy: None,
            patience: Duration::from_secs(60),
        }
    }
}

/// Why a mesh does not do as it is told.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The binary cannot be started.
    #[error("cannot run {0}: {1}")]
    Binary(PathBuf, std::io::Error),
    /// It said why not.
    #[error("{0}")]
    Up(String),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A condition that did not come true.
    #[error("{what} is not so after {patience:?}:\n{state}")]
    Waited {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// How the mesh stands instead.
        state: String,
    },
}

/// A mesh that is up; dropping it brings it down.
#[derive(Debug)]
pub struct Mesh {
    options: MeshOptions,
    state: StateDir,
}

impl Mesh {
    /// Brings a mesh up and waits until every pod is ready and every sidecar is synced.
    ///
    /// # Errors
    /// What keeps it from that; the mesh is down then.
    pub fn up(options: MeshOptions) -> Result<Self, MeshError> {
        let state = StateDir::at(options.base.join(&options.name));
        let mesh = Self { options, state };
        let options = &mesh.options;
        let mut command = mesh.command("up");
        command.args(&options.sources).args(["--namespace", &options.namespace, "--detach"]);
        command.arg("--wait").arg(format!("{}s", options.patience.as_secs().max(1)));
        command.args(options.plain.then_some("--plain"));
        if let Some(seconds) = options.cert_seconds {
            command.arg("--cert-seconds").arg(seconds.to_string());
        }
        for (name, value) in &options.istiod_env {
            command.arg("--istiod-env").arg(format!("{name}={value}"));
        }
        for (name, value) in &options.sidecar_env {
            command.arg("--sidecar-env").arg(format!("{name}={value}"));
        }
        if let Some(path) = &options.envoy {
            command.arg("--envoy").arg(path);
        }
        let output = mesh.output(command)?;
        if output.status.success() {
            return Ok(mesh);
        }
        let log = std::fs::read_to_string(mesh.state.istiod_log()).unwrap_or_default();
        Err(MeshError::Up(format!("{}\n{log}", String::from_utf8_lossy(&output.stderr))))
    }

    /// How it stands.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn status(&self) -> Result<Status, MeshError> {
        Ok(self.tell(&Request::Status)?.status.unwrap_or_default())
    }

    /// The pods of a Deployment that do not end.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn pods(&self, namespace: &str, workload: &str) -> Result<Vec<Pod>, MeshError> {
        let mut pods = self.status()?.pods;
        pods.retain(|p| p.namespace == namespace && p.workload == workload && p.phase != "Terminating");
        Ok(pods)
    }

    /// Sends a request to the node: kill a pod, stop istiod and so on.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub fn tell(&self, request: &Request) -> Result<Response, MeshError> {
        Ok(ask(&self.state.socket(), request)?)
    }

    /// Runs a command in a pod (`POD` or `deploy/NAME`) and waits for its end.
    ///
    /// # Errors
    /// When the binary cannot be run; a failed command is an [`Output`].
    pub fn exec(&self, namespace: &str, target: &str, command: &[&str]) -> Result<Output, MeshError> {
        self.output(self.exec_command(namespace, target, None, command))
    }

    /// As [`Mesh::exec`], as the sidecar's user: past the redirection.
    ///
    /// # Errors
    /// As [`Mesh::exec`].
    pub fn exec_in(
        &self,
        namespace: &str,
        target: &str,
        container: &str,
        command: &[&str],
    ) -> Result<Output, MeshError> {
        self.output(self.exec_command(namespace, target, Some(container), command))
    }

    /// Starts a command in a pod; its output is piped.
    ///
    /// # Errors
    /// When the binary cannot be run.
    pub fn spawn(&self, namespace: &str, target: &str, command: &[&str]) -> Result<Child, MeshError> {
        let mut process = self.exec_command(namespace, target, None, command);
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.spawn().map_err(|e| MeshError::Binary(self.options.binary.clone(), e))
    }

    /// A page of a port on a pod's loopback, such as the sidecar's `15000`.
    ///
    /// # Errors
    /// When there is no such pod, or nobody answers there.
    pub fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String, MeshError> {
        let request =
            Request::Get { namespace: namespace.to_owned(), pod: pod.to_owned(), port, path: path.to_owned() };
        Ok(self.tell(&request)?.body.unwrap_or_default())
    }

    /// The output of a container so far.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        std::fs::read_to_string(self.state.log(namespace, pod, container)).unwrap_or_default()
    }

    /// The output of istiod so far.
    pub fn istiod_log(&self) -> String {
        std::fs::read_to_string(self.state.istiod_log()).unwrap_or_default()
    }

    /// Waits until `so` says yes.
    ///
    /// # Errors
    /// When it does not within `patience`.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        so: impl Fn(&Status) -> bool,
    ) -> Result<Status, MeshError> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.status()?;
            if so(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let state = format!("{}{}", crate::table::pods(&status, None), launch::reasons(&status));
                return Err(MeshError::Waited { what: what.to_owned(), patience, state });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until every pod is ready and every sidecar has what istiod sent last.
    ///
    /// # Errors
    /// As [`Mesh::wait_until`].
    pub fn wait_synced(&self, patience: Duration) -> Result<Status, MeshError> {
        self.wait_until("the mesh being ready and synced", patience, |status| status.ready)
    }

    /// The mesh's folder.
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// A `POD` or `deploy/NAME`.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, namespace: &str, target: &str) -> Result<Pod, MeshError> {
        let status = self.status()?;
        inside::choose(&status, Some(namespace), target).cloned().map_err(MeshError::Up)
    }

    fn exec_command(&self, namespace: &str, target: &str, container: Option<&str>, words: &[&str]) -> Command {
        let mut command = self.command("exec");
        command.args(["-n", namespace, target]);
        if let Some(container) = container {
            command.args(["-c", container]);
        }
        command.arg("--").args(words);
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.options.binary);
        command.env("MELTEMI_STATE", &self.options.base).args([name, "--mesh", &self.options.name]);
        command
    }

    fn output(&self, mut command: Command) -> Result<Output, MeshError> {
        command.stdin(Stdio::null());
        command.output().map_err(|e| MeshError::Binary(self.options.binary.clone(), e))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Err(error) = launch::down(&self.state) {
            eprintln!("cannot bring the mesh down: {error}");
        }
    }
}
