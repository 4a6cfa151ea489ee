//! The node: it plays kubelet, controllers and kube-proxy for one mesh, in a process that is the first of its own process,
//! network and mount namespaces. When it ends, however it ends, everything in them ends.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use net::netns::Place;
use tokio::sync::Notify;

use crate::address::{DNS, ISTIOD, PodAddresses, ServiceAddresses};
use crate::controller::{Current, Step, plan};
use crate::endpoints::{Backend, Served, dns_table, nft_script};
use crate::identity::Identity;
use crate::istiod::{self, Istiod, IstiodOptions};
use crate::manifest::{Desired, Manifests, Problem};
use crate::model::letters;
use crate::paths::StateDir;
use crate::pod::{self, Birth, Pod};
use crate::probe::{http_get, http_put, inside};
use crate::run::tool;
use crate::status::{Request, Response};
use crate::{control, dns, objects, sandbox, sidecar};

mod house;
mod view;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Without news everything is looked through this often, in case something had failed.
const PUBLISH_EVERY: Duration = Duration::from_secs(2);
/// How often istiod is asked.
const ASK_ISTIOD_EVERY: Duration = Duration::from_millis(500);
/// Everything ends within this time at `down`.
const DOWN_GRACE: Duration = Duration::from_secs(2);
/// Remembered mishaps.
const MAX_TROUBLES: usize = 50;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The user's files and folders.
    pub sources: Vec<PathBuf>,
    /// Of objects without a namespace.
    pub namespace: String,
    /// Life of workload certificates in seconds.
    pub cert_seconds: Option<u64>,
    /// More environment for istiod.
    pub istiod_env: Vec<(String, String)>,
    /// More environment for sidecars.
    pub sidecar_env: Vec<(String, String)>,
    /// A stock Envoy to be run as every pod's proxy.
    pub envoy: Option<PathBuf>,
    /// Run no control plane: pods get no sidecar, whatever their namespace says.
    pub plain: bool,
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A tool failed or is missing.
    #[error(transparent)]
    Tool(#[from] crate::run::ToolError),
    /// A file, a socket, a runtime.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// The node's state; everything runs on one thread.
pub struct Node {
    /// As started.
    pub options: NodeOptions,
    /// The mesh's folder.
    pub state: StateDir,
    /// The one binary.
    pub exe: PathBuf,
    /// Issues tokens.
    pub identity: Identity,
    /// Something has changed: look what is to be done.
    pub wake: Notify,
    istiod: Istiod,
    names: dns::Shared,
    inner: RefCell<Inner>,
    view: RefCell<istiod::View>,
    script: RefCell<String>,
    /// There is a new script.
    scripted: Notify,
    /// Numbers of the ready pods that everybody was told of last.
    published: RefCell<BTreeSet<u64>>,
    ending: Cell<bool>,
}

struct Inner {
    manifests: Manifests,
    desired: Desired,
    problems: Vec<Problem>,
    said: Vec<Problem>,
    pods: BTreeMap<u64, Rc<Pod>>,
    next_pod: u64,
    pod_addresses: PodAddresses,
    service_addresses: ServiceAddresses,
    folder: objects::Folder,
    troubles: VecDeque<String>,
    /// How often each Deployment was asked to replace its pods; part of their hash.
    rolls: BTreeMap<(String, String), u64>,
}

impl Inner {
    /// Numbers of the pods that get traffic.
    fn ready(&self) -> BTreeSet<u64> {
        self.pods.values().filter(|p| p.ready() && !p.terminating()).map(|p| p.number).collect()
    }
}

/// Runs a node until it is told to end.
///
/// # Errors
/// When the network cannot be made or the control socket cannot be bound.
pub fn run(state: StateDir, options: NodeOptions, identity: Identity) -> Result<(), NodeError> {
    // Tools and our own paths under /proc want the numbers of this process namespace.
    tool("mount", &["-t", "proc", "proc", "/proc"], "", &Place::default())?;
    sandbox::make_bridge()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| NodeError::Io("cannot start a runtime", e))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let node = Rc::new(Node::new(state, options, identity)?);
        let address = SocketAddr::from((DNS, 53));
        dns::serve(address, node.names.clone()).await.map_err(|e| NodeError::Io("cannot serve DNS", e))?;
        control::serve(&node.state.socket(), node.clone()).map_err(|e| NodeError::Io("cannot make control.sock", e))?;
        let signals = stop_signals().map_err(|e| NodeError::Io("cannot wait for signals", e))?;
        if !node.options.plain {
            node.istiod.start();
        }
        tokio::select! {
            () = node.clone().work() => {}
            () = node.clone().keep_services() => {}
            () = node.clone().look_around() => {}
            () = node.clone().keep_house() => {}
            () = signals => {}
            () = node.told_to_end() => {}
        }
        node.clone().finish().await;
        Ok(())
    })
}

fn stop_signals() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

impl Node {
    fn new(state: StateDir, options: NodeOptions, identity: Identity) -> Result<Self, NodeError> {
        let exe = std::env::current_exe().map_err(|e| NodeError::Io("cannot find the meltemi binary", e))?;
        let folder = objects::Folder::new(state.objects()).map_err(|e| NodeError::Io("cannot write objects", e))?;
        let istiod = Istiod::new(IstiodOptions {
            exe: exe.clone(),
            sources: options.sources.clone(),
            overlay: state.objects(),
            ca: state.ca(),
            trust_domain: identity.trust_domain().to_owned(),
            default_namespace: options.namespace.clone(),
            cert_seconds: options.cert_seconds,
            env: options.istiod_env.clone(),
            log: state.istiod_log(),
        });
        let inner = Inner {
            manifests: Manifests::new(options.sources.clone(), &options.namespace),
            desired: Desired::default(),
            problems: Vec::new(),
            said: Vec::new(),
            pods: BTreeMap::new(),
            next_pod: 1,
            pod_addresses: PodAddresses::default(),
            service_addresses: ServiceAddresses::load(&state.vips()),
            folder,
            troubles: VecDeque::new(),
            rolls: BTreeMap::new(),
        };
        Ok(Self {
            options,
            state,
            exe,
            identity,
            wake: Notify::new(),
            istiod,
            names: dns::Shared::default(),
            inner: RefCell::new(inner),
            view: RefCell::default(),
            script: RefCell::default(),
            scripted: Notify::new(),
            published: RefCell::default(),
            ending: Cell::new(false),
        })
    }

    /// Remembers and prints a mishap.
    pub fn trouble(&self, text: String) {
        let troubles = &mut self.inner.borrow_mut().troubles;
        if troubles.back() == Some(&text) {
            return;
        }
        eprintln!("{text}");
        if troubles.len() == MAX_TROUBLES {
            troubles.pop_front();
        }
        troubles.push_back(text);
    }

    /// A grace time, shorter when the whole mesh ends.
    pub fn grace(&self, asked: Duration) -> Duration {
        if self.ending.get() { asked.min(DOWN_GRACE) } else { asked }
    }

    /// A pod has ended: its address and files are free.
    pub fn forget(&self, pod: &Pod) {
        let mut inner = self.inner.borrow_mut();
        inner.pods.remove(&pod.number);
        inner.pod_addresses.free(pod.address);
        drop(inner);
        // Its logs stay until `down`; the folder of secrets goes.
        let _ = std::fs::remove_dir_all(self.state.pod(&pod.namespace, &pod.name));
        self.wake.notify_one();
    }

    /// The main loop: files, controllers, endpoints.
    async fn work(self: Rc<Self>) {
        let mut news = true;
        let mut published = Instant::now();
        loop {
            if self.inner.borrow_mut().manifests.refresh() {
                self.read_wishes();
                news = true;
            }
            if news || published.elapsed() > PUBLISH_EVERY {
                self.reconcile();
                self.publish();
                published = Instant::now();
            }
            tokio::select! {
                () = self.wake.notified() => news = true,
                () = tokio::time::sleep(LOOK_EVERY) => news = false,
            }
        }
    }

    fn read_wishes(&self) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        (inner.desired, inner.problems) = inner.manifests.desired();
        for (key, rolls) in &inner.rolls {
            if let Some(workload) = inner.desired.workloads.get_mut(key) {
                workload.hash = letters(xxhash_rust::xxh64::xxh64(workload.hash.as_bytes(), *rolls), 10);
            }
        }
    }

    fn roll(&self, key: (String, String)) -> Result<(), String> {
        let known = self.inner.borrow().desired.workloads.get(&key).is_some_and(|w| w.deployment);
        if !known {
            return Err(format!("there is no Deployment {}/{}", key.0, key.1));
        }
        *self.inner.borrow_mut().rolls.entry(key).or_default() += 1;
        self.read_wishes();
        self.wake.notify_one();
        Ok(())
    }

    fn reconcile(self: &Rc<Self>) {
        let steps = {
            let inner = self.inner.borrow();
            let current: Vec<Current> = inner
                .pods
                .values()
                .filter(|p| !p.terminating())
                .map(|p| Current {
                    number: p.number,
                    workload: (p.namespace.clone(), p.workload.clone()),
                    hash: p.hash.clone(),
                    ready: p.ready(),
                })
                .collect();
            plan(&inner.desired.workloads, &current)
        };
        for step in steps {
            match step {
                Step::Create(key) => self.create(&key),
                Step::Delete(number) => {
                    if let Some(pod) = self.inner.borrow().pods.get(&number) {
                        pod.end();
                    }
                }
            }
        }
    }

    fn create(self: &Rc<Self>, key: &(String, String)) {
        let mut inner = self.inner.borrow_mut();
        let Some(workload) = inner.desired.workloads.get(key).cloned() else { return };
        // The successor of a bare pod has its name, and waits for its end.
        if !workload.deployment && inner.pods.values().any(|p| p.namespace == key.0 && p.name == key.1) {
            return;
        }
        let Some(address) = inner.pod_addresses.take() else { return };
        let number = inner.next_pod;
        inner.next_pod += 1;
        let seed = xxhash_rust::xxh64::xxh64(&number.to_le_bytes(), u64::from(std::process::id()) ^ 0x6d65);
        let name = match workload.deployment {
            true => format!("{}-{}-{}", workload.name, workload.hash, letters(seed, 5)),
            false => workload.name.clone(),
        };
        let namespace = inner.desired.namespaces.get(&key.0).cloned().unwrap_or_default();
        let injected = !self.options.plain && sidecar::is_injected(&namespace, &workload.template);
        let hash = workload.deployment.then_some(workload.hash.as_str());
        let labels = objects::pod_labels(&workload.template, hash, &workload.name, injected);
        let meta = istio_api::ObjectMeta {
            namespace: workload.namespace.clone(),
            labels: labels.clone(),
            annotations: workload.template.annotations.clone(),
            ..istio_api::ObjectMeta::default()
        };
        let settings = mesh::proxy_settings(&inner.desired.mesh, &inner.desired.proxy_configs, &meta);
        let mut trouble = None;
        let settings = settings.unwrap_or_else(|reason| {
            trouble = Some(format!("pod {}/{name}: {reason}; it starts without", workload.namespace));
            inner.desired.mesh.default_config.clone().unwrap_or_default()
        });
        let merge_metrics = inner.desired.mesh.enable_prometheus_merge.unwrap_or(true);
        let birth = Birth { number, name, labels, injected, address, settings, merge_metrics };
        let pod = Rc::new(Pod::new(&workload, birth));
        inner.pods.insert(number, pod.clone());
        drop(inner);
        if let Some(reason) = trouble {
            self.trouble(reason);
        }
        tokio::task::spawn_local(pod::live(pod, self.clone()));
    }

    /// Tells istiod, cluster DNS and the kernel how things stand.
    fn publish(self: &Rc<Self>) {
        let (script, ready) = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let ready = inner.ready();
            let pods: Vec<Backend<'_>> = inner
                .pods
                .values()
                .map(|pod| Backend {
                    namespace: &pod.namespace,
                    labels: &pod.labels,
                    address: pod.address,
                    ready: pod.ready() && !pod.terminating(),
                    containers: &pod.template.containers,
                })
                .collect();
            let mut served = Vec::new();
            for ((namespace, name), service) in &inner.desired.services {
                let plain = service.headless || service.external_name.is_some();
                let address = (!plain).then(|| inner.service_addresses.of(namespace, name, service.cluster_ip));
                served.push(Served::find(service, address, &pods));
            }
            let objects = overlay(&inner.desired, &served, inner.pods.values());
            if let Err(error) = inner.folder.hold(&objects) {
                eprintln!("cannot write objects for istiod: {error}");
            }
            *self.names.borrow_mut() = dns_table(&served, ISTIOD);
            (nft_script(&served), ready)
        };
        self.published.replace(ready);
        self.script.replace(script);
        self.scripted.notify_one();
    }

    /// Keeps the kernel's view of the services up to date in every pod. A task of its own: istiod must not wait for it.
    async fn keep_services(self: Rc<Self>) {
        loop {
            self.scripted.notified().await;
            self.apply().await;
        }
    }

    /// The services as an nftables script, as they stood at the last look.
    pub fn services_script(&self) -> String {
        self.script.borrow().clone()
    }

    /// Loads the script in every pod that does not have it yet.
    async fn apply(self: &Rc<Self>) {
        let script = self.services_script();
        let behind: Vec<_> = self
            .inner
            .borrow()
            .pods
            .values()
            .filter(|p| *p.applied.borrow() != script)
            .filter_map(|p| Some((p.clone(), p.sandbox()?)))
            .collect();
        for (pod, sandbox) in behind {
            let (text, place) = (script.clone(), Place { net: Some(sandbox.net_path()), ..Place::default() });
            let done = tokio::task::spawn_blocking(move || tool("nft", &["-f", "-"], &text, &place)).await;
            match done {
                Ok(Ok(_)) => script.clone_into(&mut pod.applied.borrow_mut()),
                Ok(Err(error)) if !pod.terminating() => self.trouble(format!("services in pod {}: {error}", pod.name)),
                _ => {}
            }
        }
    }

    /// Asks istiod, and prints what is new among the problems.
    async fn look_around(self: Rc<Self>) {
        loop {
            if !self.options.plain
                && let Ok(view) = tokio::task::spawn_blocking(istiod::look).await
            {
                *self.view.borrow_mut() = view;
            }
            let problems = self.problems();
            let fresh: Vec<_> = {
                let mut inner = self.inner.borrow_mut();
                let said = std::mem::replace(&mut inner.said, problems.clone());
                problems.into_iter().filter(|p| !said.contains(p)).collect()
            };
            for problem in fresh {
                eprintln!("refused: {problem}");
            }
            tokio::time::sleep(ASK_ISTIOD_EVERY).await;
        }
    }

    async fn told_to_end(&self) {
        while !self.ending.get() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends all pods at the same time, then istiod.
    async fn finish(self: Rc<Self>) {
        self.ending.set(true);
        for pod in self.inner.borrow().pods.values() {
            pod.end();
        }
        let deadline = tokio::time::Instant::now() + DOWN_GRACE * 3;
        while !self.inner.borrow().pods.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.istiod.stop(false).await;
        // Nothing is lost when this fails: the next run gives other addresses.
        let _ = self.inner.borrow().service_addresses.save(&self.state.vips());
    }

    /// Does what the control socket asks for.
    pub async fn obey(self: Rc<Self>, request: Request) -> Response {
        let result = match request {
            Request::Status => return Response { status: Some(self.status()), ..Response::default() },
            Request::Get { namespace, pod, port, path } => return self.page(&namespace, &pod, port, path).await,
            Request::Put { port, path, body } => return put(port, path, body).await,
            Request::DeletePod { namespace, pod } => self.find(&namespace, &pod).map(|p| {
                p.end();
                self.wake.notify_one();
            }),
            Request::Roll { namespace, workload } => self.roll((namespace, workload)),
            Request::KillPod { namespace, pod, container } => self.find(&namespace, &pod).and_then(|p| {
                p.kill(container.as_deref()).then_some(()).ok_or_else(|| format!("pod {pod} has no such container"))
            }),
            Request::StopIstiod => {
                self.istiod.stop(true).await;
                Ok(())
            }
            Request::StartIstiod => {
                self.istiod.start();
                Ok(())
            }
            Request::RestartIstiod { after_seconds } => {
                self.istiod.stop(true).await;
                let node = self.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_secs(after_seconds.min(86_400))).await;
                    node.istiod.start();
                });
                Ok(())
            }
            Request::Down => {
                self.ending.set(true);
                Ok(())
            }
        };
        Response { error: result.err(), ..Response::default() }
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Rc<Pod>, String> {
        let inner = self.inner.borrow();
        let found = inner.pods.values().find(|p| p.namespace == namespace && p.name == name);
        found.cloned().ok_or_else(|| format!("there is no pod {namespace}/{name}; `meltemi ps` shows all"))
    }

    async fn page(&self, namespace: &str, pod: &str, port: u16, path: String) -> Response {
        let net = match pod {
            "" => Ok(None),
            pod => self.find(namespace, pod).and_then(|p| {
                p.sandbox().map(|s| Some(s.net_path())).ok_or_else(|| format!("pod {pod} has no network yet"))
            }),
        };
        let fetched = match net {
            Err(reason) => Err(reason),
            Ok(net) => {
                let place = Place { net, ..Place::default() };
                let target = SocketAddr::from(([127, 0, 0, 1], port));
                let get = move || inside(&place, || http_get(target, &path, Duration::from_secs(5)));
                let answer = tokio::task::spawn_blocking(get).await;
                answer.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string()))
            }
        };
        match fetched {
            Ok((_, body)) => {
                Response { body: Some(String::from_utf8_lossy(&body).into_owned()), ..Response::default() }
            }
            Err(reason) => Response { error: Some(reason), ..Response::default() },
        }
    }
}

/// Gives a page of istiod's a new content.
async fn put(port: u16, path: String, content: String) -> Response {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    let put = move || http_put(target, &path, &content, Duration::from_secs(5));
    let answer = tokio::task::spawn_blocking(put).await.map_err(|e| e.to_string());
    let text = |body: &[u8]| String::from_utf8_lossy(body).trim().to_owned();
    match answer.and_then(|r| r.map_err(|e| e.to_string())) {
        Ok((200..300, body)) => Response { body: Some(text(&body)), ..Response::default() },
        Ok((_, body)) => Response { error: Some(text(&body)), ..Response::default() },
        Err(reason) => Response { error: Some(reason), ..Response::default() },
    }
}

/// The objects that a cluster's own parts would write.
fn overlay<'a>(
    desired: &Desired,
    served: &[Served<'_>],
    pods: impl Iterator<Item = &'a Rc<Pod>>,
) -> BTreeMap<String, serde_json::Value> {
    let mut all = BTreeMap::new();
    for name in desired.namespaces.keys().filter(|n| !desired.written_namespaces.contains(*n)) {
        all.insert(format!("namespace-{name}"), objects::namespace(name));
    }
    for one in served {
        let name = format!("service-{}-{}", one.service.namespace, one.service.name);
        all.insert(name, objects::service(one.service, one.address));
    }
    for pod in pods.filter(|p| p.sandbox().is_some()) {
        let view = objects::PodView {
            name: &pod.name,
            namespace: &pod.namespace,
            owner: pod.deployment.then_some((pod.workload.as_str(), pod.hash.as_str())),
            labels: &pod.labels,
            template: &pod.template,
            address: Some(pod.address),
            ready: pod.ready() && !pod.terminating(),
            terminating: pod.terminating(),
            injected: pod.injected,
            created: pod.created,
        };
        all.insert(format!("pod-{}-{}", pod.namespace, pod.name), objects::pod(&view));
    }
    all
}
