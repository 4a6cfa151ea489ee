//! `istioctl validate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use istio_api::validate::FieldError;
use istio_api::yaml::{self, Document};
use serde_json::Value;

use crate::global::Global;
use crate::input;

/// Check files of Istio configuration, object by object.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// Files, directories, or - for standard input.
    #[arg(short, long, required = true, value_delimiter = ',')]
    filename: Vec<PathBuf>,
}

/// What was found in a text.
#[derive(Default)]
pub(crate) struct Verdict {
    /// What is refused, with file, line and column.
    pub errors: Vec<String>,
    /// What is accepted and does not do what it says here.
    pub warnings: Vec<String>,
}

impl Validate {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode, String> {
        let mut refused = false;
        for path in input::files(&self.filename)? {
            let verdict = judge(&path.display().to_string(), &input::read(&path)?, global.namespace());
            for warning in &verdict.warnings {
                eprintln!("Warning: {warning}");
            }
            for error in &verdict.errors {
                eprintln!("Error: {error}");
            }
            if verdict.errors.is_empty() {
                println!("{:?} is valid", path.display().to_string());
            }
            refused |= !verdict.errors.is_empty();
        }
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Judges all documents of a text.
pub(crate) fn judge(file: &str, text: &str, namespace: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let documents = match yaml::parse(text) {
        Ok(documents) => documents,
        Err(error) => {
            verdict.errors.push(format!("{file}:{error}"));
            return verdict;
        }
    };
    for document in documents {
        let items = document.value.get("items").and_then(Value::as_array).map(Vec::len);
        match items.filter(|_| document.value["kind"] == "List") {
            Some(count) => {
                let parts = (0..count).filter_map(|i| document.part(&format!("/items/{i}")));
                parts.for_each(|part| one(file, &part, namespace, &mut verdict));
            }
            None => one(file, &document, namespace, &mut verdict),
        }
    }
    verdict
}

fn one(file: &str, document: &Document, namespace: &str, verdict: &mut Verdict) {
    let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let title = format!("{kind} {}", text("/metadata/name"));
    let shown = |error: FieldError| {
        let place = document.place(&error.pointer);
        let field = error.pointer.trim_start_matches('/').replace('/', ".");
        let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
        format!("{file}:{}:{}: {title}: {field}{}", place.line, place.column, error.message)
    };
    // Objects of others are none of our business, as with Istio; those without kind are nobody's.
    let ours = version.split('/').next().is_some_and(|group| group.ends_with("istio.io"));
    if kind.is_empty() || version.is_empty() || ours {
        if let Err(errors) = istio_api::check(document) {
            verdict.errors.extend(errors.into_iter().map(shown));
            return;
        }
        if let Err(errors) = istio_api::read(document, namespace) {
            let unbuilt = |e: &FieldError| e.pointer == "/kind" && ours;
            let (valid, wrong): (Vec<FieldError>, Vec<FieldError>) = errors.into_iter().partition(unbuilt);
            verdict.warnings.extend(valid.into_iter().map(shown));
            verdict.errors.extend(wrong.into_iter().map(shown));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  \
                    http:\n  - route:\n    - destination: {host: a, prot: 1}\n";
        let verdict = judge("a.yaml", text, "default");
        assert_eq!(verdict.errors.len(), 1);
        assert!(verdict.errors[0].starts_with("a.yaml:8:"), "{:?}", verdict.errors);
        assert!(
            verdict.errors[0].contains("VirtualService a: spec.http.0.route.0.destination"),
            "{:?}",
            verdict.errors
        );
        assert!(judge("a", "a: [1\nb: 2", "default").errors[0].starts_with("a:2:"));
    }

    #[test]
    fn a_valid_kind_that_is_not_in_force_is_a_warning() {
        let text = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {}\n";
        let verdict = judge("a.yaml", text, "default");
        assert_eq!((verdict.errors.len(), verdict.warnings.len()), (0, 1), "{:?}", verdict.errors);
        assert!(judge("a", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", "d").errors.is_empty());
    }

    #[test]
    fn objects_inside_a_list_are_judged() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.istio.io/v1\n  kind: PeerAuthentication\n  \
                    metadata: {name: a}\n  spec: {mtls: {mode: BAD}}\n";
        assert!(judge("a.yaml", text, "default").errors[0].starts_with("a.yaml:7:"));
    }
}
