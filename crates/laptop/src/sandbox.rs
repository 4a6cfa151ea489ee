//! A pod's own world: a network namespace with one leg on the bridge, and a mount namespace with its own `/run`,
//! `/etc/resolv.conf` and `/etc/hosts`.
//!
//! Nothing is pinned to the file system: the node holds descriptors, so whatever ends the node ends the pods too.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use net::netns::{Place, Unshare, pin, unshare};

use crate::address::{DNS, GATEWAY, ISTIOD, POD_PREFIX};
use crate::paths::write_atomic;
use crate::run::{ToolError, tool};
use crate::sidecar::CONFIG_FOLDER;

/// The bridge in the node's network namespace.
const BRIDGE: &str = "meltemi0";
/// The bridge's hardware address. One that is set stays: left to itself a bridge takes the lowest of its ports', so every
/// pod that comes or goes could change it, and all others would send DNS queries and xDS into the void until their
/// neighbour entry of the gateway is found stale, many seconds later.
const BRIDGE_ADDRESS: &str = "02:00:0a:f4:00:01";

/// Why a pod's world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A system call failed.
    #[error("cannot make a pod's namespaces: {0}")]
    Namespace(#[from] io::Error),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// What is shown inside the pod.
#[derive(Debug)]
pub struct Inside<'a> {
    /// A folder for the pod's files outside.
    pub folder: &'a Path,
    /// For the search list of resolv.conf.
    pub namespace: &'a str,
    /// For /etc/hosts.
    pub name: &'a str,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The service account's token.
    pub token: &'a str,
    /// Roots of the mesh, PEM.
    pub root: &'a str,
}

/// The descriptors that keep a pod's world alive.
#[derive(Debug)]
pub struct Sandbox {
    net: File,
    mount: File,
}

impl Sandbox {
    /// Makes the namespaces and joins the pod to the bridge. `number` makes the link's name unique in the mesh.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn make(number: u64, inside: &Inside<'_>) -> Result<Self, SandboxError> {
        write_files(inside)?;
        let folder = inside.folder.to_owned();
        // The thread ends in the new namespaces; the descriptors it brings back keep them.
        let made = std::thread::Builder::new().name("sandbox".to_owned()).spawn(move || enter_new(&folder))?.join();
        let sandbox = made.unwrap_or_else(|_| Err(io::Error::other("the thread panicked").into()))?;
        sandbox.join_bridge(number, inside.address)?;
        Ok(sandbox)
    }

    /// The network namespace, as a path that other processes of this mesh can open.
    pub fn net_path(&self) -> PathBuf {
        fd_path(&self.net)
    }

    /// The mount namespace, likewise.
    pub fn mount_path(&self) -> PathBuf {
        fd_path(&self.mount)
    }

    /// Descriptor numbers in the node, for `exec` from outside: network, mount.
    pub fn descriptors(&self) -> (i32, i32) {
        (self.net.as_raw_fd(), self.mount.as_raw_fd())
    }

    /// Where a process of the pod runs.
    pub fn place(&self, uid: Option<u32>, gid: Option<u32>) -> Place {
        Place {
            net: Some(self.net_path()),
            mount: Some(self.mount_path()),
            uid,
            gid,
            new_session: true,
            ..Place::default()
        }
    }

    fn join_bridge(&self, number: u64, address: Ipv4Addr) -> Result<(), ToolError> {
        let net = self.net_path();
        let outside = format!(
            "link add pod{number} type veth peer name eth0 netns {}\nlink set pod{number} master {BRIDGE} up\n",
            net.display()
        );
        tool("ip", &["-batch", "-"], &outside, &Place::default())?;
        let inside = format!(
            "link set lo up\naddr add {address}/{POD_PREFIX} dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n"
        );
        tool("ip", &["-batch", "-"], &inside, &Place { net: Some(net), ..Place::default() })?;
        Ok(())
    }
}

/// Makes the node's own end of the network: the bridge, with the addresses of the gateway, DNS and istiod.
///
/// # Errors
/// When `ip` is missing or refuses.
pub fn make_bridge() -> Result<(), ToolError> {
    let batch = format!(
        "link set lo up\nlink add {BRIDGE} address {BRIDGE_ADDRESS} type bridge\naddr add {GATEWAY}/{POD_PREFIX} dev {BRIDGE}\n\
         addr add {DNS}/32 dev {BRIDGE}\naddr add {ISTIOD}/32 dev {BRIDGE}\nlink set {BRIDGE} up\n"
    );
    tool("ip", &["-batch", "-"], &batch, &Place::default())?;
    Ok(())
}

/// `/proc/PID/fd/N`, with the pid as the mounted procfs knows it.
fn fd_path(file: &File) -> PathBuf {
    PathBuf::from("/proc").join(own_pid()).join("fd").join(file.as_raw_fd().to_string())
}

fn own_pid() -> PathBuf {
    std::fs::read_link("/proc/self").unwrap_or_else(|_| PathBuf::from("self"))
}

fn write_files(inside: &Inside<'_>) -> io::Result<()> {
    let Inside { folder, namespace, name, address, token, root } = inside;
    std::fs::create_dir_all(folder)?;
    let resolv = format!(
        "nameserver {DNS}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    );
    std::fs::write(folder.join("resolv.conf"), resolv)?;
    std::fs::write(folder.join("hosts"), format!("127.0.0.1\tlocalhost\n{address}\t{name}\n"))?;
    let secrets = folder.join("secrets");
    std::fs::create_dir_all(secrets.join("tokens"))?;
    std::fs::create_dir_all(secrets.join("istio"))?;
    for socket_folder in ["workload-spiffe-uds", "workload-spiffe-credentials"] {
        let path = secrets.join(socket_folder);
        std::fs::create_dir_all(&path)?;
        // Written by the sidecar, which is not root.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    }
    write_roots(folder, root)?;
    write_token(folder, token)
}

/// Gives the pod the roots of the mesh; also in place of former ones.
///
/// # Errors
/// What the file system says.
pub fn write_roots(folder: &Path, roots: &str) -> io::Result<()> {
    write_atomic(&folder.join("secrets/istio/root-cert.pem"), roots.as_bytes())
}

/// Gives the pod a token; also in place of an older one.
///
/// # Errors
/// What the file system says.
pub fn write_token(folder: &Path, token: &str) -> io::Result<()> {
    write_atomic(&folder.join("secrets/tokens/istio-token"), token.as_bytes())
}

/// On its own thread: new namespaces, and the files of the pod where a container has them.
fn enter_new(folder: &Path) -> Result<Sandbox, SandboxError> {
    unshare(Unshare { net: true, mount: true, ..Unshare::default() })?;
    tool("mount", &["-t", "tmpfs", "-o", "mode=755,size=16m", "tmpfs", "/run"], "", &Place::default())?;
    std::fs::create_dir_all("/run/secrets")?;
    std::fs::create_dir_all(CONFIG_FOLDER)?;
    // Written by the sidecar, which is not root.
    std::fs::set_permissions(CONFIG_FOLDER, std::fs::Permissions::from_mode(0o777))?;
    show(&folder.join("resolv.conf"), Path::new("/etc/resolv.conf"))?;
    show(&folder.join("hosts"), Path::new("/etc/hosts"))?;
    // A folder, not files: a renewed token comes by rename, and a bind-mounted file would stay the old one.
    pin(&folder.join("secrets"), Path::new("/run/secrets"))?;
    if !Path::new("/var/run/secrets").exists() {
        return Err(io::Error::other(
            "/var/run is not a link to /run on this machine; the sidecar would not find its token",
        )
        .into());
    }
    Ok(Sandbox { net: File::open("/proc/thread-self/ns/net")?, mount: File::open("/proc/thread-self/ns/mnt")? })
}

/// Bind-mounts `source` over `target`, which is made first when it is a link into the now empty `/run`.
fn show(source: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        let real = match std::fs::read_link(target) {
            Ok(link) => target.parent().unwrap_or(Path::new("/")).join(link),
            Err(_) => target.to_owned(),
        };
        if let Some(parent) = real.parent() {
            std::fs::create_dir_all(parent)?;
        }
        File::create(&real)?;
    }
    pin(source, target)
}
