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
    /// The revision of the control plane.
    #[arg(short, long, default_value = "default")]
    revision: String,
}

impl KubeInject {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode, String> {
        let named = |e: String| format!("{}: {e}", self.filename.display());
        let text = input::read(&self.filename)?;
        let options =
            Options { namespace: global.namespace().to_owned(), revision: self.revision.clone(), ..Options::default() };
        let injected = injector::kube_inject(&text, &options).map_err(|e| named(e.to_string()))?;
        match &self.output {
            Some(path) => std::fs::write(path, injected).map_err(|e| format!("{}: {e}", path.display()))?,
            None => print!("{injected}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}
