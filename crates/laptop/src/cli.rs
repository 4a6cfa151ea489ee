//! `meltemi up | ps | exec | logs | restart | kill | down`.

use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::Duration;

use clap::{Args, Subcommand};
use testapp::parse_span;

use crate::identity::{Identity, NoIssuer};
use crate::launch::{self, Up};
use crate::node::{self, NodeOptions};
use crate::paths::StateDir;
use crate::sidecar::CONTAINER;
use crate::status::Request;
use crate::{demo, inside, table};

/// Commands of the laptop mesh.
#[derive(Debug, Subcommand)]
pub enum LaptopCommand {
    /// Bring up a mesh from a directory of Kubernetes and Istio YAML.
    Up(UpArgs),
    /// Show the mesh's pods.
    Ps(PsArgs),
    /// Run a command inside a pod.
    Exec(ExecArgs),
    /// Print a container's output.
    Logs(LogsArgs),
    /// End a pod in order (its Deployment makes another), roll a Deployment's pods, or restart `istiod`.
    Restart(RestartArgs),
    /// Kill a pod's processes at once; they are started again in place. `istiod` kills the control plane for good.
    Kill(KillArgs),
    /// End the mesh and remove everything it made.
    Down(DownArgs),
    /// Run the example shop with traffic and show who calls whom.
    Demo(demo::DemoArgs),
    /// The mesh's node (started by `up`).
    #[command(hide = true, name = "laptop-node")]
    Node(NodeArgs),
}

/// Which mesh is meant.
#[derive(Args, Clone, Debug)]
pub struct MeshArg {
    /// Name of the mesh; several can be up at the same time.
    #[arg(long = "mesh", env = "MELTEMI_MESH", default_value = "default", global = true)]
    mesh: String,
}

impl MeshArg {
    fn state(&self) -> StateDir {
        StateDir::of(&self.mesh)
    }
}

/// Arguments of `up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Directories or files of YAML.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Return when the mesh is ready; it goes on in the background.
    #[arg(long)]
    detach: bool,
    /// How long to wait for that.
    #[arg(long, value_parser = parse_span, default_value = "2m")]
    wait: Duration,
    /// Run no istiod and no sidecars.
    #[arg(long)]
    plain: bool,
    /// Life of workload certificates, in seconds (a day by default).
    #[arg(long)]
    cert_seconds: Option<u64>,
    /// Environment of istiod (`NAME=VALUE`, may be repeated).
    #[arg(long)]
    istiod_env: Vec<String>,
    /// Environment of sidecars (`NAME=VALUE`, may be repeated).
    #[arg(long)]
    sidecar_env: Vec<String>,
    /// Run this stock Envoy as every pod's proxy instead of the one built in; the annotation `meltemi.dev/envoy` chooses
    /// for one pod.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `ps`.
#[derive(Args, Debug)]
pub struct PsArgs {
    /// Only this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// `json` or `yaml`.
    #[arg(short, long)]
    output: Option<String>,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `exec`.
#[derive(Args, Debug)]
pub struct ExecArgs {
    /// Namespace of the pod.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Container; `istio-proxy` runs as the sidecar's user, past the redirection.
    #[arg(short, long)]
    container: Option<String>,
    /// Accepted as kubectl's; standard input is always passed on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Accepted as kubectl's; the terminal is always passed on.
    #[arg(short = 't', long)]
    tty: bool,
    /// POD or deploy/NAME.
    target: String,
    /// The command, after `--`.
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Namespace of the pod.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Container; the first one by default.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as more comes.
    #[arg(short, long)]
    follow: bool,
    /// Only so many last lines.
    #[arg(long)]
    tail: Option<usize>,
    /// POD, deploy/NAME, or `istiod`.
    target: String,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `restart`.
#[derive(Args, Debug)]
pub struct RestartArgs {
    /// Namespace of the pod.
    #[arg(short, long)]
    namespace: Option<String>,
    /// POD, deploy/NAME (all its pods, one by one), or `istiod`.
    target: String,
    /// Only for istiod: how long it stays away.
    #[arg(long, value_parser = parse_span, default_value = "0s")]
    after: Duration,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `kill`.
#[derive(Args, Debug)]
pub struct KillArgs {
    /// Namespace of the pod.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only this container.
    #[arg(short, long)]
    container: Option<String>,
    /// POD, deploy/NAME (one of its pods), or `istiod`.
    target: String,
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of `down`.
#[derive(Args, Debug)]
pub struct DownArgs {
    #[command(flatten)]
    mesh: MeshArg,
}

/// Arguments of the node.
#[derive(Args, Debug)]
pub struct NodeArgs {
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    namespace: String,
    #[arg(long)]
    plain: bool,
    #[arg(long)]
    cert_seconds: Option<u64>,
    #[arg(long)]
    istiod_env: Vec<String>,
    #[arg(long)]
    sidecar_env: Vec<String>,
    #[arg(long)]
    envoy: Option<PathBuf>,
    sources: Vec<PathBuf>,
}

/// Makes the issuer of tokens from the certificate authority's folder; given by the binary.
pub type MakeIdentity = fn(&Path) -> Result<Identity, String>;

/// Runs a command of the laptop mesh.
pub fn run(command: LaptopCommand, identity: MakeIdentity) -> ExitCode {
    let result = match command {
        LaptopCommand::Up(args) => up(&args),
        LaptopCommand::Ps(args) => ps(&args),
        LaptopCommand::Exec(args) => exec(&args),
        LaptopCommand::Logs(args) => logs(&args),
        LaptopCommand::Restart(args) => restart(&args),
        LaptopCommand::Kill(args) => kill(&args),
        LaptopCommand::Down(args) => down(&args.mesh.state()),
        LaptopCommand::Demo(args) => demo::run(&args),
        LaptopCommand::Node(args) => node(args, identity),
    };
    result.unwrap_or_else(|reason| {
        eprintln!("meltemi: {reason}");
        ExitCode::FAILURE
    })
}

fn up(args: &UpArgs) -> Result<ExitCode, String> {
    let state = args.mesh.state();
    let up = Up {
        sources: args.sources.clone(),
        namespace: args.namespace.clone(),
        detach: args.detach,
        plain: args.plain,
        cert_seconds: args.cert_seconds,
        istiod_env: args.istiod_env.clone(),
        sidecar_env: args.sidecar_env.clone(),
        envoy: args.envoy.clone(),
    };
    let mut child = launch::start(&state, &up).map_err(|e| e.to_string())?;
    let ready = launch::wait_ready(&state, Some(&mut child), args.wait);
    match &ready {
        Ok(status) => print!("{}", table::pods(status, None)),
        Err(error) => eprintln!("meltemi: {error}"),
    }
    if args.detach {
        return Ok(if ready.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    attend(&state, child)
}

/// In the foreground: stays until the node ends, by itself or by Ctrl-C.
fn attend(state: &StateDir, mut child: Child) -> Result<ExitCode, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("no runtime: {e}"))?;
    let ended = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut asked = false;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok::<_, std::io::Error>(status);
            }
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = tokio::time::sleep(Duration::from_millis(100)) => continue,
            }
            let number = if asked { libc::SIGKILL } else { libc::SIGTERM };
            asked = true;
            crate::container::tell(child.id(), number);
        }
    });
    launch::clear(state);
    let ended = ended.map_err(|e| e.to_string())?;
    Ok(if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ps(args: &PsArgs) -> Result<ExitCode, String> {
    let mut status = inside::status(&args.mesh.state())?;
    if let Some(namespace) = &args.namespace {
        status.pods.retain(|p| p.namespace == *namespace);
    }
    match args.output.as_deref() {
        None | Some("wide") => print!("{}", table::pods(&status, args.namespace.as_deref())),
        Some("json") => println!("{}", serde_json::to_string_pretty(&status).map_err(|e| e.to_string())?),
        Some("yaml") => print!("{}", serde_saphyr::to_string(&status).map_err(|e| e.to_string())?),
        Some(other) => return Err(format!("output `{other}` is not known; use json or yaml")),
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(args: &ExecArgs) -> Result<ExitCode, String> {
    let state = args.mesh.state();
    let status = inside::status(&state)?;
    let pod = inside::choose(&status, args.namespace.as_deref(), &args.target)?;
    let end = inside::exec(&state, pod, args.container.as_deref(), &args.command)?;
    let code = end.code().and_then(|c| u8::try_from(c).ok());
    // Ended by a signal: 128 and its number, as shells say it.
    let by_signal = || {
        use std::os::unix::process::ExitStatusExt;
        end.signal().and_then(|s| u8::try_from(128 + s).ok()).unwrap_or(255)
    };
    Ok(ExitCode::from(code.unwrap_or_else(by_signal)))
}

fn logs(args: &LogsArgs) -> Result<ExitCode, String> {
    let state = args.mesh.state();
    let path = if args.target == "istiod" {
        state.istiod_log()
    } else {
        let status = inside::status(&state)?;
        let pod = inside::choose(&status, args.namespace.as_deref(), &args.target)?;
        let first = pod.containers.iter().map(|c| c.name.as_str()).find(|n| *n != CONTAINER).unwrap_or(CONTAINER);
        state.log(&pod.namespace, &pod.name, args.container.as_deref().unwrap_or(first))
    };
    let mut file = std::fs::File::open(&path).map_err(|e| format!("no output yet ({}: {e})", path.display()))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|e| e.to_string())?;
    let shown = args.tail.map_or(text.as_slice(), |count| last_lines(&text, count));
    let mut out = std::io::stdout();
    // A closed pipe ends the command, as with other tools.
    if out.write_all(shown).is_err() || !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        if file.stream_position().map_err(|e| e.to_string())? > length {
            file.rewind().map_err(|e| e.to_string())?;
        }
        text.clear();
        file.read_to_end(&mut text).map_err(|e| e.to_string())?;
        if out.write_all(&text).and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        if launch::running(&state).is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let starts = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    let start = match count {
        0 => text.len(),
        count => starts.take(count).nth(count - 1).unwrap_or(0),
    };
    text.get(start..).unwrap_or_default()
}

fn restart(args: &RestartArgs) -> Result<ExitCode, String> {
    let state = args.mesh.state();
    if args.target == "istiod" {
        return tell(&state, &Request::RestartIstiod { after_seconds: args.after.as_secs() });
    }
    let status = inside::status(&state)?;
    let chosen = inside::choose(&status, args.namespace.as_deref(), &args.target)?;
    let namespace = chosen.namespace.clone();
    match args.target.contains('/') && !args.target.starts_with("po") {
        true => tell(&state, &Request::Roll { namespace, workload: chosen.workload.clone() }),
        false => tell(&state, &Request::DeletePod { namespace, pod: chosen.name.clone() }),
    }
}

fn kill(args: &KillArgs) -> Result<ExitCode, String> {
    let state = args.mesh.state();
    if args.target == "istiod" {
        return tell(&state, &Request::StopIstiod);
    }
    let status = inside::status(&state)?;
    let pod = inside::choose(&status, args.namespace.as_deref(), &args.target)?;
    let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
    tell(&state, &Request::KillPod { namespace, pod, container: args.container.clone() })
}

fn tell(state: &StateDir, request: &Request) -> Result<ExitCode, String> {
    crate::control::ask(&state.socket(), request).map(|_| ExitCode::SUCCESS).map_err(|e| e.to_string())
}

fn down(state: &StateDir) -> Result<ExitCode, String> {
    match launch::down(state).map_err(|e| e.to_string())? {
        true => Ok(ExitCode::SUCCESS),
        false => Err("no mesh is up here".to_owned()),
    }
}

fn node(args: NodeArgs, identity: MakeIdentity) -> Result<ExitCode, String> {
    let state = StateDir::at(args.state);
    let identity = match args.plain {
        true => Identity::new(std::sync::Arc::new(NoIssuer)),
        false => identity(&state.ca())?,
    };
    let options = NodeOptions {
        sources: args.sources,
        namespace: args.namespace,
        cert_seconds: args.cert_seconds,
        istiod_env: args.istiod_env.iter().map(|p| pair(p)).collect::<Result<_, _>>()?,
        sidecar_env: args.sidecar_env.iter().map(|p| pair(p)).collect::<Result<_, _>>()?,
        envoy: args.envoy,
        plain: args.plain,
    };
    node::run(state, options, identity).map(|()| ExitCode::SUCCESS).map_err(|e| e.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_log() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }
}
