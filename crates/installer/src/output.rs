//! Output for machines.

use clap::ValueEnum;
use serde_json::Value;

/// `-o` of commands that print tables or lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    #[value(alias = "table", alias = "log")]
    Short,
    Json,
    Yaml,
}

impl Format {
    /// Prints the value, unless people are to read it; whether it did.
    pub(crate) fn print(self, value: &Value) -> Result<bool, String> {
        match self {
            Self::Short => return Ok(false),
            Self::Json => println!("{}", serde_json::to_string_pretty(value).map_err(|e| e.to_string())?),
            Self::Yaml => {
                print!("{}", crate::manifest::to_yaml(std::slice::from_ref(value)).map_err(|e| e.to_string())?)
            }
        }
        Ok(true)
    }
}
