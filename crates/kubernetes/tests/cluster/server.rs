//! A real API server with its etcd, for one test: own keys, ephemeral ports, ended by pid.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kubernetes::{Cluster, Place};
use serde_json::{Value, json};

/// How long a server may take to be ready on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The administrator's token.
const TOKEN: &str = "administrator";

/// A running API server.
pub struct ApiServer {
    folder: tempfile::TempDir,
    programs: (PathBuf, PathBuf),
    ports: (u16, u16, u16),
    running: Vec<Child>,
}

impl ApiServer {
    /// Starts one, or says why it cannot.
    pub async fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            eprintln!("skipped: no kube-apiserver or etcd; run scripts/install-kubernetes, or set KUBEBUILDER_ASSETS");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        std::fs::write(folder.path().join("accounts.key"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("accounts.pub"), key.public_key_pem()).unwrap();
        std::fs::write(folder.path().join("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let mut server = Self { folder, programs, ports: (free_port(), free_port(), free_port()), running: Vec::new() };
        server.write_kubeconfig();
        server.start_etcd();
        server.start_api();
        server.ready().await;
        Some(server)
    }

    /// A connection as administrator.
    pub async fn connect(&self) -> Cluster {
        Cluster::connect(Some(self.kubeconfig()), None, "istio-system").await.unwrap()
    }

    /// How it is reached.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Kills the API server; etcd stays.
    pub fn kill_api(&mut self) {
        let mut api = self.running.remove(1);
        api.kill().unwrap();
        api.wait().unwrap();
    }

    /// Starts the API server that was killed, at the same address, and waits until it answers.
    pub async fn restart_api(&mut self) {
        self.start_api();
        self.ready().await;
    }

    /// Forgets the history of changes: watches that ask for it get 410 Gone.
    pub fn compact(&self) {
        let endpoint = format!("http://127.0.0.1:{}", self.ports.0);
        let ask = |path: &str, body: &str| {
            let url = format!("{endpoint}{path}");
            let answer = Command::new("curl").args(["-sS", "-X", "POST", "-d", body, &url]).output().unwrap();
            serde_json::from_slice::<Value>(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"))
        };
        let status = ask("/v3/maintenance/status", "{}");
        let revision = status["header"]["revision"].as_str().unwrap();
        let done = ask("/v3/kv/compaction", &json!({"revision": revision, "physical": true}).to_string());
        assert!(done["error"].is_null(), "{done}");
    }

    fn start_etcd(&mut self) {
        let at = |port| format!("http://127.0.0.1:{port}");
        let (client, peer) = (at(self.ports.0), at(self.ports.1));
        let mut etcd = Command::new(&self.programs.0);
        etcd.arg("--data-dir").arg(self.folder.path().join("etcd")).arg("--unsafe-no-fsync");
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]);
        self.spawn("etcd", etcd);
    }

    fn start_api(&mut self) {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let mut api = Command::new(&self.programs.1);
        api.arg(format!("--etcd-servers=http://127.0.0.1:{}", self.ports.0));
        api.arg(format!("--secure-port={}", self.ports.2));
        api.arg("--bind-address=127.0.0.1");
        api.arg(format!("--cert-dir={}", file("certs")));
        api.arg(format!("--service-account-key-file={}", file("accounts.pub")));
        api.arg(format!("--service-account-signing-key-file={}", file("accounts.key")));
        api.arg("--service-account-issuer=https://kubernetes.default.svc");
        api.arg(format!("--token-auth-file={}", file("tokens.csv")));
        api.args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"]);
        // A test writes pods itself; nobody makes their service accounts.
        api.arg("--disable-admission-plugins=ServiceAccount");
        self.spawn("kube-apiserver", api);
    }

    fn spawn(&mut self, name: &str, mut command: Command) {
        let log = std::fs::File::create(self.folder.path().join(format!("{name}.log"))).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        self.running.push(child);
    }

    async fn ready(&mut self) {
        let cluster = self.connect().await;
        let place = Place::list("v1", "namespaces", None).object("default");
        let begun = Instant::now();
        while !matches!(cluster.read(&place).await, Ok(Some(_))) {
            if begun.elapsed() > PATIENCE || self.running.iter_mut().any(|c| c.try_wait().unwrap().is_some()) {
                let log = std::fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("the API server is not ready: {tail:#?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn write_kubeconfig(&self) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.ports.2), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        });
        std::fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// etcd and kube-apiserver.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kubernetes");
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(own, PathBuf::from);
    let etcd = [folder.join("etcd"), PathBuf::from("/usr/bin/etcd")].into_iter().find(|p| p.exists())?;
    let api = Some(folder.join("kube-apiserver")).filter(|p| p.exists())?;
    Some((etcd, api))
}

/// A port that nobody has.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
