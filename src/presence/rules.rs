//! What is counted: the site's users, the visitors of a facility, or neither.

use crate::settings::PresenceRule;

/// Seconds for which an entry of a user is valid where no `[[presence]]` table says so.
const DEFAULT_SECONDS: u32 = 60;

/// What is counted.
pub(super) struct PresenceRules {
    facilities: Vec<PresenceRule>,
    /// Seconds for which the entries of users are valid: the shortest of all tables.
    pub(super) user_seconds: u32,
    /// Clients may be told who is in a facility: changes are published.
    pub(super) tells: bool,
}

impl PresenceRules {
    /// Returns the rules; none if nothing is counted. `announces`: users who come and go are announced. `tells`: clients may
    /// be told who is in a facility.
    pub(super) fn new(rules: &[PresenceRule], announces: bool, tells: bool) -> Option<Self> {
        if rules.is_empty() && !announces {
            return None;
        }
        let user_seconds = rules.iter().map(|rule| rule.seconds).min().unwrap_or(DEFAULT_SECONDS);
        Some(Self { facilities: rules.to_vec(), user_seconds, tells })
    }

    /// Returns the seconds for which the entries of a facility are valid; none if its visitors are not counted.
    pub(super) fn seconds_of(&self, facility: &str) -> Option<u32> {
        self.facilities.iter().find(|rule| rule.facilities.admit_name(facility)).map(|rule| rule.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::FacilityPatterns;

    #[test]
    fn the_first_table_that_matches_decides_and_users_have_the_shortest_time() {
        let rule = |pattern: &str, seconds| PresenceRule {
            facilities: FacilityPatterns::new(&[pattern.to_owned()]),
            seconds,
        };
        let rules = PresenceRules::new(&[rule("chat-*", 60), rule("*", 10)], false, false).unwrap();
        assert_eq!(rules.user_seconds, 10);
        assert_eq!((rules.seconds_of("chat-5"), rules.seconds_of("/chat")), (Some(60), Some(10)));
        let rules = PresenceRules::new(&[], true, false).unwrap();
        assert_eq!((rules.user_seconds, rules.seconds_of("chat-5")), (60, None));
        assert!(PresenceRules::new(&[], false, true).is_none());
    }
}
