//! `istioctl analyze`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use galley::{Input, Level, Message};
use serde_json::{Value, json};

/// Istio's exit code when something at or above the threshold was found.
const FOUND: u8 = 79;

/// Find what is wrong with configuration.
#[derive(Debug, Args)]
pub(crate) struct Analyze {
    /// Files and directories; the current directory when none is given.
    paths: Vec<PathBuf>,
    /// Only this namespace; also the namespace of objects that name none.
    #[arg(short, long)]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How findings are printed.
    #[arg(short, long, default_value = "log")]
    output: Output,
    /// The level from which on the command fails.
    #[arg(long, default_value = "Error", ignore_case = true)]
    failure_threshold: Threshold,
    /// The level from which on findings are printed.
    #[arg(long, default_value = "Info", ignore_case = true)]
    output_threshold: Threshold,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
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
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let paths = if self.paths.is_empty() { vec![PathBuf::from(".")] } else { self.paths };
        if let Some(missing) = paths.iter().find(|p| !p.exists()) {
            return Err(format!("{} does not exist", missing.display()));
        }
        let namespace = self.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let mut input = Input::new();
        for path in &paths {
            add(path, &namespace, &mut input)?;
        }
        let only = self.namespace.as_deref().filter(|_| !self.all_namespaces);
        let all = galley::analyze(&input, only);
        let failed = all.iter().any(|m| m.code.level >= self.failure_threshold.level());
        let shown: Vec<&Message> = all.iter().filter(|m| m.code.level >= self.output_threshold.level()).collect();
        match self.output {
            Output::Log => print_log(&shown, only),
            Output::Json => println!("{:#}", to_json(&shown)),
            Output::Yaml => print!("{}", serde_saphyr::to_string(&to_json(&shown)).map_err(|e| e.to_string())?),
        }
        Ok(if failed { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
    }
}

/// Adds a file, or all files of a folder.
fn add(path: &Path, namespace: &str, input: &mut Input) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
            .map_err(failed)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|p| is_config(p))
            .collect();
        entries.sort();
        return entries.iter().try_for_each(|entry| add(entry, namespace, input));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    input.add_text(path, &text, namespace);
    Ok(())
}

fn is_config(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
    !hidden && (known || path.is_dir())
}

fn print_log(messages: &[&Message], namespace: Option<&str>) {
    for message in messages {
        println!("{message}");
    }
    if messages.is_empty() {
        match namespace {
            Some(namespace) => println!("\u{2714} No validation issues found when analyzing namespace: {namespace}."),
            None => println!("\u{2714} No validation issues found."),
        }
    }
}

fn to_json(messages: &[&Message]) -> Value {
    let one = |m: &&Message| {
        let reference = m.origin.as_ref().map(ToString::to_string);
        json!({
            "code": m.code.code, "level": m.code.level.to_string(), "message": m.text, "origin": m.resource, "reference": reference,
        })
    };
    Value::Array(messages.iter().map(one).collect())
}
