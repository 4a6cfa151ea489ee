//! Many sidecars at an istiod that serves the services of scripts/bench-istiod: what it costs to connect them, and what
//! a change costs until the last of them has it. `sidecars COUNT ISTIOD_PID [unlike]` (KUBECONFIG says where the cluster is):
//! replicas of one workload, or each of another workload, every second one in a namespace of its own.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use envoy_api::Any;
use envoy_api::envoy::config::core::v3::Node;
use kubernetes::{Cluster, Place};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use xds::{Applied, Apply, Client, Want, types};

/// Nothing has come for this long, and istiod has done nothing: all is there.
const QUIET: Duration = Duration::from_secs(3);
/// CPU time in milliseconds that an istiod without work uses in that time at most: its lease, its watches.
const IDLE: u64 = 100;

/// What all sidecars have got.
#[derive(Debug, Default)]
struct Got {
    bytes: AtomicU64,
    messages: AtomicU64,
    last: Mutex<Option<Instant>>,
}

struct Sidecar {
    got: Arc<Got>,
    clusters: BTreeSet<String>,
    routes: BTreeSet<String>,
}

impl Apply for Sidecar {
    fn apply(&mut self, kind: &str, added: &[(String, Any)], _removed: &[String]) -> Applied {
        let bytes: usize = added.iter().map(|(name, any)| name.len() + any.value.len()).sum();
        self.got.bytes.fetch_add(bytes as u64, Relaxed);
        self.got.messages.fetch_add(1, Relaxed);
        *self.got.last.lock() = Some(Instant::now());
        if kind == types::CLUSTER {
            self.clusters.extend(added.iter().map(|(name, _)| name.clone()).filter(|n| n.starts_with("outbound|")));
            self.routes.insert("8080".to_owned());
        }
        Ok(())
    }

    fn wanted(&self) -> Vec<(&'static str, Want)> {
        vec![
            (types::CLUSTER, Want::All),
            (types::ENDPOINT, Want::Names(self.clusters.clone())),
            (types::LISTENER, Want::All),
            (types::ROUTE, Want::Names(self.routes.clone())),
        ]
    }
}

/// CPU time of a process in milliseconds; a tick of the kernel is 10.
fn cpu(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.split_whitespace().skip(13).take(2).filter_map(|t| t.parse::<u64>().ok()).sum::<u64>() * 10
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The sidecar beside a pod of a service of its own, or one that is alone in its namespace.
fn unlike(index: usize) -> Result<Node, Box<dyn Error>> {
    let (app, ip) = (format!("svc-{index}"), format!("10.{}.{}.1", 128 + index / 250, index % 250));
    let (pod, namespace) = if index.is_multiple_of(2) {
        (format!("{app}-0"), "bench".to_owned())
    } else {
        (format!("caller-{index}"), format!("callers-{index}"))
    };
    let ip = if namespace == "bench" { ip } else { format!("10.200.{}.{}", index / 250, index % 250 + 1) };
    Ok(envoy_api::message_from_json(json!({
        "id": format!("sidecar~{ip}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        "metadata": {"NAMESPACE": namespace, "SERVICE_ACCOUNT": app, "CLUSTER_ID": "Kubernetes",
            "LABELS": {"app": app, "version": "v1", "security.istio.io/tlsMode": "istio"}},
    }))?)
}

fn node(index: usize) -> Result<Node, Box<dyn Error>> {
    Ok(envoy_api::message_from_json(json!({
        "id": format!("sidecar~10.200.{}.{}~caller-{index}.bench~bench.svc.cluster.local", index / 250, index % 250 + 1),
        "metadata": {"NAMESPACE": "bench", "SERVICE_ACCOUNT": "default", "CLUSTER_ID": "Kubernetes"},
    }))?)
}

/// Waits until nothing comes any more; when the last came.
async fn settle(got: &Got, istiod: u32, since: Instant) -> Option<Instant> {
    loop {
        let before = cpu(istiod);
        tokio::time::sleep(QUIET).await;
        let last = *got.last.lock();
        if last.unwrap_or(since).max(since).elapsed() >= QUIET && cpu(istiod).saturating_sub(before) < IDLE {
            return last.filter(|at| *at > since);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let count: usize = words.next().and_then(|n| n.parse().ok()).unwrap_or(100);
    let istiod: u32 = words.next().and_then(|n| n.parse().ok()).ok_or("name istiod's pid")?;
    let node = if words.next().as_deref() == Some("unlike") { unlike } else { node };
    let got = Arc::new(Got::default());
    let (begun, before) = (Instant::now(), cpu(istiod));
    for index in 0..count {
        let channel = Endpoint::from_static("http://127.0.0.1:15010").connect_lazy();
        let client = Client { channel, node: node(index)? };
        let mut sidecar = Sidecar { got: got.clone(), clusters: BTreeSet::new(), routes: BTreeSet::new() };
        tokio::spawn(async move { client.run(&mut sidecar).await });
    }
    while got.messages.load(Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    report(&got, istiod, count, "connected", begun, before).await;

    let cluster = Cluster::connect(None, None, "istio-system").await?;
    let at = |api: &str, plural: &str, name: &str| Place::list(api, plural, Some("bench")).object(name);
    let set = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let changes = [
        (
            "one endpoint",
            at("discovery.k8s.io/v1", "endpointslices", "svc-7"),
            set("/endpoints/0/addresses", json!(["10.250.0.1"])),
        ),
        (
            "one VirtualService",
            at("networking.istio.io/v1", "virtualservices", "svc-5"),
            set("/spec/http/0/timeout", json!("3s")),
        ),
        ("metadata alone: a pod", at("v1", "pods", "svc-9-0"), set("/metadata/annotations", json!({"note": "one"}))),
        (
            "metadata alone: a label nothing selects",
            at("v1", "pods", "svc-9-1"),
            set("/metadata/labels/note", json!("one")),
        ),
        ("metadata alone: a status", at("v1", "pods", "svc-9-2/status"), set("/status/message", json!("fine"))),
        (
            "metadata alone: a VirtualService",
            at("networking.istio.io/v1", "virtualservices", "svc-5"),
            set("/metadata/annotations", json!({"note": "one"})),
        ),
    ];
    for (what, place, patch) in changes {
        let (begun, before) = (Instant::now(), cpu(istiod));
        cluster.patch(&place, &patch).await?;
        report(&got, istiod, count, what, begun, before).await;
    }
    // All of them are still connected.
    println!("resident with {count} sidecars {} KiB", resident(istiod));
    Ok(())
}

/// Says what has come since `begun`, when nothing comes any more.
async fn report(got: &Got, istiod: u32, count: usize, what: &str, begun: Instant, cpu_before: u64) {
    let last = settle(got, istiod, begun).await;
    let (bytes, messages) = (got.bytes.swap(0, Relaxed), got.messages.swap(0, Relaxed));
    let took = last.map_or(0, |at| at.duration_since(begun).as_millis());
    let each = |n: u64| n / count.max(1) as u64;
    println!(
        "{what}: {messages} messages, the last after {took} ms, {} bytes a sidecar, istiod's CPU {} ms",
        each(bytes),
        cpu(istiod).saturating_sub(cpu_before)
    );
}
