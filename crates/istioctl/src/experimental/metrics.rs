//! `metrics`: rates and latencies of workloads, as the mesh's Prometheus has them.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::Session;
use crate::access::{Access, Method, Pod};
use crate::output::{Format, print_machine};

/// Print requests a second, errors a second and latencies of workloads, as their own sidecars report them.
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Workloads, NAME[.NAMESPACE].
    #[arg(required = true)]
    workloads: Vec<String>,
    /// The time over which rates are taken.
    #[arg(short, long, default_value = "1m")]
    duration: String,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

/// What Prometheus says of one workload: two rates, and three latencies in milliseconds; nothing where nothing came.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Row {
    workload: String,
    requests: f64,
    errors: f64,
    latencies: [f64; 3],
}

impl Metrics {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let span = istio_api::duration::parse(&self.duration).filter(|d| d.as_secs() > 0);
        let span = span.ok_or_else(|| format!("--duration {}: write a time such as 1m", self.duration))?;
        let access = session.access()?;
        let space = &session.global.istio_namespace;
        let named = |p: &Pod| {
            let is = |key: &str| p.labels.get(key).is_some_and(|v| v == "prometheus");
            p.namespace == *space && (is("app.kubernetes.io/name") || is("app"))
        };
        let prometheus = access.pods()?.into_iter().find(named);
        let prometheus = prometheus.ok_or_else(|| {
            format!(
                "no Prometheus runs in namespace {space} (label app.kubernetes.io/name=prometheus); it has the metrics"
            )
        })?;
        let rows =
            self.workloads.iter().map(|w| of(access, &prometheus, w, span.as_secs())).collect::<Result<Vec<_>, _>>()?;
        match self.output.machine() {
            None => print!("{}", table(&rows)),
            Some(format) => {
                let value = |r: &Row| {
                    json!({
                        "workload": r.workload, "totalRPS": r.requests, "errorRPS": r.errors,
                        "p50Latency": r.latencies[0], "p90Latency": r.latencies[1], "p99Latency": r.latencies[2],
                    })
                };
                print_machine(format, &rows.iter().map(value).collect())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// All five numbers of a workload.
pub(super) fn of(access: &dyn Access, prometheus: &Pod, workload: &str, seconds: u64) -> Result<Row, String> {
    let (name, namespace) = workload.split_once('.').unwrap_or((workload, ""));
    let safe = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if name.is_empty() || !safe(name) || !safe(namespace) {
        return Err(format!("\"{workload}\" is no workload; write NAME[.NAMESPACE]"));
    }
    let ask = |query: String| {
        let path = format!("/api/v1/query?query={}", encoded(&query));
        let body = access.pod_page(prometheus, Method::Get, 9090, &path)?;
        let answer: Value = serde_json::from_slice(&body).map_err(|e| format!("Prometheus answers no JSON: {e}"))?;
        let number =
            answer.pointer("/data/result/0/value/1").and_then(Value::as_str).and_then(|n| n.parse::<f64>().ok());
        Ok::<f64, String>(number.filter(|n| n.is_finite()).unwrap_or(0.0))
    };
    let place =
        if namespace.is_empty() { String::new() } else { format!(",destination_workload_namespace=\"{namespace}\"") };
    let labels = format!("destination_workload=\"{name}\"{place},reporter=\"destination\"");
    let rate = |more: &str| format!("sum(rate(istio_requests_total{{{labels}{more}}}[{seconds}s]))");
    let latency = |quantile: &str| {
        format!(
            "histogram_quantile({quantile}, sum(rate(istio_request_duration_milliseconds_bucket{{{labels}}}[{seconds}s])) by (le))"
        )
    };
    Ok(Row {
        workload: workload.to_owned(),
        requests: ask(rate(""))?,
        errors: ask(rate(",response_code=~\"[45][0-9]{2}\""))?,
        latencies: [ask(latency("0.5"))?, ask(latency("0.9"))?, ask(latency("0.99"))?],
    })
}

/// A query as part of a URL.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// Istio's columns, aligned to the right.
pub(super) fn table(rows: &[Row]) -> String {
    let line = |cells: [&str; 6]| {
        let [name, rest @ ..] = cells;
        rest.iter().fold(format!("{name:>42}"), |line, cell| format!("{line}{cell:>13}")) + "\n"
    };
    let mut out = line(["WORKLOAD", "TOTAL RPS", "ERROR RPS", "P50 LATENCY", "P90 LATENCY", "P99 LATENCY"]);
    for row in rows {
        let [p50, p90, p99] = row.latencies.map(|l| format!("{}ms", l.round()));
        out.push_str(&line([
            &row.workload,
            &format!("{:.3}", row.requests),
            &format!("{:.3}", row.errors),
            &p50,
            &p90,
            &p99,
        ]));
    }
    out
}
