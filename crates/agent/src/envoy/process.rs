//! The Envoy process: started, its output passed on, ended with the agent whatever happens.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use net::netns::{Place, place, signal};
use tokio::process::{Child, Command};

/// From SIGTERM to SIGKILL; by then Envoy is drained.
const GRACE: Duration = Duration::from_secs(2);
/// SIGTERM.
const TERMINATE: i32 = 15;

/// A running Envoy.
#[derive(Debug)]
pub(super) struct Envoy {
    child: Child,
    outputs: Vec<JoinHandle<()>>,
}

impl Envoy {
    /// Starts it.
    ///
    /// # Errors
    /// When the program is not there or may not be run.
    pub(super) fn start(binary: &Path, bootstrap: &Path, workers: usize) -> io::Result<Self> {
        let mut command = std::process::Command::new(binary);
        command.arg("-c").arg(bootstrap).arg("--concurrency").arg(workers.to_string());
        // Agent and Envoy live and die together: there is no other Envoy to take over from.
        command.args(["--disable-hot-restart", "--drain-strategy", "immediate", "--drain-time-s", "45"]);
        command.args(["-l", "warning", "--component-log-level", "misc:error", "--file-flush-interval-msec", "200"]);
        // Envoy opens /dev/stdout by name for its access log, which only works when that is its own: a pipe of ours.
        let (output, its_output) = io::pipe()?;
        let (errors, its_errors) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(its_output).stderr(its_errors);
        place(&mut command, &Place { die_with_parent: true, ..Place::default() })?;
        let (ours, our_errors) =
            (io::stdout().as_fd().try_clone_to_owned()?, io::stderr().as_fd().try_clone_to_owned()?);
        let child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| io::Error::other(format!("cannot start {}: {e}", binary.display())))?;
        Ok(Self { child, outputs: vec![pass_on(output, ours)?, pass_on(errors, our_errors)?] })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it, if it has not ended, and passes its last words on.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn stop(mut self) -> io::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // One that has just ended needs no signal.
            let _ = signal(pid, TERMINATE);
        }
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        for output in self.outputs {
            // A thread that panicked has nothing more to pass on.
            let _ = output.join();
        }
        Ok(())
    }
}

/// Copies one of Envoy's outputs to ours until it ends; inside the kernel where both are files or pipes.
fn pass_on(mut from: PipeReader, to: OwnedFd) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        // Output that cannot be written has no other place where it could be told.
        let _ = io::copy(&mut from, &mut File::from(to));
    })
}
