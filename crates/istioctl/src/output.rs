//! Output for machines.

use clap::ValueEnum;
use serde_json::Value;

/// A format that machines read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    Json,
    Yaml,
}

/// `-o` of commands that print tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[default]
    #[value(alias = "table")]
    Short,
    Json,
    Yaml,
}

impl Format {
    /// The machine's format, unless a table is wanted.
    pub(crate) fn machine(self) -> Option<Machine> {
        match self {
            Self::Short => None,
            Self::Json => Some(Machine::Json),
            Self::Yaml => Some(Machine::Yaml),
        }
    }
}

/// A value as text, indented as Istio's commands do.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn machine(format: Machine, value: &Value) -> Result<String, String> {
    match format {
        Machine::Json => {
            let mut out = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(value, &mut serializer).map_err(|e| e.to_string())?;
            out.push(b'\n');
            String::from_utf8(out).map_err(|e| e.to_string())
        }
        Machine::Yaml => {
            let mut text = serde_saphyr::to_string(value).map_err(|e| e.to_string())?;
            if !text.ends_with('\n') {
                text.push('\n');
            }
            Ok(text)
        }
    }
}

/// Prints a value.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print_machine(format: Machine, value: &Value) -> Result<(), String> {
    print!("{}", machine(format, value)?);
    Ok(())
}
