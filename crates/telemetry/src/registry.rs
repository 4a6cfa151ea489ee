//! The process-wide registry: series, counters, and the text a scrape gets.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use crate::histogram::{BOUNDS, Histogram};
use crate::series::{HttpSeries, OutcomeMetrics, SeriesKey, TcpSeries, Workload};
use crate::stats::{Counter, Gauge, Stat, StatKind};

/// Label sets kept at the most; a mesh that calls more pairs than this shares one last series.
const MAX_SERIES: usize = 20_000;

type PickHistogram = fn(&OutcomeMetrics) -> &Histogram;
type Source = Box<dyn Fn(&mut dyn FnMut(Stat<'_>)) + Send + Sync>;

/// Everything counted in this process.
pub struct Telemetry {
    local: Arc<Workload>,
    http: RwLock<HashMap<SeriesKey, Arc<HttpSeries>>>,
    tcp: RwLock<HashMap<SeriesKey, Arc<TcpSeries>>>,
    counters: RwLock<BTreeMap<String, Arc<Counter>>>,
    gauges: RwLock<BTreeMap<String, Arc<Gauge>>>,
    sources: RwLock<Vec<Source>>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("local", &self.local.name).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// An empty registry of the workload this proxy serves.
    pub fn new(local: Workload) -> Arc<Self> {
        Arc::new(Self {
            local: Arc::new(local),
            http: RwLock::default(),
            tcp: RwLock::default(),
            counters: RwLock::default(),
            gauges: RwLock::default(),
            sources: RwLock::default(),
        })
    }

    /// The workload this proxy serves.
    pub fn local(&self) -> &Arc<Workload> {
        &self.local
    }

    /// The request series of a label set; callers keep the handle.
    pub fn http_series(&self, key: &SeriesKey) -> Arc<HttpSeries> {
        intern(&self.http, key, HttpSeries::new)
    }

    /// The connection series of a label set; callers keep the handle.
    pub fn tcp_series(&self, key: &SeriesKey) -> Arc<TcpSeries> {
        intern(&self.tcp, key, TcpSeries::new)
    }

    /// The counter of a dotted name such as `listener_manager.lds.update_success`.
    pub fn counter(&self, name: &str) -> Arc<Counter> {
        if let Some(found) = self.counters.read().get(name) {
            return found.clone();
        }
        self.counters.write().entry(name.to_owned()).or_default().clone()
    }

    /// The gauge of a dotted name such as `server.state`.
    pub fn gauge(&self, name: &str) -> Arc<Gauge> {
        if let Some(found) = self.gauges.read().get(name) {
            return found.clone();
        }
        self.gauges.write().entry(name.to_owned()).or_default().clone()
    }

    /// Adds a source that reports its statistics at each scrape, such as the clusters.
    pub fn add_source(&self, source: impl Fn(&mut dyn FnMut(Stat<'_>)) + Send + Sync + 'static) {
        self.sources.write().push(Box::new(source));
    }

    /// Text of `/stats`: `name: value` lines in order; with `filter`, only names that contain it (or match one of its
    /// `|`-separated parts).
    pub fn render_stats(&self, filter: Option<&str>) -> String {
        let mut lines = BTreeMap::new();
        self.each_stat(&mut |stat| {
            lines.insert(stat.dotted(), stat.value);
        });
        let wanted = |name: &str| filter.is_none_or(|f| f.split('|').any(|part| name.contains(part)));
        lines.iter().filter(|(name, _)| wanted(name)).fold(String::new(), |mut out, (name, value)| {
            let _ = writeln!(out, "{name}: {value}");
            out
        })
    }

    /// Prometheus text: Istio's metrics and Envoy's statistics.
    pub fn render_prometheus(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        self.render_http(&mut out);
        self.render_tcp(&mut out);
        let mut families: BTreeMap<String, (StatKind, Vec<String>)> = BTreeMap::new();
        self.each_stat(&mut |stat| {
            let name = stat.metric();
            let mut line = name.clone();
            if let Some((label, entity)) = stat.entity {
                let _ = write!(line, "{{{label}=\"");
                crate::series::escape(entity, &mut line);
                line.push_str("\"}");
            }
            let _ = writeln!(line, " {}", stat.value);
            families.entry(name).or_insert_with(|| (stat.kind, Vec::new())).1.push(line);
        });
        for (name, (kind, lines)) in families {
            let kind = if kind == StatKind::Counter { "counter" } else { "gauge" };
            let _ = writeln!(out, "# TYPE {name} {kind}");
            out.extend(lines);
        }
        out
    }

    fn each_stat(&self, emit: &mut dyn FnMut(Stat<'_>)) {
        for (name, counter) in self.counters.read().iter() {
            let (scope, leaf) = name.split_once('.').unwrap_or(("server", name));
            let value = i64::try_from(counter.value()).unwrap_or(i64::MAX);
            emit(Stat { scope, entity: None, leaf, kind: StatKind::Counter, value });
        }
        for (name, gauge) in self.gauges.read().iter() {
            let (scope, leaf) = name.split_once('.').unwrap_or(("server", name));
            emit(Stat { scope, entity: None, leaf, kind: StatKind::Gauge, value: gauge.value() });
        }
        for source in self.sources.read().iter() {
            source(emit);
        }
    }

    fn render_http(&self, out: &mut String) {
        let series: Vec<Arc<HttpSeries>> = self.http.read().values().cloned().collect();
        let rows: Vec<(String, Arc<OutcomeMetrics>)> = series
            .iter()
            .flat_map(|s| s.outcomes.read().iter().map(|m| (outcome_labels(s, m), m.clone())).collect::<Vec<_>>())
            .collect();
        if rows.is_empty() {
            return;
        }
        out.push_str("# TYPE istio_requests_total counter\n");
        for (labels, metrics) in &rows {
            let _ = writeln!(out, "istio_requests_total{{{labels}}} {}", metrics.requests.load(Relaxed));
        }
        let histograms: [(&str, PickHistogram); 3] = [
            ("istio_request_duration_milliseconds", |m| &m.duration),
            ("istio_request_bytes", |m| &m.request_bytes),
            ("istio_response_bytes", |m| &m.response_bytes),
        ];
        for (name, pick) in histograms {
            let _ = writeln!(out, "# TYPE {name} histogram");
            for (labels, metrics) in &rows {
                histogram(out, name, labels, pick(metrics));
            }
        }
        for (name, pick) in [
            ("istio_request_messages_total", (|s: &HttpSeries| &s.request_messages) as fn(&HttpSeries) -> &AtomicU64),
            ("istio_response_messages_total", |s: &HttpSeries| &s.response_messages),
        ] {
            let _ = writeln!(out, "# TYPE {name} counter");
            for s in series.iter().filter(|s| pick(s).load(Relaxed) > 0) {
                let _ = writeln!(out, "{name}{{{}}} {}", s.labels, pick(s).load(Relaxed));
            }
        }
    }

    fn render_tcp(&self, out: &mut String) {
        let series: Vec<Arc<TcpSeries>> = self.tcp.read().values().cloned().collect();
        if series.is_empty() {
            return;
        }
        for (name, pick) in [
            ("istio_tcp_connections_opened_total", (|s: &TcpSeries| &s.opened) as fn(&TcpSeries) -> &AtomicU64),
            ("istio_tcp_sent_bytes_total", |s: &TcpSeries| &s.sent),
            ("istio_tcp_received_bytes_total", |s: &TcpSeries| &s.received),
        ] {
            let _ = writeln!(out, "# TYPE {name} counter");
            for s in &series {
                let _ = writeln!(out, "{name}{{{},response_flags=\"-\"}} {}", s.labels, pick(s).load(Relaxed));
            }
        }
        out.push_str("# TYPE istio_tcp_connections_closed_total counter\n");
        for s in &series {
            for (flags, count) in s.closed.read().iter() {
                let labels = &s.labels;
                let _ =
                    writeln!(out, "istio_tcp_connections_closed_total{{{labels},response_flags=\"{flags}\"}} {count}");
            }
        }
    }
}

fn intern<T>(map: &RwLock<HashMap<SeriesKey, Arc<T>>>, key: &SeriesKey, make: fn(&SeriesKey) -> T) -> Arc<T> {
    if let Some(found) = map.read().get(key) {
        return found.clone();
    }
    let mut map = map.write();
    if map.len() >= MAX_SERIES {
        let mut rest = key.clone();
        rest.source = Arc::new(Workload::unknown());
        rest.destination = Arc::new(Workload::unknown());
        return map.entry(rest.clone()).or_insert_with(|| Arc::new(make(&rest))).clone();
    }
    map.entry(key.clone()).or_insert_with(|| Arc::new(make(key))).clone()
}

fn outcome_labels(series: &HttpSeries, metrics: &OutcomeMetrics) -> String {
    let outcome = metrics.outcome;
    let grpc = outcome.grpc_status.map_or_else(String::new, |s| s.to_string());
    let (labels, code, flags) = (&series.labels, outcome.code, outcome.flags);
    format!("{labels},response_code=\"{code}\",grpc_response_status=\"{grpc}\",response_flags=\"{flags}\"")
}

fn histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let (cumulative, sum) = histogram.read();
    for (bound, count) in BOUNDS.iter().zip(cumulative) {
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let total = cumulative[BOUNDS.len()];
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
}

#[cfg(test)]
mod tests;
