//! `meltemi demo`: the example shop, its traffic, and a live table of who calls whom.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use testapp::Report;

use crate::mesh::{Mesh, MeshOptions};
use crate::status::{Pod, Status};
use crate::table::columns;

/// The files of examples/shop.
const SHOP: [(&str, &str); 8] = [
    ("namespaces.yaml", include_str!("../../../examples/shop/namespaces.yaml")),
    ("order.yaml", include_str!("../../../examples/shop/order.yaml")),
    ("payment.yaml", include_str!("../../../examples/shop/payment.yaml")),
    ("database.yaml", include_str!("../../../examples/shop/database.yaml")),
    ("legacy.yaml", include_str!("../../../examples/shop/legacy.yaml")),
    ("istio/payment-api.yaml", include_str!("../../../examples/shop/istio/payment-api.yaml")),
    ("istio/peer-authentication.yaml", include_str!("../../../examples/shop/istio/peer-authentication.yaml")),
    ("istio/authorization.yaml", include_str!("../../../examples/shop/istio/authorization.yaml")),
];
/// Of the seed's objects, which name none.
const NAMESPACE: &str = "production";
/// Looks whose reports may still tell of the time before the mesh was ready, when callers find nobody to call.
const SETTLE: u64 = 1;
/// Containers whose name starts so are callers; the rest of the name is whom they call.
const CALLER: &str = "to-";

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// End after so many seconds of traffic; without it, at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
    /// Write what was seen to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Without control plane and sidecars, for comparison.
    #[arg(long)]
    plain: bool,
}

/// One line of the table: a caller and whom it calls.
#[derive(Clone, Debug, Default, Serialize)]
struct Call {
    source: String,
    destination: String,
    total: u64,
    ok: u64,
    failed: u64,
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// By answering version.
    versions: BTreeMap<String, u64>,
    /// By status or error text.
    results: BTreeMap<String, u64>,
    /// `yes` when the sidecars say that the last second's calls were mutual TLS.
    mtls: String,
}

/// Runs the demo.
///
/// # Errors
/// When the mesh does not come up, or a file cannot be written.
pub fn run(args: &DemoArgs) -> Result<ExitCode, String> {
    let base = std::env::temp_dir().join(format!("meltemi-demo-{}", std::process::id()));
    let result = in_folder(args, &base);
    // What remains after a failure is in the system's temporary folder.
    let _ = std::fs::remove_dir_all(&base);
    result
}

fn in_folder(args: &DemoArgs, base: &Path) -> Result<ExitCode, String> {
    let shop = base.join("shop");
    for (name, text) in SHOP {
        let path = shop.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&shop)).map_err(|e| e.to_string())?;
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let binary = std::env::current_exe().map_err(|e| e.to_string())?;
    eprintln!("bringing up the shop ...");
    let started = Instant::now();
    let mesh = Mesh::up(MeshOptions {
        namespace: NAMESPACE.to_owned(),
        plain: args.plain,
        ..MeshOptions::new(binary, vec![shop], base)
    })
    .map_err(|e| e.to_string())?;
    eprintln!("up in {:.1} s", started.elapsed().as_secs_f64());
    let calls = watch(&mesh, args.seconds)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_vec_pretty(&calls).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the table each second until the time is over or Ctrl-C.
fn watch(mesh: &Mesh, seconds: Option<u64>) -> Result<Vec<Call>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let (mut totals, mut before) = (BTreeMap::<_, Call>::new(), BTreeMap::new());
        let mut began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut seen = Seen::default();
        for second in 0.. {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = tokio::signal::ctrl_c() => break,
            }
            let status = mesh.status().map_err(|e| e.to_string())?;
            if second <= SETTLE {
                seen.look(mesh, &status, &mut before);
                began = Instant::now();
                continue;
            }
            let now = seen.look(mesh, &status, &mut totals);
            draw(second - SETTLE, &now);
            if seconds.is_some_and(|limit| second - SETTLE >= limit) {
                break;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        for call in totals.values_mut() {
            call.rate = call.total as f64 / seconds.max(0.1);
        }
        Ok(totals.into_values().collect())
    })
}

/// How far each caller's output has been read.
#[derive(Default)]
struct Seen {
    read: BTreeMap<(String, String), usize>,
    last: Option<Instant>,
}

impl Seen {
    /// The calls of the last second; added to `totals` by source and destination.
    fn look(&mut self, mesh: &Mesh, status: &Status, totals: &mut BTreeMap<(String, String), Call>) -> Vec<Call> {
        let mut now: BTreeMap<(String, String), Call> = BTreeMap::new();
        for pod in &status.pods {
            let secure = mutual_tls(mesh, pod);
            for container in pod.containers.iter().filter_map(|c| c.name.strip_prefix(CALLER)) {
                let key = (pod.workload.clone(), container.to_owned());
                for report in self.fresh(mesh, pod, container) {
                    for map in [&mut now, totals] {
                        let call = map.entry(key.clone()).or_default();
                        (call.source, call.destination) = key.clone();
                        call.mtls = secure.map_or("-", |s| if s { "yes" } else { "no" }).to_owned();
                        call.add(&report);
                    }
                }
            }
        }
        let seconds = self.last.replace(Instant::now()).map_or(1.0, |last| last.elapsed().as_secs_f64());
        for call in now.values_mut() {
            call.rate = call.total as f64 / seconds.max(0.1);
        }
        now.into_values().collect()
    }

    fn fresh(&mut self, mesh: &Mesh, pod: &Pod, container: &str) -> Vec<Report> {
        let name = format!("{CALLER}{container}");
        let text = mesh.logs(&pod.namespace, &pod.name, &name);
        let from = self.read.entry((pod.name.clone(), name)).or_default();
        let new = text.get(*from..).unwrap_or_default();
        let complete = new.rfind('\n').map_or(0, |at| at + 1);
        *from += complete;
        new.get(..complete).unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Call {
    fn add(&mut self, report: &Report) {
        self.total += report.requests;
        self.ok += report.ok;
        self.failed += report.failed;
        (self.p50_ms, self.p99_ms) = (report.p50_ms, report.p99_ms);
        for (version, count) in &report.versions {
            *self.versions.entry(version.clone()).or_default() += count;
        }
        for (result, count) in report.statuses.iter().chain(&report.errors) {
            *self.results.entry(result.clone()).or_default() += count;
        }
    }
}

/// Whether the sidecar's own numbers say that calls it made were mutual TLS; `None` without a sidecar or calls.
fn mutual_tls(mesh: &Mesh, pod: &Pod) -> Option<bool> {
    if !pod.injected {
        return None;
    }
    let text = mesh.get(&pod.namespace, &pod.name, 15090, "/stats/prometheus").ok()?;
    let mut outbound = text.lines().filter(|line| {
        let counted =
            line.starts_with("istio_requests_total{") || line.starts_with("istio_tcp_connections_opened_total{");
        // A call that reached nobody has no principal at its other end.
        let reached = line.contains("response_flags=\"-\"");
        counted && reached && line.contains("reporter=\"source\"")
    });
    let first = outbound.next()?;
    let secure = |line: &str| !line.contains("destination_principal=\"unknown\"");
    Some(secure(first) && outbound.all(secure))
}

fn draw(second: u64, calls: &[Call]) {
    let head = ["FROM", "TO", "REQ/S", "OK", "FAILED", "VERSIONS", "RESULTS", "P50 MS", "P99 MS", "MTLS"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(calls.iter().map(|call| {
        [
            call.source.clone(),
            call.destination.clone(),
            format!("{:.0}", call.rate),
            call.ok.to_string(),
            call.failed.to_string(),
            counts(&call.versions),
            counts(&call.results),
            format!("{:.2}", call.p50_ms),
            format!("{:.2}", call.p99_ms),
            call.mtls.clone(),
        ]
    }));
    let mut out = std::io::stdout().lock();
    let clear = if std::io::IsTerminal::is_terminal(&out) { "\x1b[H\x1b[2J" } else { "" };
    // Nobody looks any more when this fails; the run goes on for its numbers.
    let _ = write!(out, "{clear}after {second} s\n{}\n", columns(&rows));
    let _ = out.flush();
}

fn counts(map: &BTreeMap<String, u64>) -> String {
    let all: Vec<_> = map.iter().map(|(key, count)| format!("{}:{count}", short(key))).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

/// Error texts are long; the table shows their start.
fn short(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}
