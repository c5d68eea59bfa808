//! The site's access rules: which visitors may use which flags in which facilities.

use std::collections::HashMap;

use wildmatch::WildMatch;

use super::{FacilityPatterns, Identity};
use crate::wire::{AudienceKind, Facility, Flags};

/// One `[[access]]` table. The first one that matches a facility applies.
#[derive(Debug, Clone)]
pub struct Rule {
    facilities: FacilityPatterns,
    anonymous: Flags,
    users: Flags,
    groups: HashMap<String, Flags>,
    /// Whether a flag that is not allowed refuses the handshake instead of being ignored.
    forbids: bool,
    /// The limit of a visitor's publications.
    pub rate: Rate,
}

/// The limit of a visitor's publications; 0 means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Messages per second.
    pub messages_per_second: u32,
    /// Bytes per second.
    pub bytes_per_second: u32,
    /// Burst, in seconds of both rates.
    pub burst_seconds: u32,
}

/// A rule as it is written in the settings.
#[derive(Debug, Clone, Default)]
pub struct RuleText {
    /// Patterns of facilities; `*` matches any sequence of characters, `?` one character.
    pub facilities: Vec<String>,
    /// Flags for anonymous visitors; `*` matches any sequence of characters.
    pub anonymous: Vec<String>,
    /// Flags for logged-in visitors.
    pub users: Vec<String>,
    /// Flags for members of groups, in addition to those for users.
    pub groups: HashMap<String, Vec<String>>,
    /// Whether a flag that is not allowed refuses the handshake.
    pub forbids: bool,
    /// The limit of a visitor's publications.
    pub rate: Rate,
}

/// The result of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleVerdict {
    /// The flags that are allowed, with the limit of publications.
    Allowed(Flags, Rate),
    /// The handshake is refused.
    Forbidden,
}

impl Rule {
    /// Parses a rule.
    ///
    /// # Errors
    ///
    /// With the name that matches no flag.
    pub fn new(written: &RuleText) -> Result<Self, String> {
        let groups = written.groups.iter().map(|(group, names)| Ok((group.clone(), flags(names)?)));
        Ok(Self {
            facilities: FacilityPatterns::new(&written.facilities),
            anonymous: flags(&written.anonymous)?,
            users: flags(&written.users)?,
            groups: groups.collect::<Result<_, String>>()?,
            forbids: written.forbids,
            rate: written.rate,
        })
    }

    /// Returns whether this rule allows anonymous visitors to publish.
    pub fn allows_anonymous_publish(&self) -> bool {
        self.anonymous != self.anonymous.without_publish()
    }

    /// Returns whether it lets visitors know who else is there.
    pub fn grants_presence(&self) -> bool {
        let groups = self.groups.values().copied();
        groups.fold(self.anonymous.and(self.users), Flags::and).presence()
    }

    /// Returns whether it lets anybody subscribe to anything.
    fn grants_subscriptions(&self) -> bool {
        let granted = self.groups.values().copied().fold(self.anonymous.and(self.users), Flags::and);
        AudienceKind::ALL.into_iter().any(|kind| granted.subscribes(kind))
    }

    /// Returns the verdict of this rule; `None` if it does not match the facility.
    fn decide(&self, facility: &Facility, flags: Flags, identity: &Identity) -> Option<RuleVerdict> {
        if !self.facilities.admit(facility) {
            return None;
        }
        let allowed = if identity.user_id.is_none() {
            self.anonymous
        } else {
            let groups = identity.groups.iter().filter_map(|group| self.groups.get(&**group));
            groups.fold(self.users, |allowed, flags| allowed.and(*flags))
        };
        let granted = flags.within(allowed);
        if self.forbids && granted != flags {
            Some(RuleVerdict::Forbidden)
        } else {
            Some(RuleVerdict::Allowed(granted, self.rate))
        }
    }
}

/// Returns the verdict of the first rule that matches the facility. Without rules everything is allowed; with rules,
/// a facility that none of them matches is forbidden.
pub(super) fn decide(rules: &[Rule], facility: &Facility, flags: Flags, identity: &Identity) -> RuleVerdict {
    if rules.is_empty() {
        return RuleVerdict::Allowed(flags, Rate::default());
    }
    rules.iter().find_map(|rule| rule.decide(facility, flags, identity)).unwrap_or(RuleVerdict::Forbidden)
}

/// Returns whether any visitor may subscribe to channels of the facility.
pub(super) fn admit_subscribers(rules: &[Rule], facility: &Facility) -> bool {
    let rule = rules.iter().find(|rule| rule.facilities.admit(facility));
    rules.is_empty() || rule.is_some_and(Rule::grants_subscriptions)
}

/// Returns the flags that match the names.
fn flags(names: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    for name in names {
        let pattern = WildMatch::new(name);
        // Only by its name: user names are personal data.
        let mut matches_any = name == Flags::PRESENCE_NAME;
        if matches_any {
            flags = flags.and(Flags::named([Flags::PRESENCE_NAME]));
        }
        for kind in AudienceKind::ALL {
            for (verb, flag) in [("subscribe", Flags::subscribe(kind)), ("publish", Flags::publish(kind))] {
                if pattern.matches(&format!("{verb}-{}", kind.word())) {
                    flags = flags.and(flag);
                    matches_any = true;
                }
            }
        }
        if !matches_any {
            return Err(name.clone());
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Handshake;

    fn written() -> RuleText {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        RuleText {
            facilities: names(&["chat-*", "news"]),
            anonymous: names(&["subscribe-broadcast"]),
            users: names(&["subscribe-*"]),
            groups: [("staff".to_owned(), names(&["publish-broadcast"]))].into(),
            ..RuleText::default()
        }
    }

    #[track_caller]
    fn check(rules: &[Rule], path: &str, user: Option<&str>, groups: &[&str], expected: Option<&str>) {
        let query = "subscribe-broadcast&subscribe-user&publish-broadcast&echo";
        let handshake = Handshake::parse(path, Some(query), "/ws/").unwrap();
        let groups = groups.iter().copied().collect();
        let name: Option<std::sync::Arc<str>> = user.map(Into::into);
        let identity = Identity { session: None, user_id: name.clone(), user: name, groups };
        let granted = match decide(rules, &handshake.facility, handshake.flags, &identity) {
            RuleVerdict::Allowed(flags, _) => Some(format!("{flags:?}")),
            RuleVerdict::Forbidden => None,
        };
        assert_eq!(granted.as_deref(), expected, "{path} {user:?}");
    }

    #[test]
    fn the_first_rule_about_a_facility_decides() {
        let rules = [Rule::new(&written()).unwrap()];
        check(&rules, "/ws/chat-1", None, &[], Some("[subscribe-broadcast, echo]"));
        check(&rules, "/ws/news", Some("john"), &["x"], Some("[subscribe-broadcast, subscribe-user, echo]"));
        let all = Some("[subscribe-broadcast, publish-broadcast, subscribe-user, echo]");
        check(&rules, "/ws/news", Some("john"), &["staff"], all);
        check(&rules, "/ws/news", None, &["staff"], Some("[subscribe-broadcast, echo]"));
        check(&rules, "/ws/other", Some("john"), &["staff"], None);
        check(&[], "/ws/other", None, &[], all);
    }

    #[test]
    fn a_facility_is_unreachable_if_its_rule_grants_no_subscription() {
        let publishers = RuleText {
            facilities: vec!["inbox".into()],
            users: vec!["publish-*".into()],
            ..RuleText::default()
        };
        let members = RuleText {
            facilities: vec!["members".into()],
            groups: [("staff".to_owned(), vec!["subscribe-group".to_owned()])].into(),
            ..RuleText::default()
        };
        let all = RuleText {
            facilities: vec!["inbox".into()],
            users: vec!["subscribe-*".into()],
            ..members.clone()
        };
        let rules = [publishers, members, all, written()].map(|text| Rule::new(&text).unwrap());
        let admit = |rules, name| admit_subscribers(rules, &Facility::new(name));
        assert_eq!(
            ["chat-1", "members", "inbox", "other"].map(|name| admit(&rules, name)),
            [true, true, false, false]
        );
        assert!(admit(&[], "other"));
    }

    #[test]
    fn a_rule_may_refuse_instead_of_dropping() {
        let rules = [Rule::new(&RuleText { forbids: true, ..written() }).unwrap()];
        check(&rules, "/ws/news", None, &[], None);
    }

    #[test]
    fn a_name_that_stands_for_no_flag_is_refused() {
        let rule = RuleText { users: vec!["subscribe-all".into()], ..written() };
        assert_eq!(Rule::new(&rule).unwrap_err(), "subscribe-all");
    }
}
