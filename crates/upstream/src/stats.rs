//! Counters of clusters, and what `/stats` says of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use telemetry::{Stat, StatKind};

use crate::cluster::Cluster;

/// Counters of one cluster, under Envoy's names.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Each is Envoy's `cluster.NAME.upstream_*` of the same name.
pub struct ClusterStats {
    pub cx_total: AtomicU64,
    pub cx_active: AtomicU64,
    pub cx_connect_fail: AtomicU64,
    pub cx_connect_timeout: AtomicU64,
    pub cx_overflow: AtomicU64,
    pub cx_http1_total: AtomicU64,
    pub cx_http2_total: AtomicU64,
    pub cx_max_requests: AtomicU64,
    pub cx_idle_timeout: AtomicU64,
    pub rq_total: AtomicU64,
    pub rq_active: AtomicU64,
    pub rq_pending_active: AtomicU64,
    pub rq_pending_total: AtomicU64,
    pub rq_pending_overflow: AtomicU64,
    pub rq_retry: AtomicU64,
    pub rq_retry_active: AtomicU64,
    pub rq_retry_overflow: AtomicU64,
    pub rq_timeout: AtomicU64,
    pub rq_1xx: AtomicU64,
    pub rq_2xx: AtomicU64,
    pub rq_3xx: AtomicU64,
    pub rq_4xx: AtomicU64,
    pub rq_5xx: AtomicU64,
    /// Zone aware routing: Envoy's `cluster.NAME.lb_*`.
    pub lb_recalculate_zone_structures: AtomicU64,
    pub lb_zone_cluster_too_small: AtomicU64,
    pub lb_local_cluster_not_ok: AtomicU64,
    pub lb_zone_routing_all_directly: AtomicU64,
    pub lb_zone_routing_sampled: AtomicU64,
    pub lb_zone_routing_cross_zone: AtomicU64,
    pub lb_zone_no_capacity_left: AtomicU64,
    /// Ejections by outlier detection.
    pub ejections_total: AtomicU64,
    /// Ejections that `max_ejection_percent` prevented.
    pub ejections_overflow: AtomicU64,
}

impl ClusterStats {
    /// The counter of a status' class.
    pub(crate) fn class(&self, status: u16) -> &AtomicU64 {
        match status {
            ..200 => &self.rq_1xx,
            200..300 => &self.rq_2xx,
            300..400 => &self.rq_3xx,
            400..500 => &self.rq_4xx,
            500.. => &self.rq_5xx,
        }
    }
}

/// Reports a cluster's counters and gauges.
pub(crate) fn report(cluster: &Cluster, emit: &mut dyn FnMut(Stat<'_>)) {
    let s = &cluster.stats;
    let counters = [
        ("upstream_cx_total", &s.cx_total),
        ("upstream_cx_connect_fail", &s.cx_connect_fail),
        ("upstream_cx_connect_timeout", &s.cx_connect_timeout),
        ("upstream_cx_overflow", &s.cx_overflow),
        ("upstream_cx_http1_total", &s.cx_http1_total),
        ("upstream_cx_http2_total", &s.cx_http2_total),
        ("upstream_cx_max_requests", &s.cx_max_requests),
        ("upstream_cx_idle_timeout", &s.cx_idle_timeout),
        ("upstream_rq_total", &s.rq_total),
        ("upstream_rq_1xx", &s.rq_1xx),
        ("upstream_rq_2xx", &s.rq_2xx),
        ("upstream_rq_3xx", &s.rq_3xx),
        ("upstream_rq_4xx", &s.rq_4xx),
        ("upstream_rq_5xx", &s.rq_5xx),
        ("upstream_rq_pending_total", &s.rq_pending_total),
        ("upstream_rq_pending_overflow", &s.rq_pending_overflow),
        ("upstream_rq_retry", &s.rq_retry),
        ("upstream_rq_retry_overflow", &s.rq_retry_overflow),
        ("upstream_rq_timeout", &s.rq_timeout),
        ("outlier_detection.ejections_enforced_total", &s.ejections_total),
        ("outlier_detection.ejections_overflow", &s.ejections_overflow),
    ];
    // Without replicas nothing of this is ever counted.
    let zones = [
        ("lb_recalculate_zone_structures", &s.lb_recalculate_zone_structures),
        ("lb_zone_cluster_too_small", &s.lb_zone_cluster_too_small),
        ("lb_local_cluster_not_ok", &s.lb_local_cluster_not_ok),
        ("lb_zone_routing_all_directly", &s.lb_zone_routing_all_directly),
        ("lb_zone_routing_sampled", &s.lb_zone_routing_sampled),
        ("lb_zone_routing_cross_zone", &s.lb_zone_routing_cross_zone),
        ("lb_zone_no_capacity_left", &s.lb_zone_no_capacity_left),
    ];
    let zones = zones.into_iter().filter(|_| cluster.knows_replicas());
    let hosts = cluster.hosts();
    let many = |wanted: &dyn Fn(&crate::Host) -> bool| hosts.iter().filter(|h| wanted(h)).count() as u64;
    let limits = &cluster.config.thresholds;
    let full = |active: &AtomicU64, limit: u32| u64::from(active.load(Relaxed) >= u64::from(limit));
    let gauges = [
        ("upstream_cx_active", s.cx_active.load(Relaxed)),
        ("upstream_rq_active", s.rq_active.load(Relaxed)),
        ("upstream_rq_pending_active", s.rq_pending_active.load(Relaxed)),
        ("membership_total", hosts.len() as u64),
        ("membership_healthy", many(&|h| h.is_available())),
        ("outlier_detection.ejections_active", many(&|h| h.is_ejected())),
        ("circuit_breakers.default.cx_open", full(&s.cx_active, limits.connections)),
        ("circuit_breakers.default.rq_pending_open", full(&s.rq_pending_active, limits.pending)),
        ("circuit_breakers.default.rq_open", full(&s.rq_active, limits.requests)),
        ("circuit_breakers.default.rq_retry_open", full(&s.rq_retry_active, limits.retries)),
    ];
    let entity = Some(("cluster_name", &*cluster.config.name));
    let mut tell = |leaf, value: u64, kind| {
        emit(Stat { scope: "cluster", entity, leaf, kind, value: i64::try_from(value).unwrap_or(i64::MAX) });
    };
    counters.into_iter().chain(zones).for_each(|(leaf, counter)| tell(leaf, counter.load(Relaxed), StatKind::Counter));
    gauges.into_iter().for_each(|(leaf, value)| tell(leaf, value, StatKind::Gauge));
}
