//! What lasts: streams live over every change of configuration; pods die and come back without a failed request; jobs end.

use std::process::Child;
use std::time::Duration;

use laptop::status::Request;
use serde_json::Value;

use crate::rolling::{Bed, count_of};
use crate::shop::{PATIENCE, binary, report};

fn app(bed: &Bed, words: &[&str]) -> Child {
    let binary = binary();
    let mut all = vec![binary.to_str().unwrap(), "app"];
    all.extend(words);
    bed.mesh.spawn("production", "deploy/client", &all).unwrap_or_else(|e| panic!("{e}"))
}

fn finished(child: Child) -> Value {
    report(&child.wait_with_output().unwrap())
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who, namespace: production}
spec:
  action: ACTION
  rules:
  - from: [{source: {principals: [cluster.local/ns/production/sa/client]}}]
";

const TRAFFIC: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: production}
spec:
  hosts: [NAME]
  http:
  - headers: {response: {set: {x-changed: 'yes'}}}
    route: [{destination: {host: NAME}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME, namespace: production}
spec:
  host: NAME
  trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 3s}}}
";

const LOG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: \"accessLogFile: /dev/stdout\\naccessLogFormat: \\\"changed %RESPONSE_CODE%\\\\n\\\"\\n\"}
";

/// Streams of every kind, opened before the changes; 5 messages a second on each.
const STREAMS: [(&str, &str); 3] = [
    ("gRPC stream", "http://events:9090/echo.Echo/Stream"),
    ("TCP", "tcp://queue:7000"),
    ("WebSocket", "ws://web:8080/chat"),
];

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn no_change_of_configuration_cuts_a_stream() {
    let bed = Bed::up(|options| options.cert_seconds = Some(12));
    let streams = STREAMS.map(|(name, url)| {
        (name, app(&bed, &["stream", url, "--streams", "2", "--rate", "10", "--duration", "30s", "--json"]))
    });
    // 500 pieces, 50 ms each.
    let download = app(&bed, &["get", "http://web:8080/drip/500", "-n", "1", "--json", "--timeout", "60s"]);
    let ok = || bed.call(&["get", "http://web:8080/", "-i"]);
    let rotated = bed.logs("web").matches("certificate in force").count();

    bed.write("policy.yaml", &POLICY.replace("ACTION", "ALLOW"));
    bed.write("log.yaml", LOG);
    for name in ["web", "events", "queue"] {
        bed.write(&format!("{name}.yaml"), &TRAFFIC.replace("NAME", name));
    }
    bed.until("the new route", || String::from_utf8_lossy(&ok().stdout).contains("x-changed: yes"));
    bed.until("the new format of the log", || ok().status.success() && bed.logs("web").contains("changed 200\n"));
    bed.until("two certificates more for each", || {
        bed.logs("web").matches("certificate in force").count() >= rotated + 6
    });

    // Now nobody is let in any more: what is new is refused, what is open lives on.
    bed.write("policy.yaml", &POLICY.replace("ACTION", "DENY"));
    bed.until("new requests to be refused", || String::from_utf8_lossy(&ok().stdout).contains("403"));
    bed.until("new connections to be refused", || {
        !bed.call(&["tcp", "queue:7000", "-d", "hello\n"]).stdout.starts_with(b"hello")
    });
    for (name, child) in streams {
        let loaded = finished(child);
        assert_eq!((count_of(&loaded, "failed"), count_of(&loaded, "opened")), (0, 2), "{name}: {loaded}");
        assert_eq!(count_of(&loaded, "requests"), 300, "{name}: {loaded}");
    }
    let download = finished(download);
    assert_eq!(count_of(&download, "ok"), 1, "{download}");
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn killed_and_flapping_pods_fail_no_idempotent_request() {
    if crate::sidecar::passes_over("life::killed_and_flapping_pods_fail_no_idempotent_request") {
        return;
    }
    let bed = Bed::up(|_| {});
    let load = |url: &str, kind: &[&str]| {
        let mut words = vec!["get", url, "-c", "6", "--rate", "100", "--duration", "20s", "--json", "--timeout", "15s"];
        words.extend(kind);
        app(&bed, &words)
    };
    let loads = [load("http://web:8080/", &[]), load("http://api:8080/", &["--h2"])];
    for round in 0..2 {
        for workload in ["web", "api"] {
            let pod = bed.pods(workload).remove(round);
            let kill = Request::KillPod { namespace: "production".to_owned(), pod, container: None };
            bed.mesh.tell(&kill).unwrap();
        }
        // Unready and ready again: an endpoint that flaps.
        let flapping = bed.pods("web").remove(2);
        for value in ["false", "true"] {
            let url = format!("http://127.0.0.1:8080/ready?value={value}");
            let words = [binary().to_str().unwrap().to_owned(), "app".to_owned(), "get".to_owned(), url];
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.extend(["-X", "POST"]);
            assert!(bed.mesh.exec("production", &flapping, &words).unwrap().status.success());
            std::thread::sleep(Duration::from_secs(1));
        }
        bed.mesh.wait_synced(PATIENCE).unwrap();
    }
    for child in loads {
        let loaded = finished(child);
        assert_eq!(count_of(&loaded, "failed"), 0, "{loaded}");
        assert_eq!(count_of(&loaded, "requests"), 2000, "{loaded}");
    }

    // Down to nothing, which is an answer at once, and up again.
    let pods = bed.read("pods.yaml");
    bed.write("pods.yaml", &pods.replace("name: web}\nspec:\n  replicas: 3", "name: web}\nspec:\n  replicas: 0"));
    let status = || String::from_utf8_lossy(&bed.call(&["get", "http://web:8080/", "-i"]).stdout).into_owned();
    bed.until("no pod to be left", || status().contains("503") && bed.pods("web").is_empty());
    bed.write("pods.yaml", &pods);
    bed.until("an answer", || status().contains("200 OK"));
    bed.mesh.wait_synced(PATIENCE).unwrap();
    let again = finished(app(&bed, &["get", "http://web:8080/", "-n", "200", "-c", "4", "--json"]));
    assert_eq!(count_of(&again, "ok"), 200, "{again}");
}

const JOB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: production, labels: {app: job}}
spec:
  restartPolicy: Never
  containers:
  - name: app
    command: [meltemi, app, get, 'http://web:8080/', -n, '20', --json]
";

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn a_job_ends_with_its_sidecar_and_only_the_pod_itself_may_end_one() {
    let bed = Bed::up(|_| {});
    bed.write("job.yaml", &JOB.replace("NAME", "job"));
    let ended = |name: &str, phase: &str| {
        let status = bed.mesh.status().unwrap();
        status.pods.iter().any(|p| p.name == name && p.phase == phase && p.containers.iter().all(|c| c.pid.is_none()))
    };
    bed.until("the job to be done", || ended("job", "Succeeded"));
    let report: Value = serde_json::from_str(bed.mesh.logs("production", "job", "app").trim()).unwrap();
    assert_eq!(count_of(&report, "ok"), 20, "its very first request found a working sidecar: {report}");
    bed.write(
        "failing.yaml",
        &JOB.replace("NAME", "failing").replace("http://web:8080/", "http://web:8080/nowhere', -H, 'x-app-status: 500"),
    );
    bed.until("the job to have failed", || ended("failing", "Failed"));

    // Another pod may not end a sidecar, nor may a GET.
    let victim = bed.mesh.pod("production", "deploy/web").unwrap();
    let url = format!("http://{}:15020/quitquitquit", victim.ip.unwrap());
    let refused = String::from_utf8_lossy(&bed.call(&["get", &url, "-X", "POST", "-i"]).stdout).into_owned();
    assert!(refused.contains("403"), "{refused}");
    let inside = |words: &[&str]| {
        let mut all = vec!["pilot-agent", "request", "--debug-port", "15020"];
        all.extend(words);
        bed.mesh.exec("production", &victim.name, &all).unwrap()
    };
    assert!(!inside(&["GET", "quitquitquit"]).status.success());
    assert!(bed.mesh.pod("production", &victim.name).unwrap().ready);
    assert!(inside(&["POST", "quitquitquit"]).status.success());
    // As with a native sidecar in Kubernetes, one that ends beside a living application is started again.
    bed.until("the sidecar to be new", || {
        let pod = bed.mesh.pod("production", &victim.name).unwrap();
        pod.ready && pod.containers.iter().any(|c| c.name == "istio-proxy" && c.restarts == 1)
    });
}
