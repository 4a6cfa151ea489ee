//! Traces, without the applications' help: what a collector in the mesh is told.

use serde_json::Value;

use crate::shop::{Shop, service};
use crate::sidecar;

/// A collector of Zipkin's kind: it prints each report on a line.
const COLLECTOR: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: collector, namespace: production}
spec:
  replicas: 1
  selector: {matchLabels: {app: collector}}
  template:
    metadata: {labels: {app: collector, version: v1}}
    spec:
      containers:
      - name: app
        image: python
        command: [python3, -u, -c]
        args:
        - |
          from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
          class Collector(BaseHTTPRequestHandler):
              protocol_version = "HTTP/1.1"
              def do_POST(self):
                  print(b"".join(self.parts()).decode(), flush=True)
                  self.send_response(202)
                  self.send_header("content-length", "0")
                  self.end_headers()
              def parts(self):
                  # Ours says how long a report is, Envoy sends it in chunks.
                  if length := self.headers["content-length"]:
                      yield self.rfile.read(int(length))
                      return
                  while size := int(self.rfile.readline(), 16):
                      yield self.rfile.read(size)
                      self.rfile.readline()
                  self.rfile.readline()
              def log_message(self, *_):
                  pass
          ThreadingHTTPServer(("0.0.0.0", 9411), Collector).serve_forever()
        ports: [{containerPort: 9411}]
        readinessProbe: {tcpSocket: {port: 9411}}
"#;

const MESH: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: JSON
    extensionProviders:
    - name: collector
      zipkin: {service: collector.production.svc.cluster.local, port: 9411}
"#;

/// Everything is traced, but calls of the legacy kind.
const TELEMETRY: &str = r#"
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traces, namespace: istio-system}
spec:
  tracing:
  - providers: [{name: collector}]
    randomSamplingPercentage: 100
    customTags: {tenant: {header: {name: x-tenant, defaultValue: nobody}}}
"#;

const NOTHING: &str = r#"
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: none, namespace: production}
spec: {tracing: [{disableSpanReporting: true}]}
"#;

/// The spans of one request.
fn spans(shop: &Shop, id: &str) -> Vec<Value> {
    let pod = shop.pods("collector").remove(0);
    let told = shop.mesh.logs("production", &pod, "app");
    let all = told.lines().filter_map(|line| serde_json::from_str::<Vec<Value>>(line).ok()).flatten();
    let tail = id.get(19..).unwrap_or_default().to_owned();
    // The proxies write into the id that it is traced.
    all.filter(|span| span["tags"]["guid:x-request-id"].as_str().is_some_and(|of| of.ends_with(&tail))).collect()
}

fn call(shop: &Shop, id: &str) {
    let id = format!("x-request-id: {id}");
    shop.load(&["-n", "1", "-H", &id, "-H", "x-tenant: t7"]);
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn both_ends_of_a_call_are_one_trace_in_the_collector() {
    let more = |_: &std::path::Path| {
        let collector = COLLECTOR.to_owned() + &service("collector", 9411, "http");
        vec![("collector.yaml".to_owned(), collector), ("traces.yaml".to_owned(), TELEMETRY.to_owned())]
    };
    let shop = Shop::with(more, |_| {});
    // The mesh's configuration comes late: a provider that is not there yet is told nothing, and breaks nothing.
    let pods = Shop::pods_yaml();
    let (before, after) = pods.split_once("---\napiVersion: v1\nkind: ConfigMap").expect("the mesh's configuration");
    let after = after.split_once("---\n").expect("more behind it").1;
    shop.write("pods.yaml", &format!("{before}---\n{after}"));
    shop.write("mesh.yaml", MESH);

    let numbers = std::cell::Cell::new(0);
    let next = || {
        numbers.set(numbers.get() + 1);
        // Envoy writes into the version's place why a request is traced: 9 says that it was chosen.
        format!("00000000-0000-9000-8000-{:012}", numbers.get())
    };
    let traced = std::cell::RefCell::new(Vec::new());
    shop.until("both sidecars to tell of a call", || {
        let id = next();
        call(&shop, &id);
        for _ in 0..30 {
            *traced.borrow_mut() = spans(&shop, &id);
            if traced.borrow().len() == 2 {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        false
    });
    let all = traced.into_inner();
    let of = |kind: &str| all.iter().find(|span| span["kind"] == kind).unwrap_or_else(|| panic!("{all:?}"));
    let (client, server) = (of("CLIENT"), of("SERVER"));
    assert_eq!(client["traceId"], server["traceId"]);
    assert_eq!(client["id"], server["parentId"]);
    assert_eq!(client["localEndpoint"]["serviceName"], "order-service.production");
    assert_eq!(server["localEndpoint"]["serviceName"], "payment-api.production");
    for span in [client, server] {
        assert_eq!(span["name"], "payment-api:8080/*");
        assert_eq!((&span["tags"]["http.status_code"], &span["tags"]["tenant"]), (&"200".into(), &"t7".into()));
        assert_eq!(span["tags"]["istio.namespace"], "production");
    }

    shop.write("nothing.yaml", NOTHING);
    let page = |workload: &str| shop.page(&shop.pods(workload).remove(0), 15000, "/config_dump");
    shop.until("tracing to end", || !page("order-service").contains("/api/v2/spans"));
    sidecar::old_rules_are_gone(&shop, &["payment-api-v1", "payment-api-v2"]);
    let id = next();
    call(&shop, &id);
    shop.entry("order-service", &id);
    assert_eq!(spans(&shop, &id), Vec::<Value>::new());
}
