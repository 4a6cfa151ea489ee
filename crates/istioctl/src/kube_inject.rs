//! `istioctl kube-inject`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use injector::Options;

use crate::global::Global;
use crate::input;

/// Print Kubernetes YAML with sidecars added.
#[derive(Debug, Args)]
pub(crate) struct KubeInject {
    /// The file to read; `-` is standard input.
    #[arg(short, long)]
    filename: PathBuf,
    /// Where to write; standard output when not given.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// A MeshConfig to inject with.
    #[arg(long = "meshConfigFile")]
    mesh_config: Option<PathBuf>,
    /// The injector's values, as the ConfigMap istio-sidecar-injector has them under "values".
    #[arg(long = "valuesFile")]
    values: Option<PathBuf>,
    /// The injector's configuration, as that ConfigMap has it under "config": default templates, and templates in
    /// plain YAML. Istio's own templates are known by their names.
    #[arg(long = "injectConfigFile")]
    config: Option<PathBuf>,
    /// Image of the sidecar; what its agent cannot do is refused.
    #[arg(long)]
    image: Option<String>,
    /// The revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
}

impl KubeInject {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode, String> {
        let named = |e: String| format!("{}: {e}", self.filename.display());
        let text = input::read(&self.filename)?;
        let options = self.options(global)?;
        let injected = injector::kube_inject(&text, &options).map_err(|e| named(e.to_string()))?;
        match &self.output {
            Some(path) => std::fs::write(path, injected).map_err(|e| format!("{}: {e}", path.display()))?,
            None => print!("{injected}"),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self, global: &Global) -> Result<Options, String> {
        let mut options = Options { namespace: global.namespace().to_owned(), ..Options::default() };
        let from = |path: &PathBuf, read: &dyn Fn(&str) -> Result<Options, String>| {
            read(&input::read(path)?).map_err(|e| format!("{}: {e}", path.display()))
        };
        if let Some(path) = &self.values {
            options = from(path, &|text| options.clone().with_values(text))?;
        }
        if let Some(path) = &self.mesh_config {
            options = from(path, &|text| options.clone().with_mesh_config(text))?;
        }
        if let Some(path) = &self.config {
            options = from(path, &|text| options.clone().with_config(text))?;
        }
        if let Some(revision) = &self.revision {
            options.revision.clone_from(revision);
        }
        if let Some(image) = &self.image {
            options.image.clone_from(image);
        }
        Ok(options)
    }
}
