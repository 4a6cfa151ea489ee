//! A real cluster of one node, as `scripts/kubernetes` starts it, with our image on it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long the cluster may take for anything, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The running cluster; taken down when the test ends.
pub struct Node {
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The program: the one that is named (an optimised one carries more traffic), else this build's.
fn binary() -> String {
    std::env::var("MELTEMI_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_meltemi").to_owned())
}

fn script(name: &str) -> Command {
    Command::new(root().join("scripts").join(name))
}

fn done(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

impl Node {
    /// Starts it and brings our image there.
    pub fn up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("meltemi.tar");
        let binary = binary();
        done("image", &script("image").arg(&binary).arg(&archive).arg("meltemi:test").output().unwrap());
        done("down", &script("kubernetes").arg("down").output().unwrap());
        let text = done("up", &script("kubernetes").arg("up").stderr(Stdio::inherit()).output().unwrap());
        let kubeconfig = text.lines().find_map(|l| l.strip_prefix("export KUBECONFIG=")).unwrap().into();
        let node = Self { kubeconfig, folder };
        done("load", &script("kubernetes").arg("load").arg(&archive).output().unwrap());
        node
    }

    fn command(&self, program: &str) -> Command {
        let assets =
            std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(|| root().join("target/kubernetes"), PathBuf::from);
        let program = if program == "kubectl" { assets.join("kubectl") } else { PathBuf::from(program) };
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs kubectl; what it says, good or bad.
    pub fn try_kubectl(&self, words: &[&str]) -> Output {
        self.command("kubectl").args(words).output().unwrap()
    }

    /// Runs kubectl, which must succeed.
    pub fn kubectl(&self, words: &[&str]) -> String {
        done(&format!("kubectl {words:?}"), &self.try_kubectl(words))
    }

    /// Applies a text; what names no namespace belongs to production.
    pub fn try_apply(&self, yaml: &str) -> Output {
        let file = self.folder.path().join("apply.yaml");
        std::fs::write(&file, yaml).unwrap();
        let named = yaml.contains("namespace: ");
        let words = ["apply", "-f", file.to_str().unwrap(), "-n", "production"];
        self.try_kubectl(if named { words.get(..3).unwrap() } else { &words })
    }

    /// Applies a text, which must succeed.
    pub fn apply(&self, yaml: &str) -> String {
        done("apply", &self.try_apply(yaml))
    }

    /// Runs istioctl; what it says, good or bad.
    pub fn try_istioctl(&self, words: &[&str]) -> Output {
        self.start_istioctl(words).output().unwrap()
    }

    /// istioctl as a command that is yet to be started.
    pub fn start_istioctl(&self, words: &[&str]) -> Command {
        let mut command = self.command(&binary());
        // Not a mesh of this machine.
        command.env("MELTEMI_MESH", "none-of-this-test").arg("istioctl").args(words);
        command
    }

    /// Runs istioctl, which must succeed.
    pub fn istioctl(&self, words: &[&str]) -> String {
        done(&format!("istioctl {words:?}"), &self.try_istioctl(words))
    }

    /// Objects as JSON.
    pub fn get(&self, words: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// The application's own client in a pod; its report.
    pub fn load(&self, namespace: &str, target: &str, words: &[&str]) -> Value {
        report(&self.start_load(namespace, target, words).wait_with_output().unwrap())
    }

    /// The same, under way.
    pub fn start_load(&self, namespace: &str, target: &str, words: &[&str]) -> Child {
        let mut command = self.command("kubectl");
        command.args(["exec", "-n", namespace, target, "-c", "app", "--", "/usr/local/bin/meltemi", "app", "get"]);
        command.args(words).arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A Prometheus of this machine, which a pod can run; nothing, with a word, where none is to be had.
    pub fn prometheus() -> Option<PathBuf> {
        let output = script("install-prometheus").output().unwrap();
        if !output.status.success() {
            eprintln!("no Prometheus is to be had: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).canonicalize().ok()
    }

    /// Stops or starts the API server.
    pub fn api(&self, what: &str) {
        done("api", &script("kubernetes").args(["api", what]).output().unwrap());
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !so() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::env::var_os("MELTEMI_KEEP_NODE").is_none() {
            let _ = script("kubernetes").arg("down").output();
        }
    }
}

/// The report of a load.
pub fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
