//! Errors of settings. They show no value, since it may be a secret.

use std::path::PathBuf;

use config::ConfigError;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read or parsed, or a value has the wrong type. The text shows no value.
    #[error("{text}")]
    Unreadable {
        /// The problem.
        text: String,
        /// The key, with its section, if it is about one.
        key: Option<String>,
    },
    /// A value in a file cannot be used.
    #[error("{}, {lines}: {error}", file.display())]
    InLine {
        /// The file.
        file: PathBuf,
        /// `line 3`, or all lines that may be meant.
        lines: String,
        /// The problem.
        error: Box<Self>,
    },
    /// A file contains an unknown key.
    #[error("{}: {key} is not a setting{hint}; `ws4redis settings` shows them all", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The key, with its section.
        key: String,
        /// A suggestion.
        hint: String,
    },
    /// A value has the right type but is invalid.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key, with its section.
        key: &'static str,
        /// The problem, and what is expected.
        problem: String,
    },
    /// A value that is no number, or is out of range.
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
    /// A key that a generated file has no line for.
    #[error(
        "--set {0}: the generated file has no line for it; set a whole setting, and add rules and parts of lists to the file afterwards"
    )]
    NotInFile(String),
}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        Self::Unreadable { text: plain(&error), key: key_of(&error) }
    }
}

impl SettingsError {
    /// Creates an error about a whole file, a variable or something else that is no key.
    pub fn unreadable(text: String) -> Self {
        Self::Unreadable { text, key: None }
    }

    /// Returns the key, with its section, if it is about one.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Unreadable { key, .. } => key.as_deref(),
            Self::Unknown { key, .. } | Self::OutOfRange { key, .. } => Some(key),
            Self::Invalid { key, .. } => Some(key),
            Self::InLine { .. } | Self::Assignment(_) | Self::NotInFile(_) => None,
        }
    }
}

fn key_of(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::Type { key, .. } => key.clone(),
        ConfigError::At { key, error, .. } => key.clone().or_else(|| key_of(error)),
        _ => None,
    }
}

/// Describes an error of the config crate without the values and source lines that it quotes.
fn plain(error: &ConfigError) -> String {
    let at =
        |origin: &Option<String>| origin.as_ref().map_or(String::new(), |origin| format!(" in {origin}"));
    match error {
        ConfigError::Type { origin, unexpected, expected, key } => {
            let key = key.as_deref().unwrap_or("a value");
            let expected = if expected.starts_with("struct ") { "a section" } else { expected };
            // The type stands before the quoted value.
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
            // Quoted source lines start with a line number and a bar.
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
