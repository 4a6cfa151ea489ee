//! `exec`: a command inside a pod, started from outside the mesh.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use net::netns::{Kind, Place, enter, place};

use crate::control::ask;
use crate::launch::running;
use crate::paths::StateDir;
use crate::sidecar::{CONTAINER, SIDECAR_ID};
use crate::status::{Pod, Request, Status};

/// Asks how the mesh stands.
///
/// # Errors
/// When no mesh is up.
pub fn status(state: &StateDir) -> Result<Status, String> {
    let response = ask(&state.socket(), &Request::Status).map_err(|e| e.to_string())?;
    response.status.ok_or_else(|| "the node gave no status".to_owned())
}

/// The pod that `POD`, `pod/POD` or `deploy/NAME` means; without a namespace the name must be clear.
///
/// # Errors
/// A sentence that names what there is.
pub fn choose<'a>(status: &'a Status, namespace: Option<&str>, target: &str) -> Result<&'a Pod, String> {
    let (kind, name) = target.split_once('/').unwrap_or(("pod", target));
    let by_workload = match kind {
        "pod" | "pods" | "po" => false,
        "deploy" | "deployment" | "deployments" => true,
        other => return Err(format!("`{other}/...` is not known; write POD or deploy/NAME")),
    };
    let mut found: Vec<&Pod> = status
        .pods
        .iter()
        .filter(|p| namespace.is_none_or(|n| p.namespace == n))
        .filter(|p| if by_workload { p.workload == name } else { p.name == name })
        .collect();
    let mut spaces: Vec<_> = found.iter().map(|p| p.namespace.as_str()).collect();
    spaces.dedup();
    if spaces.len() > 1 {
        return Err(format!("{target} is in several namespaces ({}); choose one with -n", spaces.join(", ")));
    }
    // A ready pod before others, one that ends last.
    found.sort_by_key(|p| (p.phase == "Terminating", !p.ready));
    found.into_iter().next().ok_or_else(|| {
        let place = namespace.map(|n| format!(" in namespace {n}")).unwrap_or_default();
        format!("there is no {target}{place}; `meltemi ps` shows all pods")
    })
}

/// Runs a command in a pod with our own standard input and output; `container` chooses whose user it runs as.
///
/// # Errors
/// A sentence when the pod has no namespaces yet, they cannot be entered, or the command is not found.
pub fn exec(state: &StateDir, pod: &Pod, container: Option<&str>, command: &[String]) -> Result<ExitStatus, String> {
    if let Some(name) = container.filter(|name| !pod.containers.iter().any(|c| c.name == **name)) {
        let names: Vec<_> = pod.containers.iter().map(|c| c.name.as_str()).collect();
        return Err(format!("pod {} has no container {name}; it has {}", pod.name, names.join(", ")));
    }
    let node = running(state).ok_or("no mesh is up here")?;
    let (net, mount) = pod.namespaces.ok_or_else(|| format!("pod {} has no namespaces yet", pod.name))?;
    let fd = |number: i32| PathBuf::from(format!("/proc/{node}/fd/{number}"));
    let id = (container == Some(CONTAINER)).then_some(SIDECAR_ID);
    let inside = Place { net: Some(fd(net)), mount: Some(fd(mount)), uid: id, gid: id, ..Place::default() };
    let mut process = prepare(pod, command)?;
    let explain = |e: io::Error| format!("cannot enter pod {}: {e}", pod.name);
    // Opened before we enter the process namespace, where /proc has other numbers.
    place(&mut process, &inside).map_err(explain)?;
    enter_processes(node).map_err(explain)?;
    let shown = command.first().map(String::as_str).unwrap_or_default();
    process.status().map_err(|e| format!("cannot run {shown} in pod {}: {e}", pod.name))
}

fn prepare(pod: &Pod, command: &[String]) -> Result<Command, String> {
    let (program, args) = command.split_first().ok_or("no command; write it after --")?;
    let ours = matches!(program.as_str(), "meltemi" | "pilot-agent" | "istioctl");
    let mut process = match ours {
        // An image would have these; here they are all this binary, by the name it is called by.
        true => Command::new(std::env::current_exe().map_err(|e| e.to_string())?),
        false => Command::new(program),
    };
    if ours {
        process.arg0(program);
    }
    process.args(args).env_clear().current_dir("/");
    for name in ["PATH", "TERM", "LANG", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(name) {
            process.env(name, value);
        }
    }
    process.env("HOME", "/").env("HOSTNAME", &pod.name).env("POD_NAME", &pod.name).env("POD_NAMESPACE", &pod.namespace);
    Ok(process)
}

/// The mesh's user namespace, when it has its own, and its process namespace, so that the command ends with the mesh.
fn enter_processes(node: i32) -> io::Result<()> {
    let ours = std::fs::read_link("/proc/self/ns/user")?;
    let pids = File::open(format!("/proc/{node}/ns/pid"))?;
    if std::fs::read_link(format!("/proc/{node}/ns/user"))? != ours {
        enter(File::open(format!("/proc/{node}/ns/user"))?.as_fd(), Kind::User)?;
    }
    enter(pids.as_fd(), Kind::Pid)
}
