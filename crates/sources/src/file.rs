//! One file and the resources in it.

use std::path::{Path, PathBuf};

use istio_api::kubernetes::Value;
use istio_api::yaml::{self, Document};
use istio_api::{Origin, Resource};

use crate::directory::Problem;

/// Files that are configuration.
pub(crate) fn is_config(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
    known && !hidden
}

/// All resources of a file, or the first mistake of each document.
pub(crate) fn read(path: &Path, namespace: &str) -> Result<Vec<(Resource, Origin)>, Vec<Problem>> {
    let problem = |line, column, reason: String| Problem { file: path.to_owned(), line, column, reason };
    let size = std::fs::metadata(path).map_err(|e| vec![problem(1, 1, e.to_string())])?.len();
    if size > yaml::MAX_FILE as u64 {
        let reason = format!("the file has {size} bytes, the limit is {}; split it", yaml::MAX_FILE);
        return Err(vec![problem(1, 1, reason)]);
    }
    let text = std::fs::read_to_string(path).map_err(|e| vec![problem(1, 1, e.to_string())])?;
    let documents = yaml::parse(&text).map_err(|e| vec![problem(e.place.line, e.place.column, e.reason)])?;
    let (mut resources, mut problems) = (Vec::new(), Vec::new());
    for document in documents.into_iter().flat_map(items) {
        let at = document.place("");
        match istio_api::read(&document, namespace) {
            Ok(Some(resource)) => {
                resources.push((resource, Origin { file: PathBuf::from(path), line: at.line, column: at.column }));
            }
            Ok(None) => {}
            Err(errors) => problems.extend(errors.into_iter().map(|e| {
                let at = document.place(&e.pointer);
                let pointer = e.pointer.trim_start_matches('/').replace('/', ".");
                let reason = if pointer.is_empty() { e.message } else { format!("{pointer}: {}", e.message) };
                problem(at.line, at.column, reason)
            })),
        }
    }
    if problems.is_empty() { Ok(resources) } else { Err(problems) }
}

/// The objects of a Kubernetes List, or the document itself.
fn items(document: Document) -> Vec<Document> {
    let is_list = document.value.get("kind").and_then(Value::as_str) == Some("List");
    let count = document.value.get("items").and_then(Value::as_array).map_or(0, Vec::len);
    if !is_list {
        return vec![document];
    }
    (0..count).filter_map(|i| document.part(&format!("/items/{i}"))).collect()
}
