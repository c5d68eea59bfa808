//! Helpers for the checks of single settings: lists, requirements, and files named by a setting.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::error::SettingsError;
use super::file;

/// Deserializes a list, or a comma-separated string, as environment variables have it.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ListOrText {
        List(Vec<String>),
        Text(String),
    }
    Ok(match ListOrText::deserialize(deserializer)? {
        ListOrText::List(list) => list,
        ListOrText::Text(text) => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        }
    })
}

/// Reads a secret from a file, without trailing line ends.
pub(super) fn secret(path: &str, key: &'static str) -> Result<String, SettingsError> {
    let text = file::read_text(path.as_ref()).map_err(|problem| unreadable(path, key, &problem))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a key file.
pub(super) fn bytes(path: &str, key: &'static str) -> Result<Vec<u8>, SettingsError> {
    file::read(path.as_ref()).map_err(|problem| unreadable(path, key, &problem))
}

fn unreadable(path: &str, key: &'static str, problem: &str) -> SettingsError {
    SettingsError::Invalid { key, problem: format!("cannot read {path}: {problem}") }
}

pub(super) fn invalid(key: &'static str, problem: &str) -> SettingsError {
    SettingsError::Invalid { key, problem: problem.to_owned() }
}

pub(super) fn require(condition: bool, key: &'static str, problem: &str) -> Result<(), SettingsError> {
    if condition { Ok(()) } else { Err(invalid(key, problem)) }
}

pub(super) fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}
