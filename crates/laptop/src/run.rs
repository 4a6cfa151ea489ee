//! Runs the system's own tools (`ip`, `nft`, `mount`) and turns their failures into sentences.

use std::io::Write;
use std::process::{Command, Stdio};

use net::netns::{Place, place};

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("`{0}` is missing; install {1}")]
    Missing(String, &'static str),
    /// It could not be started.
    #[error("cannot start `{0}`: {1}")]
    Start(String, std::io::Error),
    /// It ran and failed.
    #[error("`{0}` failed: {1}")]
    Failed(String, String),
}

/// Runs a tool in `place` with `input` on its standard input and gives back what it printed.
///
/// # Errors
/// See [`ToolError`].
pub fn tool(program: &str, args: &[&str], input: &str, at: &Place) -> Result<String, ToolError> {
    let shown = || format!("{program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    place(&mut command, at).map_err(|e| ToolError::Start(shown(), e))?;
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ToolError::Missing(program.to_owned(), package(program)),
        _ => ToolError::Start(shown(), error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read everything says why on its own.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| ToolError::Start(shown(), e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ToolError::Failed(shown(), if said.is_empty() { output.status.to_string() } else { said }))
}

/// The Debian package that brings a tool.
fn package(program: &str) -> &'static str {
    match program {
        "ip" => "iproute2",
        "nft" => "nftables",
        "mount" | "umount" => "mount (util-linux)",
        "newuidmap" | "newgidmap" => "uidmap",
        _ => "it",
    }
}
