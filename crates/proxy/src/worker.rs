//! One worker: a thread with its own runtime, sockets and pools.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proxy_config::Context;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use upstream::HttpPools;

use crate::connection;
use crate::life::{Follow, Life, Phase};
use crate::listeners::Listeners;
use crate::peer::Peers;
use crate::socket::{Accepting, Socket};

/// Connections one worker serves at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 50_000;

/// What the control thread tells a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on a socket for the listener of this name.
    Listen(Arc<str>, Socket),
    /// Stop accepting for the listener of this name.
    Close(Arc<str>),
}

/// What workers share with each other and with the control thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) listeners: Listeners,
    pub(crate) context: Arc<Context>,
    /// How far the end of the process has come.
    pub(crate) life: Arc<Life>,
    /// How long an undecided protocol is waited for where configuration names no time.
    pub(crate) undecided: Duration,
    /// Our own metadata for peers, ready to be sent.
    pub(crate) metadata: crate::peer::OwnMetadata,
    /// What became of spans.
    pub(crate) reported: Arc<crate::report::Reported>,
}

/// What belongs to one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pools: HttpPools,
    pub(crate) peers: RefCell<Peers>,
    /// Spans that are not told yet.
    pub(crate) waiting: crate::report::Waiting,
    connections: Cell<usize>,
}

/// Starts a worker thread.
pub(crate) fn start(index: usize, shared: Arc<Shared>) -> io::Result<mpsc::UnboundedSender<Command>> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (started, starting) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        // Tasks of a local runtime are woken without the second queue that a `LocalSet` is.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        // The one who waits is the caller of this function.
        let _ = started.send(Ok(()));
        let worker = Rc::new(Worker {
            peers: RefCell::new(Peers::new(shared.context.telemetry.clone())),
            shared,
            pools: HttpPools::default(),
            waiting: Default::default(),
            connections: Cell::new(0),
        });
        runtime.block_on(run(worker, inbox));
    })?;
    match starting.recv() {
        Ok(result) => result.map(|()| commands),
        Err(_) => Err(io::Error::other("the worker's thread ended at once")),
    }
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::UnboundedReceiver<Command>) {
    tokio::task::spawn_local(worker.pools.clone().sweep(worker.shared.context.clusters.changes()));
    tokio::task::spawn_local(crate::report::run(worker.clone()));
    let mut accepting: HashMap<Arc<str>, AbortHandle> = HashMap::new();
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Listen(name, socket) => match Accepting::new(socket) {
                Ok(socket) => {
                    let inbound = worker.shared.listeners.named(&name).is_some_and(|l| l.inbound);
                    let life = worker.shared.life.follow(inbound);
                    let task = tokio::task::spawn_local(accept(worker.clone(), name.clone(), socket, life));
                    if let Some(former) = accepting.insert(name, task.abort_handle()) {
                        former.abort();
                    }
                }
                Err(error) => tracing::error!(listener = %name, %error, "the socket cannot be used"),
            },
            Command::Close(name) => {
                if let Some(task) = accepting.remove(&name) {
                    task.abort();
                }
            }
        }
    }
}

/// Accepts until the listener is closed. Whoever waits in the kernel's queue then is turned away before a byte was read:
/// a sidecar that dialled knows for certain that nothing of its request was seen, and goes elsewhere.
async fn accept(worker: Rc<Worker>, name: Arc<str>, socket: Accepting, mut life: Follow) {
    /// After a failed accept (out of file descriptors): time for others to finish.
    const PAUSE: Duration = Duration::from_millis(20);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = life.reach(Phase::Closed) => return,
        };
        let (stream, source) = match accepted {
            Ok(accepted) if worker.connections.get() < MAX_CONNECTIONS => accepted,
            Ok(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(listener = %name, %error, "accept failed");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(listener) = worker.shared.listeners.named(&name) else { continue };
        let worker = worker.clone();
        worker.connections.set(worker.connections.get() + 1);
        let alive = worker.shared.life.enter();
        tokio::task::spawn_local(async move {
            connection::serve(&worker, listener, stream, source, alive).await;
            worker.connections.set(worker.connections.get() - 1);
        });
    }
}
