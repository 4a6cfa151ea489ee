//! Where a mesh keeps its files: everything lies in one folder, and `down` removes it.

use std::path::{Path, PathBuf};

/// The folder of one mesh.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Of the mesh called `mesh`, under `$MELTEMI_STATE`, else the XDG state folder, else `~/.local/state/meltemi`.
    pub fn of(mesh: &str) -> Self {
        let base = std::env::var_os("MELTEMI_STATE").map(PathBuf::from).unwrap_or_else(|| {
            let xdg = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
            xdg.unwrap_or_else(|| home.join(".local/state")).join("meltemi")
        });
        Self(base.join(mesh))
    }

    /// This folder exactly.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where commands reach the node.
    pub fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// The node's process id as seen from outside its own namespaces.
    pub fn pid_file(&self) -> PathBuf {
        self.0.join("node.pid")
    }

    /// What the node itself has to say.
    pub fn node_log(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// What istiod has to say.
    pub fn istiod_log(&self) -> PathBuf {
        self.0.join("istiod.log")
    }

    /// Objects that the laptop writes for istiod: Pods with addresses, Services with cluster IPs.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// istiod's certificate authority.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// Which service has which cluster IP.
    pub fn vips(&self) -> PathBuf {
        self.0.join("vips.json")
    }

    /// The output of a container.
    pub fn log(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.0.join("logs").join(namespace).join(pod).join(format!("{container}.log"))
    }

    /// Files shown inside a pod.
    pub fn pod(&self, namespace: &str, pod: &str) -> PathBuf {
        self.0.join("pods").join(namespace).join(pod)
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part.
///
/// # Errors
/// What the file system says.
pub fn write_atomic(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    // Hidden, so that a watcher of the folder does not take it for an object.
    let temporary = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}
