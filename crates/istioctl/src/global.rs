//! Flags of every command.

use std::path::PathBuf;

use clap::Args;

/// Flags of every command. Those that only a cluster needs are taken where a cluster can be reached.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// Namespace.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace of the control plane.
    #[arg(short, long = "istioNamespace", global = true, default_value = "istio-system")]
    pub istio_namespace: String,
    /// Kubernetes configuration file.
    #[arg(short = 'c', long, global = true)]
    pub kubeconfig: Option<String>,
    /// Context within it.
    #[arg(long, global = true)]
    pub context: Option<String>,
}

impl Global {
    /// How the cluster is reached.
    pub(crate) fn access(&self) -> installer::Access {
        installer::Access {
            kubeconfig: self.kubeconfig.as_ref().map(PathBuf::from),
            context: self.context.clone(),
            namespace: self.istio_namespace.clone(),
        }
    }

    /// The namespace of objects that name none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}
