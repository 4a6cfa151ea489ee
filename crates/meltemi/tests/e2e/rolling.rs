//! Restarts under traffic: a rolling restart of everything fails nothing.

use std::process::{Child, Output};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use laptop::status::Request;
use laptop::{Mesh, MeshOptions};
use serde_json::Value;

use crate::shop::{PATIENCE, binary, report};

/// Every service, each with three pods.
const SERVICES: [&str; 4] = ["web", "api", "events", "queue"];
/// Restarts that are asked for at the least.
const RESTARTS: usize = 50;
/// Seconds of one round of traffic.
const ROUND: u64 = 20;

/// One kind of traffic: words of `meltemi app`, requests a second, connections or streams.
const TRAFFIC: [(&str, &[&str], u64, &str); 6] = [
    ("HTTP/1 GET", &["get", "http://web:8080/", "-c"], 150, "8"),
    ("HTTP/1 POST", &["get", "http://web:8080/echo", "-X", "POST", "-d", "hello", "-c"], 50, "4"),
    ("HTTP/2", &["get", "http://api:8080/", "--h2", "-c"], 125, "4"),
    ("gRPC", &["get", "http://api-grpc:9090/echo.Echo/Unary", "--grpc", "-d", "hello", "-c"], 50, "2"),
    ("gRPC streams", &["stream", "http://events:9090/echo.Echo/Stream", "--streams"], 75, "12"),
    ("TCP", &["stream", "tcp://queue:7000", "--streams"], 50, "10"),
];

fn service(name: &str, selects: &str, port_name: &str, port: u16, target: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {selects}}}\n  \
         ports: [{{name: {port_name}, port: {port}, targetPort: {target}}}]\n"
    )
}

/// A Deployment whose pods serve on for a while after SIGTERM, as an application should; `more`: of the container.
fn deployment(name: &str, replicas: u32, args: &str, probe: &str, more: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         serviceAccountName: {name}\n      containers:\n      - name: app\n        image: app\n        \
         command: [meltemi, app, --name, {name}, {args}]\n        readinessProbe: {probe}\n{more}"
    )
}

fn pods() -> String {
    let http = "{httpGet: {path: /healthz, port: 8080}}";
    let linger = "--linger, 2s, --http, \"8080\"";
    // One of them does what most charts do: it sleeps before SIGTERM, since its application leaves at once.
    let sleeps = "        lifecycle: {preStop: {sleep: {seconds: 2}}}\n";
    let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production, labels: {istio-injection: enabled}}\n\
        ---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\n\
        spec: {mtls: {mode: STRICT}}\n"
        .to_owned();
    text += &service("web", "web", "http", 8080, 8080);
    text += &service("api", "api", "http2", 8080, 8080);
    text += &service("api-grpc", "api", "grpc", 9090, 8080);
    text += &service("events", "events", "grpc", 9090, 8080);
    text += &service("queue", "queue", "tcp", 7000, 7000);
    text += &deployment("web", 3, linger, http, "");
    text += &deployment("api", 3, "--http, \"8080\"", http, sleeps);
    text += &deployment("events", 3, linger, http, "");
    text += &deployment("queue", 3, "--linger, 2s, --farewell, --tcp, \"7000\"", "{tcpSocket: {port: 7000}}", "");
    text += &deployment("client", 1, "--http, \"8080\"", http, "");
    text
}

/// A mesh of these services, and its folder of YAML.
pub struct Bed {
    pub mesh: Mesh,
    folder: tempfile::TempDir,
}

impl Bed {
    /// Brings it up; `change` may alter the options.
    pub fn up(change: impl FnOnce(&mut MeshOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("pods.yaml"), pods()).unwrap();
        let mut options = MeshOptions::new(binary(), vec![folder.path().to_owned()], folder.path().join(".state"));
        options.namespace = "production".to_owned();
        options.patience = PATIENCE;
        crate::sidecar::choose(&mut options);
        change(&mut options);
        Self { mesh: Mesh::up(options).unwrap_or_else(|e| panic!("{e}")), folder }
    }

    /// Replaces a file, whole.
    pub fn write(&self, name: &str, text: &str) {
        let part = self.folder.path().join(format!(".{name}.part"));
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, self.folder.path().join(name)).unwrap();
    }

    /// A file as it is.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Names of the pods of a Deployment.
    pub fn pods(&self, workload: &str) -> Vec<String> {
        self.mesh.pods("production", workload).unwrap().into_iter().map(|p| p.name).collect()
    }

    /// What all sidecars of a Deployment have logged.
    pub fn logs(&self, workload: &str) -> String {
        self.pods(workload).iter().map(|pod| self.mesh.logs("production", pod, "istio-proxy")).collect()
    }

    /// Runs a command of the test application in the client's pod.
    pub fn call(&self, words: &[&str]) -> Output {
        let binary = binary();
        let mut command = vec![binary.to_str().unwrap(), "app"];
        command.extend(words);
        self.mesh.exec("production", "deploy/client", &command).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        let started = Instant::now();
        while !so() {
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A number of a report.
pub fn count_of(report: &Value, field: &str) -> u64 {
    report.get(field).and_then(Value::as_u64).unwrap_or(0)
}

fn start(mesh: &Mesh, words: &[&str], rate: u64, width: &str, seconds: u64) -> Child {
    let (binary, rate, duration) = (binary(), rate.to_string(), format!("{seconds}s"));
    let mut all = vec![binary.to_str().unwrap(), "app"];
    all.extend(words);
    all.extend([width, "--json", "--rate", &rate, "--duration", &duration, "--timeout", "20s"]);
    mesh.spawn("production", "deploy/client", &all).unwrap_or_else(|e| panic!("{e}"))
}

/// Names of all pods that serve.
fn serving(mesh: &Mesh) -> Vec<String> {
    let status = mesh.status().unwrap();
    let mine = status.pods.into_iter().filter(|p| SERVICES.contains(&p.workload.as_str()));
    mine.filter(|p| p.phase != "Terminating").map(|p| p.name).collect()
}

/// Restarts every pod of every service once; how many there were.
fn restart_everything(mesh: &Mesh) -> usize {
    let old = serving(mesh);
    for workload in SERVICES {
        mesh.tell(&Request::Roll { namespace: "production".to_owned(), workload: workload.to_owned() }).unwrap();
    }
    let replaced = |s: &laptop::status::Status| {
        let now: Vec<_> = s.pods.iter().filter(|p| p.phase != "Terminating").collect();
        SERVICES.iter().all(|name| {
            let mine: Vec<_> = now.iter().filter(|p| p.workload == *name).collect();
            mine.len() == 3 && mine.iter().all(|p| p.ready && !old.contains(&p.name))
        })
    };
    mesh.wait_until("every pod being replaced", PATIENCE * 2, replaced).unwrap_or_else(|e| panic!("{e}"));
    old.len()
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn a_rolling_restart_of_everything_fails_nothing() {
    let bed = Bed::up(|_| {});
    let mesh = &bed.mesh;
    let done = AtomicBool::new(false);
    let mut wrong = Vec::new();
    let mut moved = [0; TRAFFIC.len()];
    let restarts = std::thread::scope(|scope| {
        let rolling = scope.spawn(|| {
            let mut restarts = 0;
            while restarts < RESTARTS {
                restarts += restart_everything(mesh);
            }
            done.store(true, Relaxed);
            restarts
        });
        // Rounds of traffic as long as pods are restarted; each runs to its own end, so that no request is left uncounted.
        while !done.load(Relaxed) && !rolling.is_finished() {
            round(mesh, &mut wrong, &mut moved);
        }
        rolling.join().unwrap()
    });
    for ((name, ..), moved) in TRAFFIC.iter().zip(moved) {
        let streams = *name == "gRPC streams" || *name == "TCP";
        assert!(!streams || moved > 0, "{name}: no stream was ever moved");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(restarts >= RESTARTS);
}

/// All kinds of traffic for a while, side by side.
fn round(mesh: &Mesh, wrong: &mut Vec<String>, moved: &mut [u64]) {
    let loads = TRAFFIC.map(|(name, words, rate, width)| (name, rate, start(mesh, words, rate, width, ROUND)));
    for ((name, rate, child), moved) in loads.into_iter().zip(moved) {
        let loaded = report(&child.wait_with_output().unwrap());
        eprintln!("{name}: {}", short(&loaded));
        let (made, planned) = (count_of(&loaded, "requests"), rate * ROUND);
        if count_of(&loaded, "failed") > 0 || made * 100 < planned * 99 {
            wrong.push(format!("{name}: {made} of {planned}: {loaded}"));
        }
        *moved += count_of(&loaded, "moved");
    }
}

fn short(report: &Value) -> String {
    let number = |key: &str| report.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    format!(
        "{} requests, {} failed, {:.1}/s, p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms, {} streams opened, {} moved, {}",
        number("requests"),
        number("failed"),
        number("rate"),
        number("p50_ms"),
        number("p99_ms"),
        number("max_ms"),
        number("opened"),
        number("moved"),
        report.get("errors").map(ToString::to_string).unwrap_or_default()
    )
}
