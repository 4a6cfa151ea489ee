use std::time::Duration;

use super::*;
use crate::ResponseFlags;
use crate::series::{DestinationService, HttpSample, Reporter, RequestProtocol, SecurityPolicy};

fn key() -> SeriesKey {
    let workload = Arc::new(Workload::unknown().with_principal("spiffe://td/ns/a/sa/\"b\""));
    SeriesKey {
        reporter: Reporter::Destination,
        source: workload.clone(),
        destination: workload,
        service: Arc::new(DestinationService { host: "h".into(), name: "n".into(), namespace: "ns".into() }),
        security: SecurityPolicy::MutualTls,
        protocol: RequestProtocol::Http,
    }
}

#[test]
fn requests_land_in_their_series_code_and_bucket() {
    let telemetry = Telemetry::new(Workload::unknown());
    let series = telemetry.http_series(&key());
    assert!(Arc::ptr_eq(&series, &telemetry.http_series(&key())), "one label set is one series");
    for (code, millis) in [(200, 3), (200, 7), (503, 3)] {
        series.record(&HttpSample {
            code,
            flags: ResponseFlags::NONE,
            grpc_status: None,
            duration: Duration::from_millis(millis),
            request_bytes: 10,
            response_bytes: 100,
        });
    }
    let text = telemetry.render_prometheus();
    let line = |start: &str, parts: &[&str]| {
        text.lines()
            .find(|l| l.starts_with(start) && parts.iter().all(|p| l.contains(p)))
            .unwrap_or_else(|| panic!("{start} {parts:?} in {text}"))
            .rsplit_once(' ')
            .map(|(_, v)| v.to_owned())
            .unwrap()
    };
    assert_eq!(
        line("istio_requests_total{", &["response_code=\"200\"", "connection_security_policy=\"mutual_tls\""]),
        "2"
    );
    assert_eq!(line("istio_requests_total{", &["response_code=\"503\"", "reporter=\"destination\""]), "1");
    let duration = "istio_request_duration_milliseconds_bucket{";
    assert_eq!(line(duration, &["response_code=\"200\"", "le=\"5\""]), "1");
    assert_eq!(line(duration, &["response_code=\"200\"", "le=\"10\""]), "2");
    assert_eq!(line(duration, &["response_code=\"200\"", "le=\"+Inf\""]), "2");
    assert_eq!(line("istio_request_duration_milliseconds_sum{", &["response_code=\"200\""]), "10");
    assert!(text.contains("source_principal=\"spiffe://td/ns/a/sa/\\\"b\\\"\""), "{text}");
}

#[test]
fn invented_outcomes_do_not_grow_a_series_without_end() {
    let telemetry = Telemetry::new(Workload::unknown());
    let series = telemetry.http_series(&key());
    for code in 0..1000 {
        series.record(&HttpSample {
            code,
            flags: ResponseFlags::NONE,
            grpc_status: None,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
        });
    }
    let total: u64 = series.outcomes.read().iter().map(|o| o.requests.load(Relaxed)).sum();
    assert_eq!((series.outcomes.read().len(), total), (64, 1000));
}

#[test]
fn statistics_have_envoys_two_names() {
    let telemetry = Telemetry::new(Workload::unknown());
    telemetry.counter("listener_manager.lds.update_success").add(2);
    telemetry.gauge("server.state").set(0);
    telemetry.add_source(|emit| {
        emit(Stat {
            scope: "cluster",
            entity: Some(("cluster_name", "outbound|80||x")),
            leaf: "upstream_rq_total",
            kind: StatKind::Counter,
            value: 7,
        });
    });
    let stats = telemetry.render_stats(None);
    assert_eq!(
        stats,
        "cluster.outbound|80||x.upstream_rq_total: 7\nlistener_manager.lds.update_success: 2\nserver.state: 0\n"
    );
    assert_eq!(telemetry.render_stats(Some("server.state")), "server.state: 0\n");
    let text = telemetry.render_prometheus();
    assert!(text.contains("envoy_cluster_upstream_rq_total{cluster_name=\"outbound|80||x\"} 7\n"), "{text}");
    assert!(text.contains("# TYPE envoy_listener_manager_lds_update_success counter\n"), "{text}");
}
