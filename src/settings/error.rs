//! Why settings are refused: in words that show no value, since it may be a secret.

use std::path::PathBuf;

use config::ConfigError;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read or parsed, or a value is of the wrong type. The text shows no value: it may be a secret.
    #[error("{0}")]
    Unreadable(String),
    /// A file has a key that is no setting.
    #[error("{}: {key} is no setting{hint}; `ws4redis settings` prints them all", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The key, with its section.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value is of the right type and makes no sense.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key, with its section.
        key: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A number that is none, or too small or too large.
    #[error("{key}: {problem}")]
    OutOfRange {
        /// The key, with its section.
        key: String,
        /// The range.
        problem: String,
    },
    /// A `--set` that is not `KEY=VALUE`.
    #[error("--set {0}…: expected KEY=VALUE, for example --set server.listen=127.0.0.1:9000")]
    Assignment(String),
}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        Self::Unreadable(plain(&error))
    }
}

/// Describes an error of the config crate without the values and the lines that it shows.
fn plain(error: &ConfigError) -> String {
    let at =
        |origin: &Option<String>| origin.as_ref().map_or(String::new(), |origin| format!(" in {origin}"));
    match error {
        ConfigError::Type { origin, unexpected, expected, key } => {
            let key = key.as_deref().unwrap_or("a value");
            let expected = if expected.starts_with("struct ") { "a section" } else { expected };
            // Its kind is told before its value.
            let found = unexpected.to_string();
            let found = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{key}{}: expected {expected}, found {found}", at(origin))
        }
        ConfigError::At { error, origin, key } => {
            let key = key.as_ref().map_or(String::new(), |key| format!("{key}: "));
            format!("{key}{}{}", plain(error), at(origin))
        }
        ConfigError::FileParse { uri, cause } => {
            let text = cause.to_string();
            // The lines of the file that the parser shows begin with their number and a bar.
            let shown = |line: &&str| {
                !line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|')
            };
            let text: Vec<_> = text.lines().filter(shown).collect();
            format!("{}: {}", uri.as_deref().unwrap_or("settings"), text.join(", "))
        }
        ConfigError::Message(text) if !text.starts_with("invalid ") => text.clone(),
        ConfigError::Foreign(_) | ConfigError::Message(_) => "a value cannot be used".to_owned(),
        error => error.to_string(),
    }
}
