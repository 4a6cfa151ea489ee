//! A container is a local process: started in the pod's place, its output in a file, started again when it ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use net::netns::{Place, place, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::model::Restart;

/// First wait before a process is started again; doubled each time.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait.
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// A process that ran this long starts again with the first wait.
const STABLE: Duration = Duration::from_secs(10);

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program: a path, or a name looked up in PATH.
    pub program: PathBuf,
    /// The name it is called by, when not the program's own.
    pub called: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where and as whom.
    pub place: Place,
    /// The folder it starts in.
    pub folder: Option<PathBuf>,
    /// Its output goes to the end of this file.
    pub log: PathBuf,
}

/// What is known of a container.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The process, as the node numbers it.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last, or why it cannot be started.
    pub last_end: Option<String>,
    /// Whether it ended last with status 0.
    pub succeeded: Option<bool>,
}

/// What a container is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Run, and start again after an end.
    Run,
    /// End within the grace time.
    Stop {
        /// From SIGTERM to SIGKILL.
        grace: Duration,
    },
}

impl Launch {
    fn command(&self) -> io::Result<Command> {
        use std::os::unix::process::CommandExt;
        if let Some(folder) = self.log.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        if let Some(called) = &self.called {
            command.arg0(called);
        }
        command.args(&self.args).env_clear().envs(&self.env);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        place(&mut command, &self.place)?;
        Ok(command)
    }
}

/// Keeps a container running until it is told to stop, or has ended and is not to be started again; `changed` is called at
/// every start and end.
pub async fn keep(
    launch: Launch,
    restart: Restart,
    state: Rc<RefCell<State>>,
    mut orders: watch::Receiver<Order>,
    changed: impl Fn(),
) {
    let mut backoff = FIRST_BACKOFF;
    loop {
        let started = Instant::now();
        match launch.command().and_then(|c| tokio::process::Command::from(c).spawn()) {
            Ok(child) => {
                state.borrow_mut().pid = child.id();
                changed();
                let stopped = attend(child, &mut orders, &state).await;
                changed();
                let again = match restart {
                    Restart::Always => true,
                    Restart::OnFailure => state.borrow().succeeded != Some(true),
                    Restart::Never => false,
                };
                if stopped || !again {
                    return;
                }
            }
            Err(error) => {
                state.borrow_mut().last_end = Some(format!("cannot start {}: {error}", launch.program.display()));
                changed();
            }
        }
        if started.elapsed() > STABLE {
            backoff = FIRST_BACKOFF;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = orders.wait_for(|o| *o != Order::Run) => return,
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
        state.borrow_mut().restarts += 1;
    }
}

/// Waits for the end of a process; true when it was asked for.
async fn attend(
    mut child: tokio::process::Child,
    orders: &mut watch::Receiver<Order>,
    state: &Rc<RefCell<State>>,
) -> bool {
    let pid = child.id();
    let grace = tokio::select! {
        end = child.wait() => {
            note_end(state, end);
            kill_group(pid);
            return false;
        }
        order = orders.wait_for(|o| *o != Order::Run) => match order.as_deref() {
            Ok(Order::Stop { grace }) => *grace,
            // The pod itself is gone.
            _ => Duration::ZERO,
        },
    };
    if let Some(pid) = pid {
        tell(pid, libc::SIGTERM);
    }
    let end = match tokio::time::timeout(grace, child.wait()).await {
        Ok(end) => end,
        Err(_) => {
            kill_group(pid);
            child.wait().await
        }
    };
    note_end(state, end);
    kill_group(pid);
    true
}

fn note_end(state: &Rc<RefCell<State>>, end: io::Result<std::process::ExitStatus>) {
    let mut state = state.borrow_mut();
    state.pid = None;
    state.succeeded = Some(end.as_ref().is_ok_and(std::process::ExitStatus::success));
    state.last_end = Some(end.map_or_else(|e| e.to_string(), |status| status.to_string()));
}

/// Sends a signal to one process; one that is gone already needs none.
pub fn tell(pid: u32, number: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = signal(pid, number);
    }
}

/// Whatever the process has left behind in its session goes with it.
pub fn kill_group(pid: Option<u32>) {
    if let Some(pid) = pid.and_then(|p| i32::try_from(p).ok()) {
        let _ = signal(-pid, libc::SIGKILL);
    }
}

/// `$(NAME)` in a command, argument or value becomes the variable's value, `$$` a dollar sign (Kubernetes' rule); names
/// that are not known stay as they are.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(rest.get(..at).unwrap_or_default());
        let tail = rest.get(at + 1..).unwrap_or_default();
        let named = tail.strip_prefix('(').and_then(|t| t.split_once(')'));
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((value, after)) = named.and_then(|(name, after)| Some((env.get(name)?, after))) {
            out.push_str(value);
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = BTreeMap::from([("POD".to_owned(), "a-1".to_owned())]);
        assert_eq!(expand("name=$(POD) $$(POD) $(NO) $", &env), "name=a-1 $(POD) $(NO) $");
    }
}
