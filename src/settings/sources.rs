//! Where the settings come from that differ from the built-in ones.

use std::collections::BTreeMap;

/// The sources of the settings that are not built-in, and warnings about variables without effect.
#[derive(Debug, Default)]
pub struct SettingsSources {
    /// Warnings about variables without effect.
    pub warnings: Vec<String>,
    /// The sources of each key, in the order in which they override each other.
    keys: BTreeMap<String, Vec<String>>,
}

impl SettingsSources {
    /// Records that a source sets a key.
    pub(super) fn add(&mut self, key: &str, source: &str) {
        self.keys.entry(key.to_owned()).or_default().push(source.to_owned());
    }

    /// Returns one line for each key: its name and its source. Values may be secrets, and are left out.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|(key, sources)| Some(format!("{key}: {}", sources.last()?)))
    }

    /// Returns one line for each key that has several sources.
    pub fn overridden(&self) -> impl Iterator<Item = String> {
        self.keys.iter().filter_map(|(key, sources)| {
            let (winner, others) = sources.split_last()?;
            (!others.is_empty()).then(|| {
                let others = others.join(" and ");
                format!(
                    "{key} is set by {winner}, and its value in {others} has no effect: remove one of them"
                )
            })
        })
    }
}
