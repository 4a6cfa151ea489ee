//! The laptop mesh without control plane: network, names, services, life and death of pods. Needs root or user namespaces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use laptop::status::Request;
use laptop::{Mesh, MeshOptions};

const FILES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        command: [meltemi, app, --http, '8080', --name, web, --version, VERSION]
        ports: [{name: web, containerPort: 8080}]
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /healthz, port: web}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: other}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec: {containers: [{name: app, command: [sleep, '1000000']}]}
";
const PATIENCE: Duration = Duration::from_secs(30);

/// The example that stands for the binary here; built together with the tests.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    test.parent().and_then(Path::parent).expect("target folder").join("examples/plain")
}

fn write(folder: &Path, version: &str) {
    std::fs::write(folder.join("shop.yaml"), FILES.replace("VERSION", version)).expect("written");
}

/// `None` where the kernel lets us make no namespaces.
fn mesh(folder: &Path) -> Option<Mesh> {
    write(folder, "v1");
    let options =
        MeshOptions { plain: true, ..MeshOptions::new(binary(), vec![folder.to_owned()], folder.join(".state")) };
    match Mesh::up(options) {
        Ok(mesh) => Some(mesh),
        Err(error) if error.to_string().contains("the kernel does not let us") => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn versions(mesh: &Mesh, count: &str) -> serde_json::Value {
    let get = ["meltemi", "app", "get", "http://web.shop/", "-n", count, "--fresh", "--json"];
    let output = mesh.exec("other", "deploy/client", &get).expect("exec");
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[test]
fn pods_find_each_other_and_everything_goes_away() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(mesh) = mesh(folder.path()) else { return };
    let report = versions(&mesh, "40");
    assert_eq!((&report["failed"], report["pods"].as_object().map(|p| p.len())), (&0.into(), Some(2)), "{report}");
    // Short names only in the own namespace; a service without pods refuses at once.
    let from = |namespace, target, url| {
        let output = mesh.exec(namespace, target, &["meltemi", "app", "get", url]).expect("exec");
        output.status.code()
    };
    assert_eq!(from("shop", "deploy/web", "http://web/"), Some(0));
    assert_eq!(from("other", "deploy/client", "http://web/"), Some(7));
    assert_eq!(from("other", "deploy/client", "http://nobody.shop/"), Some(7));
    let output = mesh.exec("shop", "deploy/web", &["sh", "-c", "echo out; exit 5"]).expect("exec");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), b"out\n".as_slice()));
    // A killed process is started again in its pod.
    let pod = mesh.pods("shop", "web").expect("pods").remove(0);
    mesh.tell(&Request::KillPod { namespace: pod.namespace, pod: pod.name.clone(), container: None }).expect("killed");
    mesh.wait_until("a restart", PATIENCE, |status| {
        status.pods.iter().any(|p| p.name == pod.name && p.ready && p.containers.iter().any(|c| c.restarts == 1))
    })
    .expect("restarted");
    let state = mesh.state().path().to_owned();
    drop(mesh);
    assert!(!state.exists());
    let left = std::fs::read_dir("/proc").expect("proc").flatten().any(|entry| {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        command.contains(&*state.to_string_lossy())
    });
    assert!(!left, "a process of the mesh is left");
}

#[test]
fn an_edit_rolls_the_pods_and_no_request_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(mesh) = mesh(folder.path()) else { return };
    let load = ["meltemi", "app", "get", "http://web.shop/", "--duration", "6s", "--rate", "100", "--fresh", "--json"];
    let load = mesh.spawn("other", "deploy/client", &load).expect("load");
    write(folder.path(), "v2");
    mesh.wait_until("only v2 pods", PATIENCE, |status| {
        let web: Vec<_> = status.pods.iter().filter(|p| p.workload == "web").collect();
        status.ready && web.len() == 2
    })
    .expect("rolled");
    let output = load.wait_with_output().expect("the load's end");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["versions"]["v2"].as_u64() > Some(0), "{report}");
    // Pods that come and go do not change the gateway's hardware address; lookups of the others would be lost.
    let neighbour = mesh.exec("other", "deploy/client", &["ip", "neigh", "show", "10.244.0.1"]).expect("exec");
    let neighbour = String::from_utf8_lossy(&neighbour.stdout);
    assert!(neighbour.contains("02:00:0a:f4:00:01"), "{neighbour}");
    // A broken edit changes nothing and says where it is wrong.
    std::fs::write(folder.path().join("shop.yaml"), "kind: Service\n  oops: [\n").expect("written");
    let status = mesh.wait_until("the refusal", PATIENCE, |s| !s.problems.is_empty()).expect("refused");
    assert!(status.problems[0].line > 0 && status.pods.len() == 3, "{status:?}");
}
