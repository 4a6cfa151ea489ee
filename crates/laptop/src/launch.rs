//! Starts a node in namespaces of its own, as root or inside a user namespace, and ends it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use net::netns::{Place, Unshare, is_root, place, signal, unshare};

use crate::control::ask;
use crate::manifest::Manifests;
use crate::paths::StateDir;
use crate::run::tool;
use crate::sidecar::is_injected;
use crate::status::{Request, Status};

/// `down` waits this long for an orderly end.
const DOWN_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// What `up` was asked for.
#[derive(Clone, Debug)]
pub struct Up {
    /// Files and folders.
    pub sources: Vec<PathBuf>,
    /// Of objects without a namespace.
    pub namespace: String,
    /// Output of the node goes to its log, and it outlives us.
    pub detach: bool,
    /// No control plane and no sidecars.
    pub plain: bool,
    /// Life of workload certificates in seconds.
    pub cert_seconds: Option<u64>,
    /// `NAME=VALUE` for istiod.
    pub istiod_env: Vec<String>,
    /// `NAME=VALUE` for sidecars.
    pub sidecar_env: Vec<String>,
    /// A stock Envoy to be run as every pod's proxy.
    pub envoy: Option<PathBuf>,
}

/// Why a mesh cannot be brought up or down.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is one already.
    #[error("this mesh is up already; `meltemi down` ends it, `--mesh NAME` starts another")]
    UpAlready,
    /// A file or folder is missing.
    #[error("{0}: {1}")]
    Source(PathBuf, std::io::Error),
    /// The kernel or its settings forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] crate::run::ToolError),
    /// Something else.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// The node ended by itself.
    #[error("the node ended at once:\n{0}")]
    NodeEnded(String),
    /// It does not get ready.
    #[error("the mesh is not ready after {0:?}:\n{1}")]
    NotReady(Duration, String),
}

/// Starts the node of a mesh. The calling process must have one thread only and is itself moved into the mesh's network
/// and mount namespaces.
///
/// # Errors
/// See [`LaunchError`].
pub fn start(state: &StateDir, up: &Up) -> Result<Child, LaunchError> {
    if running(state).is_some() {
        return Err(LaunchError::UpAlready);
    }
    let mut sources = Vec::new();
    for source in &up.sources {
        sources.push(source.canonicalize().map_err(|e| LaunchError::Source(source.clone(), e))?);
    }
    clear(state);
    std::fs::create_dir_all(state.path()).map_err(|e| LaunchError::Io("cannot make the state folder", e))?;
    for (program, flag) in [("ip", "-V"), ("nft", "-v"), ("mount", "-V")] {
        tool(program, &[flag], "", &Place::default())?;
    }
    if !is_root() {
        become_root_of_a_user_namespace(up)?;
    }
    unshare(Unshare { net: true, mount: true, ..Unshare::default() })
        .map_err(|e| forbidden("network namespaces", &e))?;
    // Mounts that are made from here on stay here.
    tool("mount", &["--make-rprivate", "/"], "", &Place::default())?;
    unshare(Unshare { pid: true, ..Unshare::default() }).map_err(|e| forbidden("process namespaces", &e))?;
    let envoy = up.envoy.as_ref().map(|path| path.canonicalize().map_err(|e| LaunchError::Source(path.clone(), e)));
    let up = &Up { envoy: envoy.transpose()?, ..up.clone() };
    let child = spawn_node(state, up, &sources)?;
    std::fs::write(state.pid_file(), child.id().to_string())
        .map_err(|e| LaunchError::Io("cannot write node.pid", e))?;
    Ok(child)
}

fn spawn_node(state: &StateDir, up: &Up, sources: &[PathBuf]) -> Result<Child, LaunchError> {
    let failed = |e| LaunchError::Io("cannot start the node", e);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("laptop-node").arg("--state").arg(state.path()).arg("--namespace").arg(&up.namespace);
    command.args(up.plain.then_some("--plain"));
    if let Some(seconds) = up.cert_seconds {
        command.arg("--cert-seconds").arg(seconds.to_string());
    }
    for pair in &up.istiod_env {
        command.arg("--istiod-env").arg(pair);
    }
    for pair in &up.sidecar_env {
        command.arg("--sidecar-env").arg(pair);
    }
    if let Some(path) = &up.envoy {
        command.arg("--envoy").arg(path);
    }
    command.args(sources).stdin(Stdio::null());
    if up.detach {
        let log = File::create(state.node_log()).map_err(failed)?;
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
    }
    // In the foreground the node must not outlive the terminal's process; detached it must.
    let how = Place { die_with_parent: !up.detach, new_session: up.detach, ..Place::default() };
    place(&mut command, &how).map_err(failed)?;
    command.spawn().map_err(failed)
}

fn forbidden(what: &str, error: &std::io::Error) -> LaunchError {
    LaunchError::Forbidden(format!(
        "the kernel does not let us make {what}: {error}. Run as root, or allow unprivileged user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, and on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0)"
    ))
}

/// Without root: a user namespace, with the sidecar's user in it when the system's `newuidmap` can give us more ids.
fn become_root_of_a_user_namespace(up: &Up) -> Result<(), LaunchError> {
    let failed = |e| LaunchError::Io("cannot enter a user namespace", e);
    let me = std::fs::metadata("/proc/self").map_err(failed)?;
    let ids = subordinate("/etc/subuid", me.uid()).zip(subordinate("/etc/subgid", me.uid()));
    let Some((uids, gids)) = ids.filter(|_| installed("newuidmap") && installed("newgidmap")) else {
        if !up.plain && any_sidecar(up) {
            return Err(LaunchError::Forbidden(
                "without root a sidecar needs a user id of its own (1337): install newuidmap (package uidmap) and give \
                 yourself a range in /etc/subuid and /etc/subgid, or run as root; `--plain` runs the pods without sidecars"
                    .to_owned(),
            ));
        }
        unshare(Unshare { user: true, ..Unshare::default() }).map_err(|e| forbidden("user namespaces", &e))?;
        std::fs::write("/proc/self/setgroups", "deny").map_err(failed)?;
        std::fs::write("/proc/self/uid_map", format!("0 {} 1", me.uid())).map_err(failed)?;
        return std::fs::write("/proc/self/gid_map", format!("0 {} 1", me.gid())).map_err(failed);
    };
    let pid = std::process::id();
    let (uid, gid) = (me.uid(), me.gid());
    let script = format!(
        "read go && newuidmap {pid} 0 {uid} 1 1 {} {} && newgidmap {pid} 0 {gid} 1 1 {} {}",
        uids.0, uids.1, gids.0, gids.1
    );
    // Started before we leave: only from outside may a map be written.
    let mut helper = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().map_err(failed)?;
    unshare(Unshare { user: true, ..Unshare::default() }).map_err(|e| forbidden("user namespaces", &e))?;
    if let Some(mut stdin) = helper.stdin.take() {
        stdin.write_all(b"go\n").map_err(failed)?;
    }
    match helper.wait().map_err(failed)?.success() {
        true => Ok(()),
        false => Err(LaunchError::Forbidden("newuidmap refused; its own message is above".to_owned())),
    }
}

fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

/// First id and count of the user's range; lines are `NAME-OR-ID:FIRST:COUNT`.
fn subordinate(file: &str, uid: u32) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string(file).ok()?;
    let name = std::env::var("USER").unwrap_or_default();
    text.lines().find_map(|line| {
        let mut parts = line.split(':');
        let owner = parts.next()?;
        let (first, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mine = (owner == name && !name.is_empty()) || owner == uid.to_string();
        // 1337 must be among them.
        (mine && count >= 2000).then_some((first, count))
    })
}

fn any_sidecar(up: &Up) -> bool {
    let mut manifests = Manifests::new(up.sources.clone(), &up.namespace);
    manifests.refresh();
    let (desired, _) = manifests.desired();
    desired.workloads.values().any(|workload| {
        let namespace = desired.namespaces.get(&workload.namespace).cloned().unwrap_or_default();
        is_injected(&namespace, &workload.template)
    })
}

/// Waits until every pod is ready and synced.
///
/// # Errors
/// When the node ends, or the time is over.
pub fn wait_ready(state: &StateDir, child: Option<&mut Child>, patience: Duration) -> Result<Status, LaunchError> {
    let deadline = Instant::now() + patience;
    let mut child = child;
    loop {
        let status = ask(&state.socket(), &Request::Status).ok().and_then(|r| r.status);
        if let Some(status) = status.as_ref().filter(|s| s.ready) {
            return Ok(status.clone());
        }
        if let Some(Ok(Some(_))) = child.as_deref_mut().map(Child::try_wait) {
            return Err(LaunchError::NodeEnded(tail(&state.node_log())));
        }
        if Instant::now() >= deadline {
            return Err(LaunchError::NotReady(patience, status.map(|s| reasons(&s)).unwrap_or_default()));
        }
        std::thread::sleep(POLL);
    }
}

/// Why a mesh is not ready, a line each.
pub fn reasons(status: &Status) -> String {
    let mut lines: Vec<String> = status.problems.iter().map(|p| format!("refused: {p}")).collect();
    lines.extend(status.troubles.iter().cloned());
    for pod in status.pods.iter().filter(|p| !p.ready || (p.injected && p.sync.as_deref() != Some("SYNCED"))) {
        let why = pod.message.clone().unwrap_or_else(|| format!("sync {}", pod.sync.as_deref().unwrap_or("unknown")));
        lines.push(format!("pod {}/{}: {why}", pod.namespace, pod.name));
    }
    lines.join("\n")
}

fn tail(path: &Path) -> String {
    let mut text = String::new();
    // No log, no words.
    let _ = File::open(path).and_then(|mut f| f.read_to_string(&mut text));
    let lines: Vec<_> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The node's process id as this process sees it, when it lives.
pub fn running(state: &StateDir) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(state.pid_file()).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The number may belong to another process by now.
    let ours = command.split(|b| *b == 0).any(|word| word == b"laptop-node");
    ours.then_some(pid)
}

/// Ends a mesh and removes its files. False when there was none.
///
/// # Errors
/// When its processes do not end or its files cannot be removed.
pub fn down(state: &StateDir) -> Result<bool, LaunchError> {
    let Some(pid) = running(state) else {
        let there = state.pid_file().exists();
        clear(state);
        return Ok(there);
    };
    // A node that does not answer is killed below.
    let _ = ask(&state.socket(), &Request::Down);
    let deadline = Instant::now() + DOWN_PATIENCE;
    while running(state).is_some() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    if running(state).is_some() {
        // Its process namespace dies with it, and with that everything else.
        signal(pid, libc::SIGKILL).map_err(|e| LaunchError::Io("cannot kill the node", e))?;
        while running(state).is_some() {
            std::thread::sleep(POLL);
        }
    }
    clear(state);
    Ok(true)
}

/// Removes what a mesh has left on disk. Only a folder that looks like one is touched.
pub fn clear(state: &StateDir) {
    if state.pid_file().exists() {
        // What cannot be removed is written over by the next run.
        let _ = std::fs::remove_dir_all(state.path());
    }
}
