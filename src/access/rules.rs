//! The site's own rules: who may use which flags in which facilities.

use std::collections::HashMap;

use wildmatch::WildMatch;

use super::Identity;
use crate::wire::{AudienceKind, Facility, Flags};

/// One `[[access]]` table. The first one that matches a facility decides.
#[derive(Debug, Clone)]
pub struct Rule {
    facilities: Vec<WildMatch>,
    anonymous: Flags,
    users: Flags,
    groups: HashMap<String, Flags>,
    /// Whether a flag that is not allowed refuses the handshake, instead of being dropped.
    forbids: bool,
    /// What a connection may publish.
    pub rate: Rate,
}

/// What a connection may publish; 0 means without limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Messages per second.
    pub messages_per_second: u32,
    /// Bytes per second.
    pub bytes_per_second: u32,
    /// Seconds' worth of both that may come at once.
    pub burst_seconds: u32,
}

/// A rule as it is written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Patterns of facilities; `*` stands for any run of characters, `?` for one.
    pub facilities: Vec<String>,
    /// Flags for visitors who are not logged in; `*` stands for any run of characters.
    pub anonymous: Vec<String>,
    /// Flags for everybody who is logged in.
    pub users: Vec<String>,
    /// Flags for the members of groups, beside those for users.
    pub groups: HashMap<String, Vec<String>>,
    /// Whether a flag that is not allowed refuses the handshake.
    pub forbids: bool,
    /// What a connection may publish.
    pub rate: Rate,
}

/// What the rules allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// These of the flags.
    Allowed(Flags, Rate),
    /// Nothing: the handshake is to be refused.
    Forbidden,
}

impl Rule {
    /// Checks a rule as it is written.
    ///
    /// # Errors
    ///
    /// With the name that stands for no flag.
    pub fn new(written: &Written) -> Result<Self, String> {
        let groups = written.groups.iter().map(|(group, names)| Ok((group.clone(), flags(names)?)));
        Ok(Self {
            facilities: written.facilities.iter().map(|pattern| WildMatch::new(pattern)).collect(),
            anonymous: flags(&written.anonymous)?,
            users: flags(&written.users)?,
            groups: groups.collect::<Result<_, String>>()?,
            forbids: written.forbids,
            rate: written.rate,
        })
    }

    /// Tells whether visitors who are not logged in may publish by this rule.
    pub fn lets_anonymous_publish(&self) -> bool {
        self.anonymous != self.anonymous.without_publish()
    }

    /// Decides over a facility, if the rule is about it.
    fn decide(&self, facility: &Facility, flags: Flags, identity: &Identity) -> Option<Verdict> {
        if !self.facilities.iter().any(|pattern| pattern.matches(facility.as_str())) {
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
            Some(Verdict::Forbidden)
        } else {
            Some(Verdict::Allowed(granted, self.rate))
        }
    }
}

/// Decides by the first rule that is about the facility. Where there are rules and none is, nothing is allowed.
pub(super) fn decide(rules: &[Rule], facility: &Facility, flags: Flags, identity: &Identity) -> Verdict {
    if rules.is_empty() {
        return Verdict::Allowed(flags, Rate::default());
    }
    rules.iter().find_map(|rule| rule.decide(facility, flags, identity)).unwrap_or(Verdict::Forbidden)
}

/// Returns the flags that the names stand for.
fn flags(names: &[String]) -> Result<Flags, String> {
    let mut flags = Flags::default();
    for name in names {
        let pattern = WildMatch::new(name);
        let mut stands_for_some = false;
        for kind in AudienceKind::ALL {
            for (verb, flag) in [("subscribe", Flags::subscribe(kind)), ("publish", Flags::publish(kind))] {
                if pattern.matches(&format!("{verb}-{}", kind.word())) {
                    flags = flags.and(flag);
                    stands_for_some = true;
                }
            }
        }
        if !stands_for_some {
            return Err(name.clone());
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Handshake;

    fn written() -> Written {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Written {
            facilities: names(&["chat-*", "news"]),
            anonymous: names(&["subscribe-broadcast"]),
            users: names(&["subscribe-*"]),
            groups: [("staff".to_owned(), names(&["publish-broadcast"]))].into(),
            ..Written::default()
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
            Verdict::Allowed(flags, _) => Some(format!("{flags:?}")),
            Verdict::Forbidden => None,
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
    fn a_rule_may_refuse_instead_of_dropping() {
        let rules = [Rule::new(&Written { forbids: true, ..written() }).unwrap()];
        check(&rules, "/ws/news", None, &[], None);
    }

    #[test]
    fn a_name_that_stands_for_no_flag_is_refused() {
        let rule = Written { users: vec!["subscribe-all".into()], ..written() };
        assert_eq!(Rule::new(&rule).unwrap_err(), "subscribe-all");
    }
}
