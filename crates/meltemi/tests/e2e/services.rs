//! Which services a pod may call, and how they are found: addresses, names, ports, policies.

use std::process::Output;
use std::time::{Duration, Instant};

use laptop::{Mesh, MeshOptions};

use crate::shop::{PATIENCE, binary, count, report};

const MESH: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultConfig:
      proxyMetadata: {ISTIO_META_DNS_CAPTURE: "true"}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: production}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http-main}, {port: 9000, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: raw, namespace: production}
spec: {selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: second, namespace: production}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: production}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: other-name, namespace: production}
spec: {type: ExternalName, externalName: web.production.svc.cluster.local, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: fixed, namespace: production}
spec: {ports: [{name: http, port: 80}]}
"#;

fn pod(namespace: &str, name: &str, app: &str, more: &str, args: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\nspec:\n  {more}\n  containers:\n  \
         - name: app\n    image: app\n    ports: [{{name: http-main, containerPort: 8080}}]\n    \
         command: [meltemi, app, --name, {name}, {args}]\n    \
         env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n"
    )
}

struct Services {
    mesh: Mesh,
    folder: tempfile::TempDir,
}

impl Services {
    fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let servers = "--http, \"8080\", --tcp, \"7000\", --banner, welcome";
        let mut text = MESH.to_owned();
        text += &pod("production", "client", "client", "", "--http, \"8080\"");
        text += &pod("production", "web-0", "web", "", servers);
        for name in ["store-0", "store-1"] {
            text += &pod("production", name, "store", &format!("hostname: {name}\n  subdomain: store"), servers);
        }
        text += &pod("outside", "server", "server", "", servers);
        std::fs::write(folder.path().join("mesh.yaml"), text).unwrap();
        let mut options = MeshOptions::new(binary(), vec![folder.path().to_owned()], folder.path().join(".state"));
        options.namespace = "production".to_owned();
        options.patience = PATIENCE;
        crate::sidecar::choose(&mut options);
        let mesh = Mesh::up(options).unwrap_or_else(|e| panic!("{e}"));
        Self { mesh, folder }
    }

    fn write(&self, name: &str, text: &str) {
        let part = self.folder.path().join(format!(".{name}.part"));
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, self.folder.path().join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    fn app(&self, words: &[&str]) -> Output {
        let binary = binary();
        let mut command = vec![binary.to_str().unwrap(), "app"];
        command.extend(words);
        self.mesh.exec("production", "client", &command).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The status of one request, and what was said; 0 when there was no answer.
    fn get(&self, url: &str, more: &[&str]) -> (u16, String) {
        let mut words = vec!["get", url, "-i", "--timeout", "5s"];
        words.extend(more);
        let output = self.app(&words);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let status = said.split_whitespace().find_map(|w| w.parse().ok().filter(|s| (100..600).contains(s)));
        (status.unwrap_or(0), said)
    }

    /// What a TCP server says first.
    fn banner(&self, target: &str) -> String {
        let output = self.app(&["tcp", target, "--want", "7", "--timeout", "3s"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn ip(&self, namespace: &str, name: &str) -> String {
        let pods = self.mesh.pods(namespace, name).unwrap();
        pods[0].ip.unwrap().to_string()
    }

    fn until(&self, what: &str, so: impl Fn() -> bool) {
        let started = Instant::now();
        while !so() {
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn clusters(&self) -> String {
        self.mesh.get("production", "client", 15000, "/clusters").unwrap()
    }
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn services_are_found_by_address_name_and_port() {
    let mesh = Services::up();
    // HTTP and TCP on one port number: the address decides.
    let web = mesh.get("http://web/", &[]);
    assert_eq!(web.0, 200, "{}", web.1);
    assert_eq!(mesh.banner("raw:80"), "welcome");
    assert_eq!(mesh.get("http://second/", &[]).0, 200);
    // A port whose protocol is not declared takes HTTP, HTTP/2 and what is neither.
    for kind in [&[][..], &["--h2"]] {
        let mut words = vec!["get", "http://web:9000/", "--json", "-n", "5"];
        words.extend(kind);
        let said = report(&mesh.app(&words));
        assert_eq!(count(&said, "/ok"), 5, "{said}");
    }
    // Another name for a service follows its routes.
    let alias = mesh.get("http://other-name/", &["-H", "x-app-status: 418"]);
    assert_eq!(alias.0, 418, "{}", alias.1);
    headless(&mesh);
    outside(&mesh);
    policies(&mesh);
}

/// Each pod of a headless service has a name, and is called under it.
fn headless(mesh: &Services) {
    for name in ["store-0", "store-1"] {
        let said = mesh.get(&format!("http://{name}.store.production.svc.cluster.local:8080/"), &[]);
        assert!(said.0 == 200 && said.1.contains(name), "{name}: {}", said.1);
    }
    assert_eq!(mesh.get("http://store:8080/", &[]).0, 200);
}

/// What a ServiceEntry and an EndpointSlice declare, under names that only the sidecar's DNS knows.
fn outside(mesh: &Services) {
    let ip = mesh.ip("outside", "server");
    mesh.write(
        "outside.yaml",
        &format!(
            r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ext, namespace: production}}
spec:
  hosts: [ext.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}, {{number: 7000, name: tcp, protocol: TCP}}]
  endpoints: [{{address: {ip}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: fixed-1, namespace: production, labels: {{kubernetes.io/service-name: fixed}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: [{ip}]}}]
"#
        ),
    );
    mesh.until("the entry to be in force", || mesh.get("http://ext.example/", &[]).0 == 200);
    assert_eq!(mesh.banner("ext.example:7000"), "welcome", "TCP goes by the address that the mesh invented");
    mesh.until("the slice to be in force", || mesh.get("http://fixed/", &[]).0 == 200);
}

/// What is not known is let out or not, and a Sidecar is a border.
fn policies(mesh: &Services) {
    let ip = mesh.ip("outside", "server");
    let unknown = format!("http://{ip}:8080/");
    let unknown_tcp = format!("{ip}:7000");
    assert_eq!(mesh.get(&unknown, &[]).0, 200, "ALLOW_ANY lets it out");
    assert_eq!(mesh.banner(&unknown_tcp), "welcome");
    let sidecar = |spec: &str| {
        let head = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: production}\nspec:";
        mesh.write("sidecar.yaml", &format!("{head} {spec}\n"));
    };
    sidecar("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    mesh.until("unknown addresses to be shut", || mesh.get(&unknown, &[]).0 == 502);
    assert_eq!(mesh.banner(&unknown_tcp), "", "the connection is closed");
    let stranger = mesh.get("http://web/", &["-H", "host: nobody.example"]);
    assert_eq!(stranger.0, 502, "HTTP is told so: {}", stranger.1);
    assert_eq!(mesh.get("http://web/", &[]).0, 200, "what is known stays");

    sidecar(
        "{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [{hosts: [\"./*\", \"~production/web.production.svc.cluster.local\"]}]}",
    );
    mesh.until("web to be out of sight", || mesh.get("http://web/", &[]).0 == 502);
    assert_eq!(mesh.get("http://second/", &[]).0, 200);
    assert!(!mesh.clusters().contains("||web.production"), "its clusters are not even sent");

    sidecar("{ingress: [{port: {number: 8081, protocol: HTTP, name: moved}, defaultEndpoint: \"127.0.0.1:8080\"}]}");
    let own = format!("http://{}:8081/", mesh.ip("production", "web-0"));
    mesh.until("the ingress listener to lead on", || mesh.get(&own, &[]).0 == 200);
    mesh.remove("sidecar.yaml");
    mesh.until("everything to be as before", || {
        mesh.get("http://web/", &[]).0 == 200 && mesh.get(&unknown, &[]).0 == 200
    });
}
