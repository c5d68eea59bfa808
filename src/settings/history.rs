//! The `[[history]]` tables.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{list, require};
use crate::access::FacilityPatterns;
use crate::wire::{Facility, Namespace};

/// How much of a channel is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Number of messages.
    pub messages: u32,
    /// Seconds after its last message for which a stream lives.
    pub seconds: u32,
}

/// One `[[history]]` table: facilities whose messages are kept in streams.
#[derive(Debug, Clone)]
pub struct HistoryRule {
    /// The patterns, as written.
    pub patterns: Vec<String>,
    /// Patterns of facilities.
    pub facilities: FacilityPatterns,
    /// How much is kept.
    pub limits: HistoryLimits,
}

/// The `[[history]]` tables, in order.
#[derive(Debug, Clone, Default)]
pub struct HistoryRules(Box<[HistoryRule]>);

impl HistoryRules {
    /// Returns true if no facility keeps a history.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the tables.
    pub fn iter(&self) -> impl Iterator<Item = &HistoryRule> {
        self.0.iter()
    }

    /// Returns how much of a facility is kept: the first table that matches decides. None if it keeps no history.
    pub fn limits_of(&self, facility: &Facility) -> Option<HistoryLimits> {
        self.0.iter().find(|rule| rule.facilities.admit(facility)).map(|rule| rule.limits)
    }

    pub(super) fn check(tables: Vec<RawHistoryRule>) -> Result<Self, SettingsError> {
        tables.into_iter().map(RawHistoryRule::check).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHistoryRule {
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    #[serde(default = "default_messages")]
    messages: u32,
    #[serde(default = "default_seconds")]
    seconds: u32,
}

fn default_messages() -> u32 {
    100
}

fn default_seconds() -> u32 {
    3600
}

impl RawHistoryRule {
    fn check(self) -> Result<HistoryRule, SettingsError> {
        require(!self.facility.is_empty(), "history.facility", "is empty; name facilities, or [\"*\"]")?;
        let facilities = FacilityPatterns::new(&self.facility);
        let limits = HistoryLimits { messages: self.messages, seconds: self.seconds };
        Ok(HistoryRule { patterns: self.facility, facilities, limits })
    }
}

/// Refuses a prefix with which the channels of this site would be the streams or live channels of another one that
/// shares its Redis.
pub(super) fn check_prefix(namespace: &Namespace) -> Result<(), SettingsError> {
    let prefix = format!(":{}", namespace.as_str());
    let is_own = prefix.ends_with(":ws4redis:history") || prefix.ends_with(":ws4redis:live");
    require(!is_own, "prefix", "must not end with ws4redis:history or ws4redis:live, which name histories")
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;
    use crate::wire::Facility;

    /// Loads a settings file with this text.
    fn load(name: &str, text: &str) -> Result<Settings, String> {
        let file = std::env::temp_dir().join(format!("ws4redis-history-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let loaded = Settings::load(Some(&file), std::iter::empty(), &[]);
        std::fs::remove_file(file).unwrap();
        loaded.map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_table_that_matches_a_facility_decides_how_much_is_kept() {
        let text = "[[history]]\nfacility = [\"chat-*\"]\n[[history]]\nfacility = [\"*\"]\nmessages = 5\nseconds = 9\n";
        let rules = load("right", text).unwrap().history;
        let kept = |facility| rules.limits_of(&Facility::new(facility)).map(|it| (it.messages, it.seconds));
        assert_eq!((kept("chat-5"), kept("news")), (Some((100, 3600)), Some((5, 9))));
        let none = Settings::built_in().unwrap().history;
        assert!(none.is_empty() && none.limits_of(&Facility::new("chat-5")).is_none());
    }

    #[test]
    fn tables_are_checked() {
        for (text, expected) in [
            ("[[history]]\nfacility = []\n", "history.facility: is empty"),
            ("[[history]]\nmessages = 60\n", "facility"),
            ("[[history]]\nfacility = [\"a\"]\nmessage = 60\n", "message"),
            (
                "[[history]]\nfacility = [\"a\"]\nmessages = 0\n",
                "history.messages: must be an integer from 1",
            ),
            ("[[history]]\nfacility = [\"a\"]\nseconds = 0\n", "history.seconds: must be an integer from 1"),
            ("prefix = \"ws4redis:history\"\n", "prefix: must not end with"),
            ("prefix = \"a:ws4redis:live\"\n", "prefix: must not end with"),
        ] {
            let error = load("wrong", text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(load("other", "prefix = \"my-ws4redis:live\"\n").is_ok());
    }
}
