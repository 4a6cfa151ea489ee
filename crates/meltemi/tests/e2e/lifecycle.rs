//! What a mesh leaves behind (nothing), and how it runs without root.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::shop::{Shop, binary};

/// Lines of a tool's output.
fn lines(program: &str, words: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// All that a mesh could have left in the machine's own network, mounts and lists of namespaces.
fn machine() -> BTreeSet<String> {
    // Names of links, not their counters and states, which change all the time.
    let mut all: BTreeSet<String> =
        lines("ip", &["-o", "link"]).iter().filter_map(|l| l.split(' ').nth(1).map(str::to_owned)).collect();
    all.extend(lines("ip", &["-o", "-4", "route", "show", "table", "all"]));
    all.extend(lines("ip", &["netns", "list"]));
    all.extend(lines("nft", &["list", "ruleset"]));
    all.extend(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned));
    all
}

/// Processes in the process namespace that `link` names.
fn processes(link: &Path) -> usize {
    let of = |entry: std::fs::DirEntry| std::fs::read_link(entry.path().join("ns/pid")).ok();
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).filter(|ns| ns == link).count()
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn down_leaves_nothing_behind() {
    let before = machine();
    let shop = Shop::up(|_| {});
    let state = shop.mesh.state().path().to_owned();
    let node = std::fs::read_to_string(state.join("node.pid")).unwrap();
    let inside = std::fs::read_link(format!("/proc/{}/ns/pid", node.trim())).unwrap();
    assert!(processes(&inside) > 16, "the node, istiod, eight applications and seven sidecars");
    // The network of the machine is not touched even while it runs.
    assert_eq!(machine().difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    drop(shop);
    // The node is gone, but whoever has inherited it may not have noticed yet.
    for _ in 0..100 {
        if processes(&inside) == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(processes(&inside), 0);
    assert!(!state.exists());
    assert_eq!(machine().difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// An unprivileged user who exists only in a mount namespace of ours.
const USER: u32 = 54_321;

/// Runs a script as the unprivileged user, with or without a range of further ids.
fn as_user(folder: &Path, ids: &str, script: &str) -> Output {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let passwd = file("passwd", format!("{passwd}tester:x:{USER}:{USER}::{}:/bin/sh\n", folder.display()));
    let group = std::fs::read_to_string("/etc/group").unwrap();
    let group = file("group", format!("{group}tester:x:{USER}:\n"));
    let range = file("ids", ids.to_owned());
    let enter = format!(
        "touch /etc/subuid /etc/subgid; mount --bind {passwd} /etc/passwd && mount --bind {group} /etc/group && \
         mount --bind {range} /etc/subuid && mount --bind {range} /etc/subgid && \
         exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -c \"$SCRIPT\""
    );
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &enter])
        .env("SCRIPT", script)
        .env("USER", "tester")
        .env("HOME", folder)
        .env("MELTEMI_STATE", folder.join("state"))
        .output()
        .unwrap()
}

/// The binary where the user can read it: CI checks out into folders of root's own.
fn readable_binary(folder: &Path) -> PathBuf {
    let copy = folder.join("meltemi");
    if std::fs::hard_link(binary(), &copy).is_err() {
        std::fs::copy(binary(), &copy).unwrap();
    }
    copy
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn a_user_without_rights_runs_a_mesh_where_the_kernel_lets_him() {
    let tried = Command::new("setpriv")
        .args([
            "--reuid",
            &USER.to_string(),
            "--clear-groups",
            "--regid",
            &USER.to_string(),
            "unshare",
            "--user",
            "true",
        ])
        .output()
        .unwrap();
    if !tried.status.success() {
        eprintln!("skipped: this kernel gives an unprivileged user no user namespace: {}", text(&tried.stderr));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["state", "plain", "meshed"] {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(USER), Some(USER)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), USER);
    }
    let pods = Shop::pods_yaml();
    std::fs::write(folder.path().join("meshed/pods.yaml"), &pods).unwrap();
    let bare = pods.replace("istio-injection: enabled", "istio-injection: disabled");
    std::fs::write(folder.path().join("plain/pods.yaml"), bare).unwrap();
    let meltemi = readable_binary(folder.path()).display().to_string();
    let call = "exec -n production deploy/order-service -- meltemi app get http://payment-api:8080/ -n 20 --json";
    let round = |source: &str, flags: &str| {
        format!(
            "{meltemi} up {}/{source} --detach --wait 90s {flags} >&2 || exit 3; {meltemi} {call}; end=$?; \
             {meltemi} down || exit 4; exit $end",
            folder.path().display()
        )
    };

    // One id is enough for pods without sidecars.
    let plain = as_user(folder.path(), "", &round("plain", "--plain"));
    assert!(plain.status.success() && text(&plain.stdout).contains("\"ok\":20"), "{plain:?}");
    // A sidecar needs an id of its own, which is said.
    let refused = as_user(folder.path(), "", &round("meshed", ""));
    assert!(!refused.status.success() && text(&refused.stderr).contains("1337"), "{}", text(&refused.stderr));
    // With a range of ids there is a whole mesh.
    let meshed = as_user(folder.path(), "tester:300000:65536\n", &round("meshed", ""));
    assert!(meshed.status.success() && text(&meshed.stdout).contains("\"ok\":20"), "{}", text(&meshed.stderr));
    assert!(std::fs::read_dir(folder.path().join("state")).unwrap().next().is_none(), "down leaves files");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
