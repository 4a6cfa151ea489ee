//! A stock Envoy, given the resources of a case in a static bootstrap file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use envoy_api::{Any, any_to_json};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::until;
use crate::world::{LOCAL_CLUSTER, Resources};

/// A running Envoy; it ends with its case.
pub struct Envoy {
    process: Child,
    admin: SocketAddr,
    listeners: Value,
    _files: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Envoy {
    pub async fn start(resources: Resources) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let (config, address) = (files.path().join("envoy.json"), files.path().join("admin"));
        write_secrets(files.path(), &resources.secrets);
        std::fs::write(&config, bootstrap(resources, files.path()).to_string()).expect("it can be written");
        let binary = std::env::var_os("MELTEMI_ENVOY").map_or_else(|| PathBuf::from("envoy"), PathBuf::from);
        let log = std::fs::File::create(files.path().join("log")).expect("it can be written");
        let process = Command::new(&binary)
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary.display()));
        let mut envoy =
            Self { process, admin: SocketAddr::from(([127, 0, 0, 1], 0)), listeners: Value::Null, _files: files };
        let log = || std::fs::read_to_string(envoy._files.path().join("log")).unwrap_or_default();
        for _ in 0..1000 {
            if let Some(at) = std::fs::read_to_string(&address).ok().and_then(|text| text.trim().parse().ok()) {
                envoy.admin = at;
                break;
            }
            if let Ok(Some(status)) = envoy.process.try_wait() {
                panic!(
                    "Envoy ended: {status}\n{}",
                    std::fs::read_to_string(envoy._files.path().join("log")).unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = log;
        let mut live = false;
        for _ in 0..1000 {
            if admin(envoy.admin, "/ready").await.is_some_and(|body| body.contains("LIVE")) {
                live = true;
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            live,
            "Envoy does not become ready: {}",
            std::fs::read_to_string(envoy._files.path().join("log")).unwrap_or_default()
        );
        let body = admin(envoy.admin, "/listeners?format=json").await.expect("an answer");
        envoy.listeners = serde_json::from_str(&body).expect("JSON");
        until("Envoy listens", || true).await;
        envoy
    }

    /// Envoy looks at the directory of its secrets.
    pub fn write_secrets(&self, secrets: &HashMap<String, Any>) {
        write_secrets(self._files.path(), secrets);
    }

    pub fn entry(&self, listener: &str) -> SocketAddr {
        let all = self.listeners["listener_statuses"].as_array().into_iter().flatten();
        let found = all.filter(|l| l["name"] == listener).find_map(|l| {
            let socket = l.pointer("/local_address/socket_address")?;
            format!("{}:{}", socket["address"].as_str()?, socket["port_value"]).parse().ok()
        });
        found.unwrap_or_else(|| panic!("Envoy has no listener {listener}: {}", self.listeners))
    }

    pub async fn stat(&self, name: &str) -> u64 {
        let text = admin(self.admin, "/stats").await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

/// Where the content of a secret of the control plane stands.
fn secret_file(files: &Path, name: &str) -> PathBuf {
    files.join(format!("{}.json", name.trim_start_matches("kubernetes://")))
}

/// Each is moved into its place, which is what Envoy watches for.
fn write_secrets(files: &Path, secrets: &HashMap<String, Any>) {
    for (name, secret) in secrets {
        let new = files.join("new");
        std::fs::write(&new, json!({"resources": [any_to_json(secret)]}).to_string()).expect("it can be written");
        std::fs::rename(&new, secret_file(files, name)).expect("it can be moved");
    }
}

/// The body of an admin page.
async fn admin(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).await.ok()?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    // Chunk sizes stand on lines of their own; JSON and statistics do not mind their loss.
    let lines = body.split("\r\n");
    Some(lines.enumerate().filter(|(i, _)| !text.contains("chunked") || i % 2 == 1).map(|(_, l)| l).collect())
}

/// Everything static: endpoints inside their clusters, routes inside their listeners, secrets from their files.
fn bootstrap(resources: Resources, files: &Path) -> Value {
    let mut clusters: Vec<Value> = resources
        .clusters
        .iter()
        .map(|any| {
            let mut cluster = any_to_json(any);
            let map = cluster.as_object_mut().expect("a message");
            map.shift_remove("@type");
            if let Some(eds) = map.shift_remove("eds_cluster_config") {
                let name = eds["service_name"].as_str().unwrap_or_default();
                map.insert("type".to_owned(), json!("STATIC"));
                let mut endpoints =
                    resources.endpoints.get(name).map_or_else(|| json!({"cluster_name": name}), any_to_json);
                endpoints.as_object_mut().expect("a message").shift_remove("@type");
                map.insert("load_assignment".to_owned(), endpoints);
            }
            secrets(&mut cluster, files);
            cluster
        })
        .collect();
    let mut more = json!({});
    let mut node = json!({"id": "sidecar~127.0.0.1~client-0.shop~shop.svc.cluster.local", "cluster": "client.shop"});
    if let Some((region, zone)) = resources.place.as_deref().and_then(|place| place.split_once('.')) {
        let mut replicas = any_to_json(&resources.endpoints[LOCAL_CLUSTER]);
        replicas.as_object_mut().expect("a message").shift_remove("@type");
        clusters.push(
            json!({"name": LOCAL_CLUSTER, "type": "STATIC", "connect_timeout": "1s", "load_assignment": replicas}),
        );
        more = json!({"local_cluster_name": LOCAL_CLUSTER});
        node["locality"] = json!({"region": region, "zone": zone});
    }
    let listeners: Vec<Value> = resources
        .listeners
        .into_iter()
        .map(|mut listener| {
            listener.as_object_mut().expect("a message").shift_remove("@type");
            routes(&mut listener, &resources.routes);
            secrets(&mut listener, files);
            listener
        })
        .collect();
    json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "node": node,
        "cluster_manager": more,
        "static_resources": {"clusters": clusters, "listeners": listeners}
    })
}

fn routes(value: &mut Value, all: &HashMap<String, Any>) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.shift_remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap_or_default();
                let mut config = all.get(name).map_or_else(|| json!({"name": name}), any_to_json);
                config.as_object_mut().expect("a message").shift_remove("@type");
                map.insert("route_config".to_owned(), config);
            }
            map.values_mut().for_each(|v| routes(v, all));
        }
        Value::Array(list) => list.iter_mut().for_each(|v| routes(v, all)),
        _ => {}
    }
}

/// Secrets by name become what Istio's agent would serve: the files that the names say. Those of the control plane come from
/// files of their own.
fn secrets(value: &mut Value, at: &Path) {
    match value {
        Value::Object(map) => {
            let sent = map.get("name").and_then(Value::as_str).filter(|name| name.starts_with("kubernetes://"));
            if let Some(file) = sent.map(|name| secret_file(at, name)) {
                let source = json!({"path": file, "watched_directory": {"path": at}});
                map.insert(
                    "sds_config".to_owned(),
                    json!({"path_config_source": source, "resource_api_version": "V3"}),
                );
                return;
            }
            let of_files = |config: &Value| config["name"].as_str().is_some_and(|name| name.starts_with("file-"));
            let list = map.get("tls_certificate_sds_secret_configs").filter(|list| of_files(&list[0])).cloned();
            if let Some(list) = list {
                map.shift_remove("tls_certificate_sds_secret_configs");
                let files = list[0]["name"].as_str().and_then(|n| {
                    n.strip_prefix("file-cert:")?.split_once('~').map(|(c, k)| (c.to_owned(), k.to_owned()))
                });
                if let Some((chain, key)) = files {
                    map.insert(
                        "tls_certificates".to_owned(),
                        json!([{"certificate_chain": {"filename": chain}, "private_key": {"filename": key}}]),
                    );
                }
            }
            let both = map.get("combined_validation_context");
            let both = both.filter(|both| of_files(&both["validation_context_sds_secret_config"])).cloned();
            if let Some(mut both) = both {
                map.shift_remove("combined_validation_context");
                let mut context = both["default_validation_context"].take();
                let name = both["validation_context_sds_secret_config"]["name"].as_str().unwrap_or_default().to_owned();
                if let Some(path) = name.strip_prefix("file-root:") {
                    context["trusted_ca"] = json!({"filename": path});
                }
                map.insert("validation_context".to_owned(), context);
            }
            map.values_mut().for_each(|value| secrets(value, at));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| secrets(value, at)),
        _ => {}
    }
}
