//! Patterns of facilities in the settings.

use wildmatch::WildMatch;

use crate::wire::Facility;

/// Patterns of facilities: `*` matches any sequence of characters, `?` one character.
#[derive(Debug, Clone, Default)]
pub struct FacilityPatterns(Box<[WildMatch]>);

impl FacilityPatterns {
    /// Parses patterns. Each text is one.
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }

    /// Returns the patterns as texts.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(WildMatch::pattern)
    }

    /// Returns whether a facility matches any of the patterns.
    pub fn admit(&self, facility: &Facility) -> bool {
        self.admit_name(facility.as_str())
    }

    /// Returns whether a name, of a facility or of a namespace of Socket.IO, matches any of the patterns.
    pub fn admit_name(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}
