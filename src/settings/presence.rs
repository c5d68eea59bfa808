//! The `[[presence]]` tables.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{list, require};
use crate::access::FacilityPatterns;

/// One `[[presence]]` table: facilities whose visitors are kept in Redis. The first one that matches a facility applies.
#[derive(Debug, Clone)]
pub struct PresenceRule {
    /// Patterns of facilities and of namespaces of Socket.IO.
    pub facilities: FacilityPatterns,
    /// Seconds after which an entry of a gateway that has ended is not valid any more.
    pub seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPresenceRule {
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    #[serde(default = "default_seconds")]
    seconds: u32,
}

fn default_seconds() -> u32 {
    60
}

impl RawPresenceRule {
    pub(super) fn check(&self) -> Result<PresenceRule, SettingsError> {
        require(!self.facility.is_empty(), "presence.facility", "is empty; name facilities, or [\"*\"]")?;
        Ok(PresenceRule { facilities: FacilityPatterns::new(&self.facility), seconds: self.seconds })
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::Settings;

    /// Loads a settings file with this text.
    fn load(name: &str, text: &str) -> Result<Settings, String> {
        let file = std::env::temp_dir().join(format!("ws4redis-presence-{name}-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let loaded = Settings::load(Some(&file), std::iter::empty(), &[]);
        std::fs::remove_file(file).unwrap();
        loaded.map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_have_a_default_time_and_are_checked() {
        assert!(Settings::built_in().unwrap().presence.is_empty());
        let text =
            "[[presence]]\nfacility = [\"chat-*\", \"/\"]\n[[presence]]\nfacility = [\"a\"]\nseconds = 9\n";
        let rules = load("right", text).unwrap().presence;
        assert_eq!(rules.iter().map(|rule| rule.seconds).collect::<Vec<_>>(), [60, 9]);
        assert!(rules[0].facilities.admit_name("chat-5") && rules[0].facilities.admit_name("/"));
        for (text, expected) in [
            ("[[presence]]\nfacility = []\n", "presence.facility: is empty"),
            ("[[presence]]\nseconds = 60\n", "facility"),
            ("[[presence]]\nfacility = [\"a\"]\nsecond = 60\n", "second"),
        ] {
            let error = load("wrong", text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
