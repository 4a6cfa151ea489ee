//! `istioctl install`, `manifest generate`, `uninstall` and `verify-install`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use kubernetes::{Cluster, ClusterError, Place};
use serde_json::{Value, json};

use crate::chart::chart;
use crate::manifest::{MANAGER, manifest, to_yaml};
use crate::objects::{apply, condition, place, rolled_out, title, wait};
use crate::output::Format;
use crate::values::Values;

/// How long the API server may take to serve a new kind.
const NEW_KIND: Duration = Duration::from_secs(60);

/// How the cluster is reached: flags that all commands share.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Kubernetes configuration file; else as `kubectl` finds it.
    pub kubeconfig: Option<PathBuf>,
    /// Its context.
    pub context: Option<String>,
    /// Namespace of the control plane.
    pub namespace: String,
}

impl Access {
    pub(crate) async fn connect(&self) -> Result<Cluster, String> {
        Cluster::connect(self.kubeconfig.clone(), self.context.clone(), &self.namespace)
            .await
            .map_err(|e| e.to_string())
    }
}

/// What is installed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Wanted {
    /// File with an IstioOperator; several are laid over each other.
    #[arg(short, long = "filename")]
    filename: Vec<PathBuf>,
    /// A value, such as meshConfig.accessLogFile=/dev/stdout.
    #[arg(short, long = "set")]
    set: Vec<String>,
    /// Revision of the control plane.
    #[arg(short, long)]
    revision: Option<String>,
}

impl Wanted {
    pub(crate) fn values(&self, namespace: &str) -> Result<Values, String> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let files = self.filename.iter().map(read).collect::<Result<Vec<String>, String>>()?;
        let mut settings = Vec::new();
        if namespace != "istio-system" {
            settings.push(format!("namespace={namespace}"));
        }
        settings.extend(self.set.iter().cloned());
        settings.extend(self.revision.iter().map(|r| format!("revision={r}")));
        Values::read(files.iter().map(String::as_str), settings.iter().map(String::as_str)).map_err(|e| e.to_string())
    }
}

/// Put the control plane into a cluster, or change it there.
#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    wanted: Wanted,
    /// Say what would be applied, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// No question.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
    /// How long istiod may take to be ready, in seconds or as 5m0s.
    #[arg(long, default_value = "5m", value_parser = duration)]
    readiness_timeout: Duration,
    /// Look at everything again afterwards.
    #[arg(long)]
    verify: bool,
}

/// Change an installed control plane to this version, and to these values.
#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(flatten)]
    install: Install,
}

/// Print what would be installed.
#[derive(Debug, Args)]
pub struct Manifest {
    #[command(subcommand)]
    command: ManifestCommand,
}

#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Print the objects of an installation as YAML.
    Generate {
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Write a Helm chart that installs the same, with the same values (those below `values`, meshConfig, revision).
    Chart {
        /// The folder, which is made.
        folder: PathBuf,
    },
}

/// Take a control plane out of a cluster.
#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    wanted: Wanted,
    /// Everything, of all revisions: also the kinds with all their objects, the authority and the namespace.
    #[arg(long)]
    purge: bool,
    /// Say what would be deleted, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// No question.
    #[arg(short = 'y', long)]
    skip_confirmation: bool,
}

/// Look whether everything that was installed is there and runs.
#[derive(Debug, Args)]
pub struct VerifyInstall {
    #[command(flatten)]
    wanted: Wanted,
    #[arg(short, long, default_value = "short")]
    output: Format,
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    istio_api::duration::parse(text).or_else(seconds).ok_or_else(|| "write it like 5m0s or 300s".to_owned())
}

/// Runs a command's future.
pub(crate) fn run<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work)
}

fn confirmed(skip: bool, question: &str) -> Result<(), String> {
    if skip {
        return Ok(());
    }
    print!("{question} (y/N) ");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|e| e.to_string())?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        Ok(())
    } else {
        Err("nothing was done".to_owned())
    }
}

impl Manifest {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self, access: &Access) -> Result<(), String> {
        let wanted = match self.command {
            ManifestCommand::Generate { wanted } => wanted,
            ManifestCommand::Chart { folder } => return write_chart(&folder),
        };
        let objects = manifest(&wanted.values(&access.namespace)?).map_err(|e| e.to_string())?;
        print!("{}", to_yaml(&objects).map_err(|e| e.to_string())?);
        Ok(())
    }
}

fn write_chart(folder: &Path) -> Result<(), String> {
    for (path, text) in chart().map_err(|e| e.to_string())? {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&file, text));
        written.map_err(|e| format!("{}: {e}", file.display()))?;
    }
    println!("the chart is in {}; helm install istiod {0} -n istio-system --create-namespace", folder.display());
    Ok(())
}

impl Install {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self, access: &Access) -> Result<(), String> {
        let values = self.wanted.values(&access.namespace)?;
        let objects = manifest(&values).map_err(|e| e.to_string())?;
        if self.dry_run {
            objects.iter().for_each(|o| println!("would apply {}", title(o)));
            return Ok(());
        }
        let question =
            format!("This installs revision {} into namespace {}. Proceed?", values.revision(), values.namespace());
        confirmed(self.skip_confirmation, &question)?;
        run(async {
            let cluster = access.connect().await?;
            let until = Instant::now() + self.readiness_timeout;
            put(&cluster, &objects, until).await?;
            println!("✔ Istiod installed");
            if self.verify { verify(&cluster, &objects, Format::Short).await } else { Ok(()) }
        })
    }
}

impl Upgrade {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words; also when there is nothing to upgrade.
    pub fn run(self, access: &Access) -> Result<(), String> {
        let values = self.install.wanted.values(&access.namespace)?;
        let objects = manifest(&values).map_err(|e| e.to_string())?;
        let image = |deployment: &Value| {
            let image = deployment.pointer("/spec/template/spec/containers/0/image");
            image.and_then(Value::as_str).unwrap_or("no image").to_owned()
        };
        let istiod = objects.iter().find(|o| o["kind"] == "Deployment");
        let former = run(async {
            let cluster = access.connect().await?;
            match istiod {
                Some(istiod) => cluster.read(&place(istiod)).await.map_err(|e| e.to_string()),
                None => Ok(None),
            }
        })?;
        let Some(former) = former else {
            let (revision, namespace) = (values.revision(), values.namespace());
            return Err(format!(
                "there is no revision {revision} in namespace {namespace} to upgrade; put it there with istioctl install"
            ));
        };
        println!(
            "upgrading {} from {} to {}",
            values.revision(),
            image(&former),
            istiod.map(image).unwrap_or_default()
        );
        self.install.run(access)
    }
}

async fn put(cluster: &Cluster, objects: &[Value], until: Instant) -> Result<(), String> {
    let words = |object: &Value, e: ClusterError| format!("{}: {e}", title(object));
    for object in objects {
        // A namespace that somebody else has made stays theirs.
        let theirs = object["kind"] == "Namespace"
            && cluster.read(&place(object)).await.map_err(|e| words(object, e))?.is_some();
        if !theirs {
            apply(cluster, object).await.map_err(|e| words(object, e))?;
        }
    }
    for object in objects.iter().filter(|o| o["kind"] == "CustomResourceDefinition") {
        let served = wait(cluster, object, Instant::now() + NEW_KIND, |now| condition(now, "Established")).await;
        if !served.map_err(|e| words(object, e))? {
            return Err(format!("{} is not served by the API server", title(object)));
        }
    }
    for object in objects.iter().filter(|o| o["kind"] == "Deployment") {
        if !wait(cluster, object, until, rolled_out).await.map_err(|e| words(object, e))? {
            return Err(format!("{} is not ready in time; kubectl describe pods shows why", title(object)));
        }
    }
    Ok(())
}

impl VerifyInstall {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self, access: &Access) -> Result<(), String> {
        let objects = manifest(&self.wanted.values(&access.namespace)?).map_err(|e| e.to_string())?;
        run(async { verify(&access.connect().await?, &objects, self.output).await })
    }
}

async fn verify(cluster: &Cluster, objects: &[Value], output: Format) -> Result<(), String> {
    let mut wrong = 0;
    let mut rows = Vec::new();
    for object in objects {
        let now = cluster.read(&place(object)).await.map_err(|e| e.to_string())?;
        let good = match (&now, object["kind"].as_str()) {
            (None, _) => false,
            (Some(now), Some("Deployment")) => rolled_out(now),
            (Some(now), Some("CustomResourceDefinition")) => condition(now, "Established"),
            (Some(_), _) => true,
        };
        let words = if now.is_none() {
            "is missing"
        } else if good {
            "checked successfully"
        } else {
            "is not ready"
        };
        rows.push(json!({"object": title(object), "good": good, "state": words}));
        wrong += usize::from(!good);
    }
    let machine = output.print(&rows.clone().into())?;
    for row in rows.iter().filter(|_| !machine) {
        let (mark, text) =
            (if row["good"] == true { "✔" } else { "✘" }, |key: &str| row[key].as_str().unwrap_or_default());
        println!("{mark} {}: {}", text("object"), text("state"));
    }
    if wrong > 0 {
        return Err(format!("{wrong} of {} objects are not as they should be", objects.len()));
    }
    if !machine {
        println!("✔ Istio is installed and verified successfully");
    }
    Ok(())
}

impl Uninstall {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn run(self, access: &Access) -> Result<(), String> {
        if !self.purge && self.wanted.revision.is_none() && self.wanted.filename.is_empty() {
            return Err("name what to remove: --revision REVISION, -f FILE, or --purge for everything".to_owned());
        }
        let values = self.wanted.values(&access.namespace)?;
        let question = if self.purge {
            "This removes the mesh with all its configuration from the cluster. Proceed?".to_owned()
        } else {
            format!("This removes revision {} from namespace {}. Proceed?", values.revision(), values.namespace())
        };
        confirmed(self.skip_confirmation || self.dry_run, &question)?;
        run(async {
            let cluster = access.connect().await?;
            let objects = manifest(&values).map_err(|e| e.to_string())?;
            let shared = |o: &Value| o["kind"] == "CustomResourceDefinition" || o["kind"] == "Namespace";
            // First what asks istiod, then istiod, last what others may still need.
            let mut places: Vec<(String, Place)> =
                objects.iter().rev().filter(|o| self.purge || !shared(o)).map(|o| (title(o), place(o))).collect();
            if self.purge {
                places = leftovers(&cluster).await?.into_iter().chain(places).collect();
            }
            for (title, place) in places {
                if title.starts_with("Namespace ") && !is_ours(&cluster, &place).await? {
                    continue;
                }
                if self.dry_run {
                    println!("would delete {title}");
                } else if cluster.delete(&place).await.map_err(|e| format!("{title}: {e}"))? {
                    println!("  Removed {title}");
                }
            }
            println!("✔ Uninstall complete");
            Ok(())
        })
    }
}

/// Whether we have made the object.
async fn is_ours(cluster: &Cluster, place: &Place) -> Result<bool, String> {
    let found = cluster.read(place).await.map_err(|e| e.to_string())?;
    Ok(found.is_some_and(|o| o["metadata"]["labels"][MANAGER.0] == MANAGER.1))
}

/// What carries our label but is in no manifest at hand (other revisions, tags), and what istiod has made.
async fn leftovers(cluster: &Cluster) -> Result<Vec<(String, Place)>, String> {
    let ours = format!("{}={}", MANAGER.0, MANAGER.1);
    let namespace = Some(cluster.namespace.as_str());
    let webhooks = "admissionregistration.k8s.io/v1";
    let rbac = "rbac.authorization.k8s.io/v1";
    let lists = [
        (Place::list(webhooks, "mutatingwebhookconfigurations", None), ours.as_str()),
        (Place::list(webhooks, "validatingwebhookconfigurations", None), &ours),
        (Place::list("apps/v1", "deployments", namespace), &ours),
        (Place::list("v1", "services", namespace), &ours),
        (Place::list("policy/v1", "poddisruptionbudgets", namespace), &ours),
        (Place::list(rbac, "clusterrolebindings", None), &ours),
        (Place::list(rbac, "clusterroles", None), &ours),
    ];
    let mut found = Vec::new();
    for (list, label) in lists {
        for object in cluster.all(&list, Some(label)).await.map_err(|e| e.to_string())? {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            found.push((name.to_owned(), list.object(name)));
        }
    }
    let own = |api: &str, plural: &str, name: &str| {
        (format!("{plural} {name}"), Place::list(api, plural, namespace).object(name))
    };
    found.push(own("v1", "secrets", "istio-ca-secret"));
    let leases = Place::list("coordination.k8s.io/v1", "leases", namespace);
    for lease in cluster.all(&leases, None).await.map_err(|e| e.to_string())? {
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        if name.starts_with("istio-leader") {
            found.push(own("coordination.k8s.io/v1", "leases", name));
        }
    }
    let namespaces = cluster.all(&Place::list("v1", "namespaces", None), None).await.map_err(|e| e.to_string())?;
    for name in namespaces.iter().filter_map(|n| n["metadata"]["name"].as_str()) {
        let map = "istio-ca-root-cert";
        found.push((format!("ConfigMap {name}/{map}"), Place::list("v1", "configmaps", Some(name)).object(map)));
    }
    Ok(found)
}
