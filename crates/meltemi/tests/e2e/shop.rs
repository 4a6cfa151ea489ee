//! The shop under test: the example's pods without its own callers, with the seed's resources as they were written.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use laptop::{Mesh, MeshOptions};
use serde_json::Value;

use crate::sidecar;

/// How long a mesh may take to come up, or to follow a change.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A mesh and its folder of YAML.
pub struct Shop {
    pub mesh: Mesh,
    folder: tempfile::TempDir,
}

/// The binary under test: `$MELTEMI_BINARY` (a faster build of the same), else the one built with the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("MELTEMI_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_meltemi")), PathBuf::from)
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/istio").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Shop {
    /// Brings the shop up; `change` may alter the options.
    pub fn up(change: impl FnOnce(&mut MeshOptions)) -> Self {
        Self::with(|_| Vec::new(), change)
    }

    /// As [`Shop::up`] with more files, made when the folder is there.
    pub fn with(more: impl FnOnce(&Path) -> Vec<(String, String)>, change: impl FnOnce(&mut MeshOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        for (name, text) in more(folder.path()) {
            write(&name, &text);
        }
        write("pods.yaml", &pods());
        for name in ["payment-api.yaml", "peer-authentication.yaml", "authorization.yaml"] {
            write(name, &example(name));
        }
        let sources = vec![folder.path().to_owned()];
        let mut options = MeshOptions::new(binary(), sources, folder.path().join(".state"));
        options.namespace = "production".to_owned();
        options.patience = PATIENCE;
        sidecar::choose(&mut options);
        change(&mut options);
        let mesh = Mesh::up(options).unwrap_or_else(|e| panic!("{e}"));
        Self { mesh, folder }
    }

    /// Replaces a file, whole.
    pub fn write(&self, name: &str, text: &str) {
        let part = self.folder.path().join(format!(".{name}.part"));
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, self.folder.path().join(name)).unwrap();
    }

    /// The pods and services.
    pub fn pods_yaml() -> String {
        pods()
    }

    /// The seed's VirtualService and DestinationRule.
    pub fn traffic() -> String {
        example("payment-api.yaml")
    }

    /// The seed's PeerAuthentication.
    pub fn strict() -> String {
        example("peer-authentication.yaml")
    }

    /// Runs a command of the test application inside a pod.
    pub fn app(&self, namespace: &str, target: &str, words: &[&str]) -> Output {
        let binary = binary();
        let mut command = vec![binary.to_str().unwrap(), "app"];
        command.extend(words);
        self.mesh.exec(namespace, target, &command).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Calls from order-service; the report.
    pub fn load(&self, words: &[&str]) -> Value {
        let mut all = vec!["get", "http://payment-api:8080/pay", "--json"];
        all.extend(words);
        report(&self.app("production", "deploy/order-service", &all))
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        let started = std::time::Instant::now();
        while !so() {
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Names of the pods of a Deployment.
    pub fn pods(&self, workload: &str) -> Vec<String> {
        self.mesh.pods("production", workload).unwrap().into_iter().map(|p| p.name).collect()
    }

    /// What all sidecars of a Deployment have logged.
    pub fn proxy_logs(&self, workload: &str) -> String {
        self.pods(workload).iter().map(|pod| self.mesh.logs("production", pod, "istio-proxy")).collect()
    }
}

impl Shop {
    /// What the sidecars of a Deployment have logged of one request, by its id.
    pub fn entries(&self, workload: &str, id: &str) -> Vec<Value> {
        let log = self.proxy_logs(workload);
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.filter(|entry| entry["request_id"] == id).collect()
    }

    /// The one entry of a request in the caller's log, once it is there.
    pub fn entry(&self, workload: &str, id: &str) -> Value {
        self.until(&format!("the log of {id}"), || !self.entries(workload, id).is_empty());
        self.entries(workload, id).remove(0)
    }

    /// A page of a pod's own ports.
    pub fn page(&self, pod: &str, port: u16, path: &str) -> String {
        self.mesh.get("production", pod, port, path).unwrap_or_else(|e| panic!("{pod}:{port}{path}: {e}"))
    }
}

/// The report of a load.
pub fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

pub fn count(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

pub fn deployment(
    namespace: &str,
    name: &str,
    replicas: u32,
    account: &str,
    app: &str,
    version: &str,
    args: &str,
) -> String {
    // Nobody is sent to a pod that does not listen yet.
    let probe = match args.contains("--http, \"8080\"") {
        true => "        readinessProbe: {httpGet: {path: /healthz, port: 8080}}\n",
        false => "",
    };
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {app}, version: {version}}}}}\n  template:\n    metadata: {{labels: {{app: {app}, version: {version}}}}}\n    \
         spec:\n      serviceAccountName: {account}\n      containers:\n      - name: app\n        image: app\n        \
         command: [meltemi, app, --name, {app}, --version, {version}, {args}]\n        \
         env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n{probe}"
    )
}

pub fn service(name: &str, port: u16, port_name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: production}}\nspec:\n  \
         selector: {{app: {name}}}\n  ports: [{{name: {port_name}, port: {port}}}]\n"
    )
}

fn pods() -> String {
    let http = "--http, \"8080\"";
    let mut text =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: production, labels: {istio-injection: enabled}}\n\
        ---\napiVersion: v1\nkind: Namespace\nmetadata: {name: legacy}\n\
        ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
        data: {mesh: \"accessLogFile: /dev/stdout\\naccessLogEncoding: JSON\\n\"}\n"
            .to_owned();
    text += &service("payment-api", 8080, "http");
    text += "---\napiVersion: v1\nkind: Service\nmetadata: {name: ledger, namespace: production}\nspec:\n  \
             selector: {app: payment-api}\n  ports: [{name: grpc, port: 9000, targetPort: 8080}]\n";
    text += &service("database-service", 5432, "tcp-sql");
    text += &service("greeter", 7000, "unnamed");
    text += &deployment("production", "payment-api-v1", 2, "payment-service-sa", "payment-api", "v1", http);
    text += &deployment("production", "payment-api-v2", 2, "payment-service-sa", "payment-api", "v2", http);
    text += &deployment("production", "order-service", 1, "order-service-sa", "order-service", "v1", http);
    text +=
        &deployment("production", "database-service", 1, "database-sa", "database-service", "v1", "--tcp, \"5432\"");
    text +=
        &deployment("production", "greeter", 1, "greeter-sa", "greeter", "v1", "--tcp, \"7000\", --banner, welcome");
    text += &deployment("legacy", "legacy-client", 1, "default", "legacy-client", "v1", http);
    text
}
