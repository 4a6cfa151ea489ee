//! `istioctl bug-report`: an archive of what an engineer needs to see; secrets stay where they are.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::Session;
use crate::access::{Access, Method, Pod};
use crate::proxy_config::hide_keys;

/// Pages of every istiod.
const ISTIOD: [&str; 9] = [
    "/debug/syncz",
    "/debug/configz",
    "/debug/registryz",
    "/debug/endpointz",
    "/debug/instancesz",
    "/debug/mesh",
    "/debug/problems",
    "/metrics",
    "/version",
];
/// Admin pages of every proxy, with the port they are on.
const PROXY: [(u16, &str); 6] = [
    (15000, "/config_dump?include_eds"),
    (15000, "/clusters"),
    (15000, "/listeners"),
    (15000, "/server_info"),
    (15000, "/certs"),
    (15020, "/stats/prometheus"),
];

/// Collect what helps to find a fault: state of istiod and of proxies, logs, configuration. Secrets are left out.
#[derive(Debug, Args)]
pub(crate) struct BugReport {
    /// Folder of the archive.
    #[arg(long, default_value = ".")]
    output_dir: PathBuf,
    /// Only say what would be collected.
    #[arg(long)]
    dry_run: bool,
    /// Pods whose namespace is one of these, with commas between them.
    #[arg(long, value_delimiter = ',')]
    include: Vec<String>,
    /// Pods whose namespace is none of these.
    #[arg(long, value_delimiter = ',', default_value = "kube-node-lease,kube-public,kube-system,local-path-storage")]
    exclude: Vec<String>,
    /// Lines of each log.
    #[arg(long, default_value_t = 10_000)]
    tail: u32,
    /// No dumps of proxies.
    #[arg(long)]
    skip_proxy_debug: bool,
    /// No resources of the cluster.
    #[arg(long)]
    skip_cluster_dump: bool,
    /// Private keys and tokens too; not built: they never leave the mesh.
    #[arg(long)]
    full_secrets: bool,
}

impl BugReport {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        if self.full_secrets {
            return Err("--full-secrets: secrets never leave the mesh".to_owned());
        }
        let access = session.access()?;
        let mut pods = access.pods()?;
        pods.retain(|p| self.wants(p));
        if self.dry_run {
            println!("istiod: {}", ISTIOD.join(", "));
            for pod in &pods {
                println!("{}: log{}", pod.proxy_id(), if self.skip_proxy_debug { "" } else { ", pages of its proxy" });
            }
            return Ok(ExitCode::SUCCESS);
        }
        let path = self.output_dir.join("bug-report.tar.gz");
        let file = std::fs::File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut archive = Archive::new(file);
        self.collect(access, &pods, &mut archive).and_then(|()| archive.finish()).map_err(|e| e.to_string())?;
        println!("{}", path.display());
        Ok(ExitCode::SUCCESS)
    }

    fn wants(&self, pod: &Pod) -> bool {
        let named = |list: &[String]| list.contains(&pod.namespace);
        pod.in_mesh() && (self.include.is_empty() || named(&self.include)) && !named(&self.exclude)
    }

    /// Puts everything into the archive; what cannot be had is told by a text in its place.
    pub(crate) fn collect<W: Write>(
        &self,
        access: &dyn Access,
        pods: &[Pod],
        archive: &mut Archive<W>,
    ) -> std::io::Result<()> {
        archive.add("bug-report/versions", Ok(format!("istioctl {}\n", env!("CARGO_PKG_VERSION")).into_bytes()))?;
        for page in ISTIOD {
            archive.add(&format!("bug-report/istiod{page}"), access.istiod_page(page))?;
        }
        archive.add("bug-report/istiod/log", access.log(None, "discovery", self.tail))?;
        if !self.skip_cluster_dump {
            for kind in kubernetes::CRDS {
                let version = format!("{}/{}", kind.group, kind.versions.first().unwrap_or(&"v1"));
                // A laptop mesh's are in istiod's configz.
                if let Ok(objects) = access.objects(&version, kind.plural) {
                    let text = serde_json::to_vec_pretty(&objects).map_err(std::io::Error::other)?;
                    archive.add(&format!("bug-report/cluster/{}.json", kind.plural), Ok(text))?;
                }
            }
        }
        for pod in pods {
            let folder = format!("bug-report/proxies/{}/{}", pod.namespace, pod.name);
            archive.add(&format!("{folder}/istio-proxy.log"), access.log(Some(pod), "istio-proxy", self.tail))?;
            for (port, page) in PROXY.iter().filter(|_| !self.skip_proxy_debug) {
                archive.add(&format!("{folder}{page}"), access.pod_page(pod, Method::Get, *port, page))?;
            }
        }
        Ok(())
    }
}

/// A tar.gz that is being written.
pub(crate) struct Archive<W: Write>(tar::Builder<GzEncoder<W>>);

impl<W: Write> Archive<W> {
    pub(crate) fn new(to: W) -> Self {
        Self(tar::Builder::new(GzEncoder::new(to, Compression::default())))
    }

    /// Adds a file, or the reason why there is none; keys within JSON are left out.
    fn add(&mut self, name: &str, body: Result<Vec<u8>, String>) -> std::io::Result<()> {
        let name = name.split('?').next().unwrap_or(name);
        let (name, body) = match body {
            Ok(body) => (name.to_owned(), redacted(body)),
            Err(reason) => (format!("{name}.missing"), format!("{reason}\n").into_bytes()),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(0);
        self.0.append_data(&mut header, name, body.as_slice())
    }

    /// Writes the end.
    pub(crate) fn finish(self) -> std::io::Result<()> {
        self.0.into_inner()?.finish()?.flush()
    }
}

/// A page without private keys. Sidecars hide them already; a stock Envoy with keys in its bootstrap may not.
fn redacted(body: Vec<u8>) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(&body) else { return body };
    hide_keys(&mut value);
    serde_json::to_vec_pretty(&value).unwrap_or(body)
}
