//! The settings as written: the value of each key, and where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::SettingsError;
use super::in_force::{SettingInForce, SettingOrigin, SettingValues, masked};
use super::position::{lines_of, lines_with};

/// The values of all settings, the sources of those that are not built-in, and warnings about variables without effect.
#[derive(Debug, Default)]
pub struct SettingsSources {
    /// Warnings about variables without effect.
    pub warnings: Vec<String>,
    /// The sources of each key, in the order in which they override each other.
    keys: BTreeMap<String, Vec<(SettingOrigin, String)>>,
    values: SettingValues,
    /// The settings file and its text.
    file: Option<(PathBuf, FileText)>,
}

/// The text of a file. `Debug` omits it, because it may contain secrets.
struct FileText(String);

impl fmt::Debug for FileText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileText").field(&self.0.len()).finish()
    }
}

impl SettingsSources {
    /// Records that a source sets a key.
    pub(super) fn add(&mut self, key: &str, origin: SettingOrigin, source: &str) {
        self.keys.entry(key.to_owned()).or_default().push((origin, source.to_owned()));
    }

    /// Records the text of the settings file.
    pub(super) fn set_text(&mut self, file: &Path, text: &str) {
        self.file = Some((file.to_owned(), FileText(text.to_owned())));
    }

    /// Adds the line to an error about a value in the settings file.
    pub(super) fn locate(&self, error: SettingsError) -> SettingsError {
        let Some(((file, text), key)) = self.file.as_ref().zip(error.key()) else { return error };
        let written = key.split(['.', '[']).next().unwrap_or_default();
        let source = self.keys.get(key).or_else(|| self.keys.get(written)).and_then(|sources| sources.last());
        let mut lines = lines_of(&text.0, key);
        if lines.is_empty() {
            // An error about a list of tables quotes what is wrong.
            let problem = error.to_string();
            let quoted = problem.split('"').nth(1).map(|word| format!("\"{word}\""));
            lines = quoted.map(|word| lines_with(&text.0, &word)).unwrap_or_default();
        }
        let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        if lines.is_empty() || source.is_none_or(|(origin, _)| *origin != SettingOrigin::File) {
            return error;
        }
        let lines = format!("line {}", lines.join(" or "));
        SettingsError::InLine { file: file.clone(), lines, error: Box::new(error) }
    }

    /// Records the values in force.
    pub(super) fn set_values(&mut self, values: SettingValues) {
        self.values = values;
    }

    /// Returns the value in force of a key, in the type of its default. It may be a secret.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.0.get(key)
    }

    /// Returns the keys whose values differ from those of other settings, in order.
    pub(super) fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let (values, others) = (&self.values.0, &other.values.0);
        let keys: BTreeSet<_> = values.keys().chain(others.keys()).map(String::as_str).collect();
        keys.into_iter().filter(|key| values.get(*key) != others.get(*key))
    }

    /// Returns one line for each key: its name and its source. Values may be secrets, and are left out.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|(key, sources)| Some(format!("{key}: {}", sources.last()?.1)))
    }

    /// Returns one line for each key that has several sources.
    pub fn overridden(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|(key, sources)| {
            let ((_, winner), others) = sources.split_last()?;
            (!others.is_empty()).then(|| {
                let others: Vec<_> = others.iter().map(|(_, name)| name.as_str()).collect();
                let others = others.join(" and ");
                format!(
                    "{key} is set by {winner}, and its value in {others} has no effect: remove one of them"
                )
            })
        })
    }

    /// Returns the settings in force in order, secrets masked: those above the first section, then each section.
    pub fn in_force(&self) -> Vec<SettingInForce> {
        let (sections, plain): (Vec<_>, Vec<_>) =
            self.values.0.iter().partition(|(key, _)| key.contains('.'));
        let describe = |(key, value): (&String, &Value)| {
            let source = self.keys.get(key).and_then(|sources| sources.last());
            let (origin, name) =
                source.map_or((SettingOrigin::Default, ""), |(origin, name)| (*origin, name));
            SettingInForce {
                key: key.clone(),
                value: masked(key, value),
                origin,
                name: Some(name).filter(|name| !name.is_empty()).map(str::to_owned),
            }
        };
        plain.into_iter().chain(sections).map(describe).collect()
    }
}
