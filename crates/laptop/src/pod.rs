//! One pod from its making to its end: namespaces, redirection, sidecar, application, readiness, orderly stop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use net::netns::Place;
use tokio::sync::{Notify, watch};

use crate::container::{Launch, Order, State, expand, keep, kill_group};
use crate::ending::{self, Process};
use crate::model::{Container, Probe, Restart, Template};
use crate::node::Node;
use crate::probe::Question;
use crate::run::tool;
use crate::sandbox::{Inside, Sandbox};
use crate::sidecar::{self, About, CONTAINER, SIDECAR_ID};
use crate::status;

/// Between two tries to make a pod's namespaces.
const RETRY: Duration = Duration::from_secs(2);
/// Between two probes of a pod that is not ready yet.
const EAGER: Duration = Duration::from_millis(100);
/// Between two probes of a ready pod that names no period.
const PERIOD: Duration = Duration::from_secs(1);
/// A probe's time when the pod names none.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// While something has just been started, it is asked this often.
const AT_ONCE: Duration = Duration::from_millis(10);
/// How long something counts as just started.
const JUST: Duration = Duration::from_secs(2);

/// A pod.
pub struct Pod {
    /// Unique in this run; higher is younger.
    pub number: u64,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The name of its Deployment, or its own.
    pub workload: String,
    /// False for a bare pod.
    pub deployment: bool,
    /// Of the template.
    pub hash: String,
    /// What it is made from.
    pub template: Template,
    /// The settings of its proxy.
    pub settings: istio_api::mesh::ProxySettings,
    /// Whether the mesh wants the application's metrics beside the sidecar's.
    pub merge_metrics: bool,
    /// Its labels with those that are added.
    pub labels: BTreeMap<String, String>,
    /// Has a sidecar.
    pub injected: bool,
    /// Its address.
    pub address: Ipv4Addr,
    /// When it was made.
    pub created: SystemTime,
    /// The nftables script its network namespace holds.
    pub applied: RefCell<String>,
    condition: RefCell<Condition>,
    born: Instant,
    stop: watch::Sender<bool>,
    nudge: Notify,
}

#[derive(Default)]
struct Condition {
    sandbox: Option<Rc<Sandbox>>,
    containers: Vec<Named>,
    ready: bool,
    sidecar_ready: bool,
    terminating: bool,
    /// All its containers have ended, and are not to be started again.
    finished: Option<Finish>,
    message: Option<String>,
}

/// How a pod that is not to run for ever has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All containers with status 0.
    Succeeded,
    /// Not all.
    Failed,
}

#[derive(Clone)]
struct Named {
    name: String,
    image: String,
    state: Rc<RefCell<State>>,
}

/// What a new pod is.
pub struct Birth {
    /// See [`Pod`].
    pub number: u64,
    /// See [`Pod`].
    pub name: String,
    /// See [`Pod`].
    pub labels: BTreeMap<String, String>,
    /// See [`Pod`].
    pub injected: bool,
    /// See [`Pod`].
    pub address: Ipv4Addr,
    /// See [`Pod`].
    pub settings: istio_api::mesh::ProxySettings,
    /// See [`Pod`].
    pub merge_metrics: bool,
}

impl Pod {
    /// A pod that does not run yet.
    pub fn new(workload: &crate::model::Workload, birth: Birth) -> Self {
        Self {
            number: birth.number,
            namespace: workload.namespace.clone(),
            name: birth.name,
            workload: workload.name.clone(),
            deployment: workload.deployment,
            hash: workload.hash.clone(),
            template: workload.template.clone(),
            labels: birth.labels,
            injected: birth.injected,
            address: birth.address,
            settings: birth.settings,
            merge_metrics: birth.merge_metrics,
            created: SystemTime::now(),
            applied: RefCell::default(),
            condition: RefCell::default(),
            born: Instant::now(),
            stop: watch::Sender::new(false),
            nudge: Notify::new(),
        }
    }

    /// Gets traffic.
    pub fn ready(&self) -> bool {
        self.condition.borrow().ready
    }

    /// It has done what it was for.
    pub fn finished(&self) -> Option<Finish> {
        self.condition.borrow().finished
    }

    /// Is to end, or ends.
    pub fn terminating(&self) -> bool {
        *self.stop.borrow()
    }

    /// Asks it to end in order.
    pub fn end(&self) {
        self.stop.send_replace(true);
    }

    /// Its namespaces, while it has them.
    pub fn sandbox(&self) -> Option<Rc<Sandbox>> {
        self.condition.borrow().sandbox.clone()
    }

    /// Kills its processes, or one container's; false when there is no such container.
    pub fn kill(&self, container: Option<&str>) -> bool {
        let condition = self.condition.borrow();
        let mut chosen = condition.containers.iter().filter(|c| container.is_none_or(|name| c.name == name)).peekable();
        let any = chosen.peek().is_some();
        for container in chosen {
            kill_group(container.state.borrow().pid);
        }
        any
    }

    /// What `ps` shows.
    pub fn status(&self) -> status::Pod {
        let condition = self.condition.borrow();
        let terminating = self.terminating();
        let phase = match (terminating, condition.finished, condition.ready) {
            (true, ..) => "Terminating",
            (false, Some(Finish::Succeeded), _) => "Succeeded",
            (false, Some(Finish::Failed), _) => "Failed",
            (false, None, true) => "Running",
            (false, None, false) => "Pending",
        };
        let containers = condition.containers.iter().map(|named| {
            let state = named.state.borrow();
            status::Container {
                name: named.name.clone(),
                image: named.image.clone(),
                pid: state.pid,
                restarts: state.restarts,
                last_end: state.last_end.clone(),
            }
        });
        status::Pod {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            workload: self.workload.clone(),
            labels: self.labels.clone(),
            ip: Some(self.address),
            phase: phase.to_owned(),
            ready: condition.ready,
            injected: self.injected,
            sidecar_ready: condition.sidecar_ready,
            sync: None,
            containers: containers.collect(),
            message: condition.message.clone(),
            age_seconds: self.born.elapsed().as_secs(),
            namespaces: condition.sandbox.as_ref().map(|s| s.descriptors()),
        }
    }

    fn about<'a>(&'a self, node: &'a Node) -> About<'a> {
        About {
            pod: &self.name,
            namespace: &self.namespace,
            address: self.address,
            workload: &self.workload,
            labels: &self.labels,
            template: &self.template,
            settings: &self.settings,
            trust_domain: node.identity.trust_domain(),
            merge_metrics: self.merge_metrics,
        }
    }

    fn say(&self, message: Option<String>) {
        self.condition.borrow_mut().message = message;
    }
}

/// Runs the pod until it is told to end.
pub async fn live(pod: Rc<Pod>, node: Rc<Node>) {
    let mut stop = pod.stop.subscribe();
    let sandbox = loop {
        match make_sandbox(&pod, &node).await {
            Ok(sandbox) => break Some(Rc::new(sandbox)),
            Err(reason) => {
                node.trouble(format!("pod {}/{}: {reason}", pod.namespace, pod.name));
                pod.say(Some(reason));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.wait_for(|s| *s) => break None,
        }
    };
    if let Some(sandbox) = sandbox {
        pod.say(None);
        pod.condition.borrow_mut().sandbox = Some(sandbox.clone());
        node.wake.notify_one();
        let finished = run(&pod, &node, &sandbox, &mut stop).await;
        if finished.is_some() {
            {
                let mut condition = pod.condition.borrow_mut();
                (condition.finished, condition.sandbox, condition.sidecar_ready) = (finished, None, false);
            }
            drop(sandbox);
            node.wake.notify_one();
            // It stays to be looked at until somebody deletes it.
            let _ = stop.wait_for(|s| *s).await;
        }
    }
    *pod.condition.borrow_mut() = Condition { terminating: true, ..Condition::default() };
    node.forget(&pod);
}

async fn make_sandbox(pod: &Rc<Pod>, node: &Rc<Node>) -> Result<Sandbox, String> {
    let (token, root) = node.identity.credentials(&pod.namespace, &pod.template.service_account)?;
    let folder = node.state.pod(&pod.namespace, &pod.name);
    let (namespace, name, address, number) = (pod.namespace.clone(), pod.name.clone(), pod.address, pod.number);
    let redirect = pod.injected.then(|| sidecar::redirection(&pod.template, &pod.settings));
    let exe = node.exe.clone();
    // Before any process runs: a packet to a service address that is not known yet would be lost, and tried again late.
    let script = node.services_script();
    script.clone_into(&mut pod.applied.borrow_mut());
    let work = move || -> Result<Sandbox, String> {
        let inside =
            Inside { folder: &folder, namespace: &namespace, name: &name, address, token: &token, root: &root };
        let sandbox = Sandbox::make(number, &inside).map_err(|e| e.to_string())?;
        let place = Place { net: Some(sandbox.net_path()), ..Place::default() };
        tool("nft", &["-f", "-"], &script, &place).map_err(|e| e.to_string())?;
        if let Some(flags) = redirect {
            let mut args = vec!["pilot-agent"];
            args.extend(flags.iter().map(String::as_str));
            let place = Place { new_session: false, ..sandbox.place(None, None) };
            tool(&exe.to_string_lossy(), &args, "", &place).map_err(|e| format!("cannot redirect traffic: {e}"))?;
        }
        Ok(sandbox)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(format!("making the sandbox failed: {e}")))
}

/// The pod's processes, from their start to their end; how they have ended, when by themselves.
async fn run(
    pod: &Rc<Pod>,
    node: &Rc<Node>,
    sandbox: &Rc<Sandbox>,
    stop: &mut watch::Receiver<bool>,
) -> Option<Finish> {
    let sidecar = pod.injected.then(|| start_sidecar(pod, node, sandbox));
    let mut apps: Vec<(Container, Process)> = Vec::new();
    tokio::select! {
        // The application starts when its way out exists, as behind a native sidecar.
        () = until_sidecar_ready(pod, sandbox) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
    let mut finished = None;
    if !pod.terminating() {
        apps.extend(pod.template.containers.iter().map(|c| (c.clone(), start_app(pod, node, sandbox, c))));
        tokio::select! {
            () = watch_readiness(pod, node, sandbox) => {}
            finish = until_finished(pod, &mut apps) => finished = Some(finish),
            _ = stop.wait_for(|s| *s) => {}
        }
    }
    {
        let mut condition = pod.condition.borrow_mut();
        (condition.ready, condition.terminating) = (false, true);
    }
    node.wake.notify_one();
    ending::end(pod, sandbox, apps, sidecar, node.grace(pod.template.grace)).await;
    finished
}

/// Waits until all containers of the application have ended and none is to be started again.
async fn until_finished(pod: &Pod, apps: &mut [(Container, Process)]) -> Finish {
    for (_, process) in apps.iter_mut() {
        let _ = (&mut process.task).await;
    }
    let condition = pod.condition.borrow();
    let mut named = condition.containers.iter().filter(|c| c.name != CONTAINER);
    if named.all(|c| c.state.borrow().succeeded == Some(true)) { Finish::Succeeded } else { Finish::Failed }
}

fn start(pod: &Rc<Pod>, name: &str, image: &str, launch: Launch, restart: Restart) -> Process {
    let state = Rc::new(RefCell::new(State::default()));
    let named = Named { name: name.to_owned(), image: image.to_owned(), state: state.clone() };
    pod.condition.borrow_mut().containers.push(named);
    let nudged = pod.clone();
    let orders = watch::Sender::new(Order::Run);
    let keeping = keep(launch, restart, state, orders.subscribe(), move || nudged.nudge.notify_one());
    Process { orders, task: tokio::task::spawn_local(keeping) }
}

fn start_sidecar(pod: &Rc<Pod>, node: &Rc<Node>, sandbox: &Sandbox) -> Process {
    let about = pod.about(node);
    let mut env = sidecar::environment(&about);
    env.extend(node.options.sidecar_env.iter().cloned());
    let launch = Launch {
        program: node.exe.clone(),
        called: Some("pilot-agent".to_owned()),
        args: sidecar::arguments(&about, node.options.envoy.as_deref()),
        env,
        place: sandbox.place(Some(SIDECAR_ID), Some(SIDECAR_ID)),
        folder: Some(PathBuf::from("/")),
        log: node.state.log(&pod.namespace, &pod.name, CONTAINER),
    };
    start(pod, CONTAINER, "meltemi", launch, Restart::Always)
}

fn start_app(pod: &Rc<Pod>, node: &Rc<Node>, sandbox: &Sandbox, container: &Container) -> Process {
    let env = app_env(pod, container);
    let words: Vec<String> = container.command.iter().chain(&container.args).map(|w| expand(w, &env)).collect();
    let (program, args) = words.split_first().map_or((String::new(), Vec::new()), |(p, a)| (p.clone(), a.to_vec()));
    // The one program that is surely on this machine.
    let program = if program == "meltemi" { node.exe.clone() } else { PathBuf::from(program) };
    let launch = Launch {
        program,
        called: None,
        args,
        env,
        place: sandbox.place(run_as(pod, "runAsUser"), run_as(pod, "runAsGroup")),
        folder: container.working_dir.as_ref().map(PathBuf::from).or_else(|| Some(PathBuf::from("/"))),
        log: node.state.log(&pod.namespace, &pod.name, &container.name),
    };
    start(pod, &container.name, &container.image, launch, pod.template.restart)
}

fn run_as(pod: &Pod, field: &str) -> Option<u32> {
    let id = pod.template.spec.pointer(&format!("/securityContext/{field}"))?.as_u64()?;
    u32::try_from(id).ok()
}

/// The declared variables, and the few that every container has.
fn app_env(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
        ("HOME".to_owned(), "/".to_owned()),
        ("HOSTNAME".to_owned(), pod.name.clone()),
    ]);
    for variable in &container.env {
        let field = variable.value_from.as_ref().and_then(|v| v.field_ref.as_ref());
        let value = match field {
            Some(field) => downward(pod, &field.field_path),
            None => expand(variable.value.as_deref().unwrap_or_default(), &env),
        };
        env.insert(variable.name.clone(), value);
    }
    env
}

/// The downward API; an unknown field is empty, as a missing label is.
fn downward(pod: &Pod, path: &str) -> String {
    let of = |map: &BTreeMap<String, String>, key: &str| {
        map.get(key.trim_end_matches("']").trim_end_matches("\"]")).cloned().unwrap_or_default()
    };
    match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "spec.serviceAccountName" => pod.template.service_account.clone(),
        "spec.nodeName" => "laptop".to_owned(),
        "status.podIP" | "status.podIPs" => pod.address.to_string(),
        "status.hostIP" => crate::address::GATEWAY.to_string(),
        _ => match path.split_once(['\'', '"']) {
            Some(("metadata.labels[", key)) => of(&pod.labels, key),
            Some(("metadata.annotations[", key)) => of(&pod.template.annotations, key),
            _ => String::new(),
        },
    }
}

async fn until_sidecar_ready(pod: &Rc<Pod>, sandbox: &Rc<Sandbox>) {
    let started = Instant::now();
    while pod.injected && !ask_sidecar(pod, sandbox).await {
        pod.say(Some("waiting for the sidecar".to_owned()));
        tokio::time::sleep(if started.elapsed() < JUST { AT_ONCE } else { EAGER }).await;
    }
    pod.say(None);
}

async fn ask_sidecar(pod: &Rc<Pod>, sandbox: &Rc<Sandbox>) -> bool {
    let ready = ask(Question::Http(15021, "/healthz/ready".to_owned()), pod, sandbox, PROBE_TIMEOUT).await;
    pod.condition.borrow_mut().sidecar_ready = ready;
    ready
}

async fn ask(question: Question, pod: &Pod, sandbox: &Sandbox, timeout: Duration) -> bool {
    let (address, place) = (pod.address, Place { new_session: false, ..sandbox.place(None, None) });
    tokio::task::spawn_blocking(move || question.ask(address, &place, timeout)).await.unwrap_or(false)
}

/// Asks again and again, for ever.
async fn watch_readiness(pod: &Rc<Pod>, node: &Rc<Node>, sandbox: &Rc<Sandbox>) {
    let probes: Vec<Watched<'_>> = pod.template.containers.iter().map(Watched::new).collect();
    let started = Instant::now();
    loop {
        let mut message = None;
        for probe in &probes {
            if let Some(reason) = probe.unready(pod, sandbox).await {
                message = Some(reason);
            }
        }
        if pod.injected && !ask_sidecar(pod, sandbox).await {
            message = Some("the sidecar is not ready".to_owned());
        }
        let ready = message.is_none();
        pod.say(message);
        let before = std::mem::replace(&mut pod.condition.borrow_mut().ready, ready);
        if before != ready {
            node.wake.notify_one();
        }
        let pause = match ready {
            true => probes.iter().filter_map(Watched::period).min().unwrap_or(PERIOD),
            false if started.elapsed() < JUST => AT_ONCE,
            false => EAGER,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pod.nudge.notified() => {}
        }
    }
}

/// A container and what its probe has said lately.
struct Watched<'a> {
    container: &'a Container,
    probe: Option<(&'a Probe, Question)>,
    failures: Cell<u32>,
    was_ready: Cell<bool>,
}

impl<'a> Watched<'a> {
    fn new(container: &'a Container) -> Self {
        let probe = container.readiness_probe.as_ref();
        let probe = probe.and_then(|p| Some((p, Question::of(p, container)?)));
        Self { container, probe, failures: Cell::new(0), was_ready: Cell::new(false) }
    }

    fn period(&self) -> Option<Duration> {
        self.probe.as_ref().and_then(|(p, _)| p.period_seconds).map(|s| Duration::from_secs(s.max(1)))
    }

    /// Why it is not ready.
    async fn unready(&self, pod: &Pod, sandbox: &Sandbox) -> Option<String> {
        let name = &self.container.name;
        let (running, end) = {
            let condition = pod.condition.borrow();
            let named = condition.containers.iter().find(|c| c.name == *name);
            named.map_or((false, None), |c| (c.state.borrow().pid.is_some(), c.state.borrow().last_end.clone()))
        };
        if !running {
            self.was_ready.set(false);
            return Some(format!("container {name} does not run: {}", end.unwrap_or_else(|| "not started".to_owned())));
        }
        let (probe, question) = self.probe.as_ref()?;
        let timeout = probe.timeout_seconds.map_or(PROBE_TIMEOUT, |s| Duration::from_secs(s.max(1)));
        if ask(question.clone(), pod, sandbox, timeout).await {
            self.failures.set(0);
            self.was_ready.set(true);
            return None;
        }
        self.failures.set(self.failures.get() + 1);
        if self.was_ready.get() && self.failures.get() < probe.failure_threshold.unwrap_or(3) {
            return None;
        }
        self.was_ready.set(false);
        Some(format!("container {name}: its readiness probe fails"))
    }
}
