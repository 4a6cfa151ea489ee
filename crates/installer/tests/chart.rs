//! The Helm chart says what the manifest says. Skips, saying so, where helm is not (scripts/install-kubernetes helm).

use std::path::{Path, PathBuf};
use std::process::Command;

use installer::{Values, chart, manifest};
use serde_json::Value;

fn helm() -> Option<PathBuf> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kubernetes");
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(own, PathBuf::from);
    Some(folder.join("helm")).filter(|p| p.exists())
}

/// Objects by kind and name; the text of the mesh configuration is read.
fn by_name(objects: Vec<Value>) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = objects
        .into_iter()
        .filter(|o| o["kind"].is_string() && o["kind"] != "Namespace")
        .map(|mut object| {
            if let Some(mesh) = object.pointer("/data/mesh").and_then(Value::as_str) {
                object["data"]["mesh"] = istio_api::yaml::parse(mesh).unwrap().remove(0).value;
            }
            (format!("{} {}", object["kind"], object["metadata"]["name"]), object)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn helm_renders_what_the_manifest_holds() {
    let Some(helm) = helm() else {
        eprintln!("skipped: no helm; run scripts/install-kubernetes helm");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in chart().unwrap() {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let run = |words: &[&str]| {
        let output = Command::new(&helm).args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let at = folder.path().to_str().unwrap();
    let linted = run(&["lint", "--strict", at]);
    assert!(linted.contains("0 chart(s) failed"), "{linted}");

    // As the operator's values name them, and as the chart's do.
    let cases: [&[(&str, &str)]; 5] = [
        &[],
        &[("revision", "canary"), ("values.pilot.replicaCount", "3")],
        &[
            ("values.global.hub", "reg.example/mesh/"),
            ("values.global.tag", "1.2"),
            ("values.global.istioNamespace", "mesh"),
        ],
        &[
            ("meshConfig.accessLogFile", "/dev/stdout"),
            ("meshConfig.trustDomain", "shop"),
            ("values.global.imagePullPolicy", "Never"),
        ],
        &[
            ("values.pilot.env.PILOT_ENABLE_STATUS", "false"),
            ("values.pilot.image", "reg/one:2"),
            ("values.global.proxy.image", "side"),
            ("values.global.multiCluster.clusterName", "east"),
        ],
    ];
    for case in cases {
        let ours: Vec<String> = case.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let objects = manifest(&Values::read([], ours.iter().map(String::as_str)).unwrap()).unwrap();
        let mut words = vec!["template", "istiod", at, "--include-crds"];
        let theirs: Vec<String> = ours.iter().map(|s| s.trim_start_matches("values.").to_owned()).collect();
        for setting in &theirs {
            words.extend(["--set", setting]);
        }
        let rendered = istio_api::yaml::parse(&run(&words)).unwrap();
        let (rendered, objects) = (by_name(rendered.into_iter().map(|d| d.value).collect()), by_name(objects));
        let names = |all: &[(String, Value)]| all.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rendered), names(&objects), "{case:?}");
        for ((name, theirs), (_, ours)) in rendered.iter().zip(&objects) {
            assert_eq!(theirs, ours, "{case:?}: {name}");
        }
    }
}
