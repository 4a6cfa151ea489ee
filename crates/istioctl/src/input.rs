//! Files that a user names: folders, standard input, and whole texts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Text of a file; `-` is standard input.
///
/// # Errors
/// With the file's name.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let named = |e: std::io::Error| format!("{}: {e}", path.display());
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| format!("standard input: {e}"))?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(named)
}

/// The files that paths mean: folders stand for all configuration inside them, also in folders within.
///
/// # Errors
/// When a path does not exist or cannot be read.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for path in paths {
        if path != Path::new("-") && !path.exists() {
            return Err(format!("{} does not exist", path.display()));
        }
        collect(path, &mut all)?;
    }
    Ok(all)
}

fn collect(path: &Path, all: &mut Vec<PathBuf>) -> Result<(), String> {
    if !path.is_dir() {
        all.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|p| is_config(p)).collect();
    entries.sort();
    entries.iter().try_for_each(|entry| collect(entry, all))
}

fn is_config(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
    let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
    !hidden && (known || path.is_dir())
}
