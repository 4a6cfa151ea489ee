//! `istioctl kube-inject`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use injector::Options;

/// Print Kubernetes YAML with sidecars added.
#[derive(Debug, Args)]
pub(crate) struct KubeInject {
    /// The file to read; `-` is standard input.
    #[arg(short, long)]
    filename: PathBuf,
    /// Where to write; standard output when not given.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The revision of the control plane.
    #[arg(short, long, default_value = "default")]
    revision: String,
}

impl KubeInject {
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let named = |e: String| format!("{}: {e}", self.filename.display());
        let text = read(&self.filename).map_err(|e| named(e.to_string()))?;
        let options =
            Options { namespace: self.namespace.clone(), revision: self.revision.clone(), ..Options::default() };
        let injected = injector::kube_inject(&text, &options).map_err(|e| named(e.to_string()))?;
        match &self.output {
            Some(path) => std::fs::write(path, injected).map_err(|e| format!("{}: {e}", path.display()))?,
            None => print!("{injected}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}
