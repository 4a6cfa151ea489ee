//! How a pod ends, as a kubelet ends it: while it leaves the endpoints, every application container is told (preStop hook
//! first, then SIGTERM) and the sidecar begins to drain; the sidecar itself ends after the last of them, as a native
//! sidecar does; what is still there when the grace time is over gets SIGKILL.

use std::rc::Rc;
use std::time::Duration;

use net::netns::Place;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::container::Order;
use crate::model::{Container, Handler};
use crate::pod::Pod;
use crate::probe::{Question, http, inside};
use crate::sandbox::Sandbox;

/// After a hook, or the end of the application, a process has at least this long, however little grace is left
/// (Kubernetes' rule).
const LEAST: Duration = Duration::from_secs(2);
/// The agent's port, and how long it may take to answer.
const AGENT: (u16, Duration) = (15020, Duration::from_secs(2));

/// A container's supervisor.
pub struct Process {
    /// What it is told.
    pub orders: watch::Sender<Order>,
    /// Ends when the container has ended for good.
    pub task: JoinHandle<()>,
}

impl Process {
    async fn stop(self, grace: Duration) {
        self.orders.send_replace(Order::Stop { grace });
        // One that has ended may have been waited for already, and must not be asked again.
        if !self.task.is_finished() {
            // A task that panicked has no process any more that could be waited for.
            let _ = self.task.await;
        }
    }
}

/// Ends all processes of a pod; `grace`: from now to SIGKILL.
pub async fn end(
    pod: &Rc<Pod>,
    sandbox: &Rc<Sandbox>,
    apps: Vec<(Container, Process)>,
    sidecar: Option<Process>,
    grace: Duration,
) {
    let deadline = Instant::now() + grace;
    let ends = apps.into_iter().map(|(container, process)| {
        let (pod, sandbox) = (pod.clone(), sandbox.clone());
        tokio::task::spawn_local(async move {
            if let Some(hook) = container.pre_stop().filter(|_| !process.task.is_finished()) {
                let _ = tokio::time::timeout_at(deadline, run_hook(hook, &container, &pod, &sandbox)).await;
            }
            process.stop(left(deadline)).await;
        })
    });
    let ends: Vec<_> = ends.collect();
    if sidecar.is_some() && !ends.is_empty() {
        // The preStop hook of a native sidecar. One that does not answer ends all the same.
        announce(sandbox).await;
    }
    for end in ends {
        let _ = end.await;
    }
    if let Some(sidecar) = sidecar {
        sidecar.stop(left(deadline)).await;
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(LEAST)
}

async fn announce(sandbox: &Sandbox) {
    let place = Place { net: Some(sandbox.net_path()), ..Place::default() };
    let target = ([127, 0, 0, 1], AGENT.0).into();
    let post = move || inside(&place, || http("POST", target, "/drain", AGENT.1));
    let _ = tokio::task::spawn_blocking(post).await;
}

/// Runs a hook to its end; as with Kubernetes a hook that fails does not keep the container from ending.
async fn run_hook(hook: &Handler, container: &Container, pod: &Pod, sandbox: &Sandbox) {
    if let Some(sleep) = &hook.sleep {
        return tokio::time::sleep(Duration::from_secs(sleep.seconds)).await;
    }
    let Some(question) = Question::of_handler(hook, container) else { return };
    let (address, place) = (pod.address, Place { new_session: false, ..sandbox.place(None, None) });
    /// The pod's grace time is the real limit; this one frees the thread.
    const LIMIT: Duration = Duration::from_secs(600);
    let _ = tokio::task::spawn_blocking(move || question.ask(address, &place, LIMIT)).await;
}
