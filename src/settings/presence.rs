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
