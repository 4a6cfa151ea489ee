use super::*;

const GOOD: &str = "# a comment first
apiVersion: v1
kind: Namespace
metadata: {name: production, labels: {istio-injection: enabled}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: order, namespace: production}
spec:
  replicas: 2
  selector: {matchLabels: {app: order}}
  template:
    metadata: {labels: {app: order}}
    spec: {containers: [{name: app, image: x, command: [meltemi, app]}]}
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn load(folder: &tempfile::TempDir) -> Manifests {
    let mut manifests = Manifests::new(vec![folder.path().to_owned()], "default");
    assert!(manifests.refresh());
    manifests
}

#[test]
fn reads_kubernetes_and_leaves_istio_alone() {
    let istio = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {nonsense: 1}\n";
    let folder = folder(&[("a.yaml", GOOD), ("b.yaml", istio)]);
    let (desired, problems) = load(&folder).desired();
    assert_eq!(problems, []);
    assert_eq!(desired.workloads.len(), 1);
    assert!(desired.namespaces["production"].injected);
}

#[test]
fn a_bad_edit_keeps_the_last_good_content_and_says_where() {
    let folder = folder(&[("a.yaml", GOOD)]);
    let mut manifests = load(&folder);
    std::fs::write(folder.path().join("a.yaml"), format!("{GOOD}---\nkind: Service\n  bad: [\n")).expect("written");
    assert!(!manifests.refresh() && manifests.refresh());
    let (desired, problems) = manifests.desired();
    assert_eq!(desired.workloads.len(), 1);
    assert_eq!(problems.len(), 1);
    assert!((16..=18).contains(&problems[0].line), "{}", problems[0]);
    assert!(!manifests.refresh());
}

#[test]
fn what_is_not_run_is_said() {
    let set = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\n";
    let (_, problems) = load(&folder(&[("a.yaml", set)])).desired();
    assert!(problems[0].reason.contains("only Deployments"), "{}", problems[0]);
}

#[test]
fn large_files_are_refused() {
    let big = "#".repeat(10 << 20);
    let (_, problems) = load(&folder(&[("a.yaml", &big)])).desired();
    assert!(problems[0].reason.contains("10485760 bytes"), "{}", problems[0]);
}

#[test]
fn half_an_edit_is_not_taken_for_the_whole() {
    let folder = folder(&[("a.yaml", GOOD)]);
    let file = folder.path().join("a.yaml");
    let mut manifests = load(&folder);
    let kept = |manifests: &Manifests| assert_eq!(manifests.desired().0.workloads.len(), 1);
    // Truncated, then written; moved away, then written anew.
    std::fs::write(&file, "").expect("truncated");
    assert!(!manifests.refresh());
    kept(&manifests);
    std::fs::write(&file, GOOD.replace("replicas: 2", "replicas: 33 ")).expect("written");
    assert!(!manifests.refresh());
    std::fs::rename(&file, folder.path().join("a.yaml~")).expect("moved away");
    assert!(!manifests.refresh());
    kept(&manifests);
    std::fs::write(&file, GOOD.replace("replicas: 2", "replicas: 44  ")).expect("written");
    assert!(!manifests.refresh() && manifests.refresh());
    assert_eq!(manifests.desired().0.workloads.values().map(|w| w.replicas).collect::<Vec<_>>(), [44]);
    // One that stays away is gone, and one that never rests is read all the same.
    for size in 0_usize.. {
        std::fs::write(&file, format!("{GOOD}#{}", "x".repeat(size))).expect("written");
        if manifests.refresh() {
            break;
        }
        assert!(size < 20, "a restless file is never read");
    }
    std::fs::remove_file(&file).expect("removed");
    assert!(!manifests.refresh() && manifests.refresh());
    assert!(manifests.desired().0.workloads.is_empty());
}
