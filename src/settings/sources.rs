//! The settings as written: the value of each key, and where it comes from.

use std::collections::BTreeMap;

use serde_json::Value;

use super::in_force::{SettingInForce, SettingOrigin, SettingValues, masked};

/// The values of all settings, the sources of those that are not built-in, and warnings about variables without effect.
#[derive(Debug, Default)]
pub struct SettingsSources {
    /// Warnings about variables without effect.
    pub warnings: Vec<String>,
    /// The sources of each key, in the order in which they override each other.
    keys: BTreeMap<String, Vec<(SettingOrigin, String)>>,
    values: SettingValues,
}

impl SettingsSources {
    /// Records that a source sets a key.
    pub(super) fn add(&mut self, key: &str, origin: SettingOrigin, source: &str) {
        self.keys.entry(key.to_owned()).or_default().push((origin, source.to_owned()));
    }

    /// Records the values in force.
    pub(super) fn set_values(&mut self, values: SettingValues) {
        self.values = values;
    }

    /// Returns the value in force of a key, in the type of its default. It may be a secret.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.0.get(key)
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
