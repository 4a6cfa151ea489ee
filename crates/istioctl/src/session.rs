//! One run of a command: its flags, and the mesh it is about.

use crate::access::{Access, Pod, choose};
use crate::global::Global;

/// One run of a command.
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) mesh: Option<Box<dyn Access>>,
}

impl Session {
    /// The mesh.
    ///
    /// # Errors
    /// When there is no way into one.
    pub(crate) fn access(&self) -> Result<&dyn Access, String> {
        if let Some(file) = &self.global.kubeconfig {
            return Err(format!("--kubeconfig {file}: clusters cannot be reached yet; use a laptop mesh, or --file"));
        }
        if let Some(context) = &self.global.context {
            return Err(format!("--context {context}: clusters cannot be reached yet; use a laptop mesh, or --file"));
        }
        self.mesh.as_deref().ok_or_else(|| "no mesh is up here; start one with `meltemi up DIR`".to_owned())
    }

    /// A pod, with the way to it.
    ///
    /// # Errors
    /// When there is no such pod.
    pub(crate) fn pod(&self, target: &str) -> Result<(&dyn Access, Pod), String> {
        let access = self.access()?;
        let pod = choose(&access.pods()?, target, self.global.namespace.as_deref())?;
        Ok((access, pod))
    }
}
