//! istioctl's commands through a real API server, and injection by hand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::deployment;
use crate::node::{Node, PATIENCE};

fn as_json(node: &Node, words: &[&str]) -> Value {
    let text = node.istioctl(&[words, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}"))
}

/// What is read and set of istiod and of proxies while they run.
pub fn pages_and_levels(node: &Node) {
    let level =
        |all: &Value| all.as_array().unwrap().iter().find(|s| s["name"] == "ads").unwrap()["output_level"].clone();
    assert_eq!(level(&as_json(node, &["admin", "log"])), "info");
    // Both replicas: they are shown as one when they agree.
    assert_eq!(level(&as_json(node, &["admin", "log", "--level", "ads:debug"])), "debug");
    let table = node.istioctl(&["admin", "log", "--reset"]);
    assert!(table.starts_with("ACTIVE SCOPE") && !table.contains("debug"), "{table}");
    assert!(!node.try_istioctl(&["admin", "log", "--level", "nobody:debug"]).status.success());

    let order = "deploy/order-service.production";
    let log = |more: &[&str]| {
        let all = as_json(node, &[&["proxy-config", "log", order], more].concat());
        all.as_object().unwrap().values().next().unwrap()["http"].clone()
    };
    let before = log(&[]);
    assert_eq!(log(&["--level", "http:debug"]), "debug");
    assert_eq!(log(&["--level", &format!("http:{}", before.as_str().unwrap())]), before);

    let list = as_json(node, &["experimental", "injector", "list"]);
    let row = list["namespaces"].as_array().unwrap().iter().find(|n| n["namespace"] == "production");
    assert_eq!(row.unwrap()["podRevisions"], "default: 5", "{list:#}");
    assert!(list["injectors"].to_string().contains("istio-sidecar-injector"), "{list:#}");
    let told = as_json(node, &["experimental", "check-inject", order]);
    assert_eq!(told["injected"], true, "{told}");
    let told = as_json(node, &["experimental", "check-inject", "deploy/legacy-client.legacy"]);
    assert_eq!(told["injected"], false, "{told}");

    let described = as_json(node, &["experimental", "describe", "service", "payment-api.production"]);
    assert_eq!(described["virtualServices"][0]["name"], "payment-api.production", "{described:#}");
    assert_eq!(described["pods"].as_array().map(Vec::len), Some(3), "{described:#}");
    node.istioctl(&["experimental", "wait", "VirtualService", "payment-api.production", "--timeout", "60s"]);
    assert!(
        !node.try_istioctl(&["x", "wait", "VirtualService", "nobody.production", "--timeout", "1s"]).status.success()
    );
    let found = as_json(node, &["analyze", "-n", "production"]);
    assert!(found.as_array().unwrap().iter().all(|m| m["level"] != "Error"), "{found:#}");
    assert_eq!(as_json(node, &["precheck"]), json!([]));
    verified(node);
    completed(node);
    assert_eq!(as_json(node, &["tag", "list"]), json!([]));
    node.istioctl(&["tag", "set", "stable", "--revision", "default"]);
    assert_eq!(as_json(node, &["tag", "list"])[0]["tag"], "stable");
    node.istioctl(&["tag", "remove", "stable", "-y"]);

    let page = |name: &str| -> Value {
        serde_json::from_str(&node.istioctl(&["experimental", "internal-debug", name])).unwrap()
    };
    assert_eq!(page("clusterz")[0]["syncStatus"], "synced");
    assert!(page("inject")["sidecar"].as_str().unwrap().contains("istio-proxy"));
    assert!(page("push_status").is_object());
    // The Prometheus of this cluster is none: the command says so instead of printing zeros.
    let none = node.try_istioctl(&["experimental", "metrics", "payment-api-v1.production"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no Prometheus"), "{none:?}");

    let folder = tempfile::tempdir().unwrap();
    node.istioctl(&["bug-report", "--output-dir", folder.path().to_str().unwrap(), "--tail", "50"]);
    let archive = folder.path().join("bug-report.tar.gz");
    let listed = std::process::Command::new("tar").arg("tzf").arg(&archive).output().unwrap();
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(names.contains("istiod/debug/syncz") && names.contains("config_dump"), "{names}");
    assert!(!names.contains(".missing"), "everything could be had: {names}");

    let secret = node.istioctl(&["create-remote-secret", "--name", "here"]);
    assert!(secret.contains("istio-remote-secret-here") && secret.contains("current-context: here"), "{secret}");
    node.apply(&secret);
    node.kubectl(&["delete", "secret", "-n", "istio-system", "istio-remote-secret-here"]);
    dashboard(node, order);
}

/// Every object of the installation, one by one; what is missing is named, and the exit code tells.
fn verified(node: &Node) {
    let verify = |more: &[&str]| node.try_istioctl(&[&["verify-install"], &crate::SETTINGS[..], more].concat());
    let read = |output: &std::process::Output, format: &str| -> Value {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match format {
            "json" => serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")),
            _ => istio_api::yaml::parse(&text).unwrap_or_else(|e| panic!("{}: {text}", e.reason)).remove(0).value,
        }
    };
    for format in ["json", "yaml"] {
        let output = verify(&["-o", format]);
        let rows = read(&output, format);
        let rows = rows.as_array().unwrap();
        assert!(output.status.success() && rows.iter().all(|r| r["good"] == true), "{rows:#?}");
        let object = |title: &str| rows.iter().any(|r| r["object"].as_str().unwrap_or_default().contains(title));
        assert!(object("PodDisruptionBudget") && object("Deployment") && object("istio-sidecar-injector"), "{rows:#?}");
    }
    let sentences = String::from_utf8_lossy(&verify(&[]).stdout).into_owned();
    assert!(sentences.contains("verified successfully") && !sentences.contains('✘'), "{sentences}");
    // Of a revision that was not installed most is missing, and the kinds are there.
    let other = verify(&["-r", "canary", "-o", "json"]);
    let rows = read(&other, "json");
    let state = |title: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|r| r["object"].as_str().unwrap_or_default().contains(title))
            .map(|r| r["good"].clone())
    };
    assert!(!other.status.success());
    assert_eq!(
        (state("istiod-canary"), state("virtualservices.networking")),
        (Some(false.into()), Some(true.into())),
        "{rows:#}"
    );
}

/// Scripts that shells complete words with: a shell that is there reads its own.
fn completed(node: &Node) {
    for shell in ["bash", "zsh", "fish"] {
        let script = node.istioctl(&["completion", shell]);
        assert!(script.contains("istioctl") && script.contains("proxy-status"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("istioctl.bash");
    std::fs::write(&file, node.istioctl(&["completion", "bash"])).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(istioctl proxy-st); COMP_CWORD=1; _istioctl istioctl proxy-st istioctl; \
               echo \"${COMPREPLY[*]}\"";
    let answer = std::process::Command::new("bash").args(["-c", ask]).arg(&file).output().unwrap();
    let words = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert_eq!(words.trim(), "proxy-status", "{}", String::from_utf8_lossy(&answer.stderr));
}

/// A local port leads to a proxy's pages until the command is ended.
fn dashboard(node: &Node, target: &str) {
    let words = ["dashboard", "envoy", target, "--browser=false"];
    let mut child = node.start_istioctl(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        stream.write_all(b"GET /server_info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let answer = ask();
    child.kill().unwrap();
    child.wait().unwrap();
    let answer = answer.unwrap_or_else(|e| panic!("{line}: {e}"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("version"), "{answer}");
}

/// A deployment through `kube-inject`, and the same one through the webhook: pods are the same but for what names differ.
pub fn injection_by_hand_is_the_webhooks(node: &Node) {
    node.kubectl(&["create", "namespace", "by-hand"]);
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let file = write("deployment.yaml", &deployment("by-hand", "twin", "twin", "v1", 1));
    // Everything is asked of the cluster; the same of files gives the same.
    let injected = node.istioctl(&["kube-inject", "-f", &file]);
    let data = |name: &str, key: &str| {
        let map = node.get(&["configmap", name, "-n", "istio-system"]);
        write(key, map["data"][key].as_str().unwrap())
    };
    let (mesh, values) = (data("istio", "mesh"), data("istio-sidecar-injector", "values"));
    let by_files = ["kube-inject", "-f", &file, "--meshConfigFile", &mesh, "--valuesFile", &values];
    assert_eq!(node.istioctl(&by_files), injected);
    for (flag, value, missing) in [
        ("-r", "nobody", "istio-sidecar-injector-nobody"),
        ("--injectConfigMapName", "mine", "mine"),
        ("--meshConfigMapName", "own", "own"),
    ] {
        let none = node.try_istioctl(&["kube-inject", "-f", &file, flag, value]);
        let words = String::from_utf8_lossy(&none.stderr).into_owned();
        assert!(!none.status.success() && words.contains(&format!("no ConfigMap {missing} in")), "{words}");
    }
    node.apply(&injected);
    node.apply(&deployment("production", "twin", "twin", "v1", 1));
    let pod = |namespace: &str| {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        node.kubectl(&["rollout", "status", "-n", namespace, "deploy/twin", &timeout]);
        let pods = node.get(&["pods", "-n", namespace, "-l", "app=twin"]);
        essence(&pods["items"][0], namespace)
    };
    let (by_hand, by_webhook) = (pod("by-hand"), pod("production"));
    let lines = |v: &Value| format!("{v:#}").lines().map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (lines(&by_hand), lines(&by_webhook));
    let unlike: Vec<_> = a.iter().filter(|l| !b.contains(l)).chain(b.iter().filter(|l| !a.contains(l))).collect();
    assert_eq!(by_hand, by_webhook, "{unlike:#?}");
    let described = node.kubectl(&["describe", "pod", "-n", "by-hand", "-l", "app=twin"]);
    assert!(described.contains("istio-proxy:") && described.contains("app:"), "{described}");
    node.kubectl(&["delete", "namespace", "by-hand", "--wait=true"]);
    node.kubectl(&["delete", "deployment", "twin", "-n", "production", "--wait=true"]);
    node.kubectl(&["delete", "pods", "-n", "production", "-l", "app=twin", "--wait=true", "--ignore-not-found"]);
}

/// Labels, annotations and spec of a pod, without what the cluster names by chance and without the namespace's name.
fn essence(pod: &Value, namespace: &str) -> Value {
    let mut spec = pod["spec"].clone();
    let mut labels = pod["metadata"]["labels"].clone();
    // The hash is of the template, which one of the two has injected already.
    labels.as_object_mut().unwrap().remove("pod-template-hash");
    spec.as_object_mut().unwrap().remove("nodeName");
    let mut volumes = pod["spec"]["volumes"].as_array().unwrap().iter().filter_map(|v| v["name"].as_str());
    let token = volumes.find(|n| n.starts_with("kube-api-access-")).unwrap_or("none").to_owned();
    let all = json!({"labels": labels, "annotations": pod["metadata"]["annotations"], "spec": spec});
    let text = all.to_string().replace(&token, "kube-api-access").replace(namespace, "NAMESPACE");
    serde_json::from_str(&text).unwrap()
}
