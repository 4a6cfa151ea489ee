//! `istioctl analyze`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, ValueEnum};
use galley::{Input, Level, Message, Scope, Suppression};
use serde_json::{Value, json};

use crate::Session;
use crate::access::Access;
use crate::input;
use crate::output::{Machine, print_machine};

/// Istio's exit code when something at or above the threshold was found.
const FOUND: u8 = 79;

/// Find what is wrong with configuration.
#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// Files, directories, or - for standard input; the current directory when none is given.
    paths: Vec<PathBuf>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only this analyzer; may be repeated.
    #[arg(long)]
    analyzer: Vec<String>,
    /// Coloured levels; true on a terminal.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    color: Option<bool>,
    /// The level from which on the command fails.
    #[arg(long, default_value = "Error", ignore_case = true)]
    failure_threshold: Threshold,
    /// Objects that cannot be understood are passed over.
    #[arg(long)]
    ignore_unknown: bool,
    /// List the analyzers.
    #[arg(short = 'L', long)]
    list_analyzers: bool,
    /// A MeshConfig to analyse with.
    #[arg(long = "meshConfigFile")]
    mesh_config: Option<PathBuf>,
    /// How findings are printed.
    #[arg(short, long, default_value = "log")]
    output: Output,
    /// The level from which on findings are printed.
    #[arg(long, default_value = "Info", ignore_case = true)]
    output_threshold: Threshold,
    /// Accepted as Istio's: directories are always read with all that is in them.
    #[arg(short = 'R', long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    recursive: Option<bool>,
    /// Known findings not to be reported: CODE=KIND NAME.NAMESPACE, with * for any text; may be repeated.
    #[arg(short = 'S', long)]
    suppress: Vec<String>,
    /// Analyse a live cluster too; without a word where --kubeconfig or --context names one.
    #[arg(short = 'k', long = "use-kube", num_args = 0..=1, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    use_kube: Option<bool>,
    /// Say which analyzers ran over which files.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Log,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Threshold {
    Info,
    Warning,
    Error,
}

impl Threshold {
    fn level(self) -> Level {
        match self {
            Self::Info => Level::Info,
            Self::Warning => Level::Warning,
            Self::Error => Level::Error,
        }
    }
}

impl Analyze {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let global = &session.global;
        if self.list_analyzers {
            for (name, about) in galley::analyzers() {
                println!("* {name}: {about}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        // Istio's command looks at the cluster unless told otherwise; ours where one is named.
        let named = global.kubeconfig.is_some() || global.context.is_some();
        let live = self.use_kube.unwrap_or(named);
        let suppressed = self.suppress.iter().map(|text| Suppression::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let mut input = self.read(global.namespace(), live)?;
        if live {
            add_cluster(session.access()?, &mut input)?;
        }
        let only = global.namespace.as_deref().filter(|_| !self.all_namespaces);
        let scope = Scope { namespace: only, analyzers: &self.analyzer, suppressed: &suppressed };
        let mut all = galley::analyze_scope(&input, &scope)?;
        for message in
            all.iter_mut().filter(|m| m.origin.as_ref().is_some_and(|o| o.file == std::path::Path::new(CLUSTER)))
        {
            message.origin = None;
        }
        if self.ignore_unknown {
            all.retain(|m| !m.is_unreadable_file());
        }
        let failed = all.iter().any(|m| m.code.level >= self.failure_threshold.level());
        let shown: Vec<&Message> = all.iter().filter(|m| m.code.level >= self.output_threshold.level()).collect();
        match self.output {
            Output::Log => self.print_log(&shown, only),
            Output::Json => print_machine(Machine::Json, &to_json(&shown))?,
            Output::Yaml => print_machine(Machine::Yaml, &to_json(&shown))?,
        }
        if failed && self.output == Output::Log {
            let place = only.map_or_else(|| "all namespaces".to_owned(), |n| format!("namespace: {n}"));
            eprintln!("Error: Analyzers found issues when analyzing {place}.");
        }
        Ok(if failed { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
    }

    fn read(&self, namespace: &str, live: bool) -> Result<Input, String> {
        let mut input = Input::new();
        if let Some(path) = &self.mesh_config {
            input.add_mesh_config(path, &input::read(path)?);
        }
        let paths = if self.paths.is_empty() && live {
            Vec::new()
        } else if self.paths.is_empty() {
            vec![PathBuf::from(".")]
        } else {
            self.paths.clone()
        };
        for path in input::files(&paths)? {
            if self.verbose {
                eprintln!("{}", path.display());
            }
            let text = input::read(&path)?;
            let shown = if path == std::path::Path::new("-") { PathBuf::from("<stdin>") } else { path };
            input.add_text(&shown, &text, namespace);
        }
        if self.verbose {
            let names: Vec<&str> = galley::analyzers().map(|(name, _)| name).collect();
            eprintln!("{}", if self.analyzer.is_empty() { names.join(", ") } else { self.analyzer.join(", ") });
        }
        Ok(input)
    }

    fn print_log(&self, messages: &[&Message], namespace: Option<&str>) {
        let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
        let color = self.color.unwrap_or_else(|| std::io::stdout().is_terminal() && !dumb);
        for message in messages {
            let text = message.to_string();
            let level = message.code.level.to_string();
            match text.strip_prefix(&level).filter(|_| color) {
                Some(rest) => println!("\u{1b}[{}m{level}\u{1b}[0m{rest}", shade(message.code.level)),
                None => println!("{text}"),
            }
        }
        if messages.is_empty() {
            match namespace {
                Some(n) => println!("\u{2714} No validation issues found when analyzing namespace: {n}."),
                None => println!("\u{2714} No validation issues found."),
            }
        }
    }
}

/// What stands where a file would, for objects of a cluster; they have no line.
const CLUSTER: &str = "<cluster>";

/// Kubernetes' own kinds that analyzers look at.
const KUBERNETES: [(&str, &str, &str); 7] = [
    ("v1", "Namespace", "namespaces"),
    ("v1", "Service", "services"),
    ("v1", "Pod", "pods"),
    ("v1", "Node", "nodes"),
    ("v1", "ConfigMap", "configmaps"),
    ("apps/v1", "Deployment", "deployments"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
];

/// Adds what an API server has. Lists do not repeat the kind in each object.
fn add_cluster(access: &dyn Access, input: &mut Input) -> Result<(), String> {
    let own = KUBERNETES.map(|(version, kind, plural)| (version.to_owned(), kind, plural));
    let istio = kubernetes::CRDS
        .iter()
        .filter_map(|k| Some((format!("{}/{}", k.group, k.versions.first()?), k.kind, k.plural)));
    for (version, kind, plural) in own.into_iter().chain(istio) {
        for mut object in access.objects(&version, plural)? {
            object["apiVersion"] = version.as_str().into();
            object["kind"] = kind.into();
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.shift_remove("managedFields");
            }
            input.add_text(std::path::Path::new(CLUSTER), &object.to_string(), "default");
        }
    }
    Ok(())
}

/// Terminal colours: red, yellow, and none of note.
fn shade(level: Level) -> &'static str {
    match level {
        Level::Error => "31",
        Level::Warning => "33",
        Level::Info => "0",
    }
}

fn to_json(messages: &[&Message]) -> Value {
    let one = |m: &&Message| {
        let reference = m.origin.as_ref().map(ToString::to_string);
        json!({
            "code": m.code.code,
            "documentationUrl": documentation(m.code.code),
            "level": m.code.level.to_string(), "message": m.text, "origin": m.resource, "reference": reference,
        })
    };
    Value::Array(messages.iter().map(one).collect())
}

/// Where Istio explains a code; ours have no page.
fn documentation(code: &str) -> String {
    match code.strip_prefix("IST") {
        Some(number) => format!("https://istio.io/latest/docs/reference/config/analysis/ist{number}/"),
        None => String::new(),
    }
}
