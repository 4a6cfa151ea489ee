//! One run of a command: its flags, and the mesh it is about.

use std::cell::OnceCell;

use crate::access::{Access, Pod, choose};
use crate::cluster::ByCluster;
use crate::global::Global;

/// One run of a command.
pub(crate) struct Session {
    pub(crate) global: Global,
    /// The mesh that runs on this machine.
    mesh: Option<Box<dyn Access>>,
    /// The cluster, once it was asked for.
    cluster: OnceCell<Result<ByCluster, String>>,
}

impl Session {
    pub(crate) fn new(global: Global, mesh: Option<Box<dyn Access>>) -> Self {
        Self { global, mesh, cluster: OnceCell::new() }
    }

    /// The mesh: the cluster that is named, else the mesh that runs here, else the cluster that kubectl would ask.
    ///
    /// # Errors
    /// When there is no way into one.
    pub(crate) fn access(&self) -> Result<&dyn Access, String> {
        let named = self.global.kubeconfig.is_some() || self.global.context.is_some();
        if let Some(mesh) = self.mesh.as_deref().filter(|_| !named) {
            return Ok(mesh);
        }
        match self.cluster.get_or_init(|| ByCluster::connect(&self.global.access())) {
            Ok(cluster) => Ok(cluster),
            Err(reason) if named => Err(reason.clone()),
            Err(reason) => Err(format!("no mesh is up here (`meltemi up DIR` starts one), and {reason}")),
        }
    }

    /// The cluster, for what no laptop mesh has.
    ///
    /// # Errors
    /// When none is known.
    pub(crate) fn cluster(&self) -> Result<&ByCluster, String> {
        self.cluster.get_or_init(|| ByCluster::connect(&self.global.access())).as_ref().map_err(Clone::clone)
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
