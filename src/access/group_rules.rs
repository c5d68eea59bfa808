//! The groups of Django Channels that the audiences of a facility hear.

use std::borrow::Cow;

use super::{FacilityPatterns, Identity};
use crate::wire::live::head;
use crate::wire::{AudienceKind, Facility, GroupForm, Topic};

/// Longest name of a group with the core layer of Channels, which refuses longer ones.
const MAX_CORE_NAME: usize = 99;

/// Longest name of a group with the pubsub layer, which has no limit of its own.
const MAX_NAME: usize = 1_024;

/// One `[[channels.groups]]` table. For each audience the first one that matches a facility applies.
#[derive(Debug, Clone)]
pub struct GroupRule {
    /// Patterns of facilities.
    pub facilities: FacilityPatterns,
    /// The audience that hears the group.
    pub audience: AudienceKind,
    /// The group; none if the audience hears only groups that Django has joined its user to.
    pub group: Option<GroupTemplate>,
    /// What is delivered of a message.
    pub form: GroupForm,
    /// Whether the audience also hears the groups that Django has joined its user to.
    pub joined: bool,
}

/// The name of a group, with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTemplate(Box<[TemplatePart]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(Box<str>),
    Facility,
    User,
    UserId,
    Group,
}

/// Which names of groups Django accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupNames {
    /// Letters, digits, `-`, `_` and `.`: the core layer.
    #[default]
    Plain,
    /// Any: the pubsub layer.
    Any,
}

/// The groups that a handshake was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupGrant {
    /// Those that the rules name, in the order of the audiences; each group once.
    groups: Vec<GrantedGroup>,
    /// How those are delivered that Django has joined the user to; none if the client does not hear them.
    joined: Option<(GroupForm, AudienceKind)>,
}

/// A group that an audience hears.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GrantedGroup {
    name: String,
    form: GroupForm,
    /// The audience, as messages of version 2 name it.
    audience: Cow<'static, str>,
}

impl GroupTemplate {
    /// Parses a name with the placeholders `{facility}`, `{user}`, `{user_id}` and `{group}`.
    ///
    /// # Errors
    ///
    /// With the problem.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or_else(|| "a { has no }".to_owned())?;
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.into()));
            }
            parts.push(match name {
                "facility" => TemplatePart::Facility,
                "user" => TemplatePart::User,
                "user_id" => TemplatePart::UserId,
                "group" => TemplatePart::Group,
                _ => {
                    return Err(format!(
                        "{{{name}}} is not one of {{facility}}, {{user}}, {{user_id}} and {{group}}"
                    ));
                }
            });
            rest = behind;
        }
        if rest.contains('}') {
            return Err("a } has no {".to_owned());
        }
        if !rest.is_empty() {
            parts.push(TemplatePart::Text(rest.into()));
        }
        Ok(Self(parts.into()))
    }

    /// Returns whether the name contains the name of a Django group.
    pub fn has_group(&self) -> bool {
        self.0.contains(&TemplatePart::Group)
    }

    /// Returns whether different values can make one name: `{user}_{facility}` makes `john_smith_inbox` of `john` and
    /// `smith_inbox`, and of `john_smith` and `inbox`. `is_fixed`: the rule names its facilities, so no client chooses one.
    ///
    /// A primary key has letters, digits and hyphens: other text ends it.
    pub fn is_ambiguous(&self, is_fixed: bool) -> bool {
        let is_free = |part: &TemplatePart| match part {
            TemplatePart::Text(_) | TemplatePart::UserId => false,
            TemplatePart::Facility => !is_fixed,
            TemplatePart::User | TemplatePart::Group => true,
        };
        let free = self.0.iter().filter(|part| is_free(part)).count();
        let ends_key = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => {
                text.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-')
            }
            part => !is_free(part) && *part != TemplatePart::UserId,
        };
        // Between a key and the next value stands text that no key has.
        let mut is_separated = true;
        let mut has_end = true;
        for part in &self.0 {
            if ends_key(part) {
                has_end = true;
            } else if !matches!(part, TemplatePart::Text(_)) {
                is_separated &= has_end;
                has_end = false;
            }
        }
        free > 1 || free == 1 && !is_separated
    }

    /// Returns whether the name is that of a user, which visitors may choose, without other text.
    pub fn is_user_alone(&self) -> bool {
        *self.0 == [TemplatePart::User]
    }

    /// Returns whether a client chooses a part of the name by its facility.
    pub fn has_facility(&self) -> bool {
        self.0.contains(&TemplatePart::Facility)
    }

    /// Returns the fixed text, for a check of its characters.
    pub fn fixed(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(|part| if let TemplatePart::Text(text) = part { Some(&**text) } else { None })
    }

    /// Returns the name for a visitor; `None` if the visitor lacks a value, or the value is empty.
    fn name(&self, facility: &Facility, identity: &Identity, group: Option<&str>) -> Option<String> {
        let mut name = String::new();
        for part in &self.0 {
            let value = match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Facility => facility.as_str(),
                TemplatePart::User => identity.user.as_deref()?,
                TemplatePart::UserId => identity.user_id.as_deref()?,
                TemplatePart::Group => group?,
            };
            if value.is_empty() {
                return None;
            }
            name.push_str(value);
        }
        Some(name)
    }
}

impl GroupNames {
    /// Returns whether Django can send to a group of this name.
    pub fn admit(self, name: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match self {
            Self::Plain => (1..=MAX_CORE_NAME).contains(&name.len()) && name.bytes().all(is_plain),
            Self::Any => (1..=MAX_NAME).contains(&name.len()),
        }
    }
}

impl GroupGrant {
    /// Returns whether it has no group, and can get none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.joined.is_none()
    }

    /// Returns whether it has the groups that Django joins the user to.
    pub fn has_joined(&self) -> bool {
        self.joined.is_some()
    }

    /// Returns whether a kind of audience hears a group, or can get one.
    pub fn is_heard_by(&self, kind: AudienceKind) -> bool {
        let is_of = |audience: &str| audience.split(':').next() == Some(kind.word());
        self.groups.iter().any(|group| is_of(&group.audience))
            || self.joined.is_some_and(|(_, audience)| audience == kind)
    }

    /// Adds what the rules say about an audience that was granted.
    pub(super) fn add(
        &mut self,
        rules: &[GroupRule],
        names: GroupNames,
        audience: AudienceKind,
        facility: &Facility,
        identity: &Identity,
    ) {
        let mut matching = rules.iter().filter(|rule| rule.audience == audience);
        let Some(rule) = matching.find(|rule| rule.facilities.admit(facility)) else { return };
        if rule.joined && identity.user_id.is_some() {
            self.joined = self.joined.or(Some((rule.form, audience)));
        }
        let Some(template) = &rule.group else { return };
        if audience == AudienceKind::Group {
            for group in identity.groups.iter() {
                let name = template.name(facility, identity, Some(group));
                self.add_name(names, name, rule.form, || format!("group:{group}").into());
            }
        } else {
            let name = template.name(facility, identity, None);
            self.add_name(names, name, rule.form, || audience.word().into());
        }
    }

    fn add_name(
        &mut self,
        names: GroupNames,
        name: Option<String>,
        form: GroupForm,
        audience: impl FnOnce() -> Cow<'static, str>,
    ) {
        let Some(name) = name.filter(|name| names.admit(name)) else { return };
        // Two audiences may hear one group; the client gets its messages once.
        if !self.groups.iter().any(|group| group.name == name) {
            self.groups.push(GrantedGroup { name, form, audience: audience() });
        }
    }

    /// Returns the topics of the grant, and those of the groups that Django has joined the user to. For listeners of version 2
    /// `labelled` is their facility, which their messages name.
    pub fn topics(&self, names: GroupNames, joined: &[Box<str>], labelled: Option<&Facility>) -> Vec<Topic> {
        let mut all = self.clone();
        if let Some((form, audience)) = self.joined {
            for name in joined {
                all.add_name(names, Some((**name).to_owned()), form, || audience.word().into());
            }
        }
        let topic = |GrantedGroup { name, form, audience }: &GrantedGroup| match labelled {
            None => Topic::group(*form, name),
            Some(facility) => Topic::labelled_group(*form, name, &head(facility.as_str(), audience)),
        };
        all.groups.iter().map(topic).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(facility: &str, audience: AudienceKind, group: &str, joined: bool) -> GroupRule {
        let group = (!group.is_empty()).then(|| GroupTemplate::new(group).unwrap());
        let facilities = FacilityPatterns::new(&[facility.to_owned()]);
        GroupRule { facilities, audience, group, form: GroupForm::new(u8::from(joined)), joined }
    }

    fn names_of(grant: &GroupGrant) -> Vec<&str> {
        grant.groups.iter().map(|group| &*group.name).collect()
    }

    #[test]
    fn the_first_rule_of_an_audience_decides_and_a_group_is_heard_once() {
        let rules = [
            rule("chat-*", AudienceKind::Broadcast, "{facility}", false),
            rule("*", AudienceKind::Broadcast, "other", false),
            rule("*", AudienceKind::User, "chat-1", true),
            rule("*", AudienceKind::Group, "team_{group}", false),
        ];
        let groups = ["red", "a b"].into_iter().collect();
        let john = Identity { user_id: Some("7".into()), groups, ..Identity::default() };
        let facility = Facility::new("chat-1");
        let mut grant = GroupGrant::default();
        for audience in AudienceKind::ALL {
            grant.add(&rules, GroupNames::Plain, audience, &facility, &john);
        }
        assert_eq!(names_of(&grant), ["chat-1", "team_red"], "Channels has no group with a blank");
        assert_eq!(grant.joined, Some((GroupForm::new(1), AudienceKind::User)));
        let joined = ["chat-1".into(), "x".into(), "a b".into()];
        for labelled in [None, Some(&facility)] {
            let all = grant.topics(GroupNames::Plain, &joined, labelled);
            let names: Vec<_> = all.iter().filter_map(Topic::group_name).collect();
            assert_eq!(names, ["chat-1", "team_red", "x"]);
            let labels: Vec<_> = all.iter().filter_map(Topic::group_label).collect();
            let label = |audience| head("chat-1", audience);
            let expected = ["broadcast", "group:red", "user"].map(label);
            assert_eq!(labels, if labelled.is_some() { &expected[..] } else { &[] });
        }
        let heard = AudienceKind::ALL.map(|kind| grant.is_heard_by(kind));
        assert_eq!(heard, [true, true, true, false]);
    }

    #[test]
    fn a_visitor_without_a_value_hears_no_group_of_it() {
        let rules = [rule("*", AudienceKind::Broadcast, "u_{user_id}", true)];
        let mut grant = GroupGrant::default();
        let anonymous = Identity::default();
        grant.add(&rules, GroupNames::Any, AudienceKind::Broadcast, &Facility::new("x"), &anonymous);
        assert!(grant.is_empty(), "nor groups that Django has joined a user to");
    }

    #[test]
    fn a_template_that_cannot_be_meant_is_refused() {
        for (text, expected) in
            [("{x}", "{x} is not one of"), ("a{user", "a { has no }"), ("a}", "a } has no {")]
        {
            assert!(GroupTemplate::new(text).unwrap_err().contains(expected), "{text}");
        }
    }

    #[test]
    fn a_template_whose_parts_run_into_each_other_is_ambiguous() {
        for (text, if_free, if_fixed) in [
            ("a_{facility}", false, false),
            ("{user}_{facility}", true, false),
            ("{facility}-{group}", true, false),
            ("{user}_{group}", true, true),
            ("{user}{user_id}", true, true),
            ("chat_{user_id}_{facility}", false, false),
            ("{user_id}-{facility}", true, false),
            ("{facility}{user_id}_", true, false),
            ("{facility}.{user_id}", false, false),
            ("user_{user_id}", false, false),
        ] {
            let template = GroupTemplate::new(text).unwrap();
            assert_eq!(
                (template.is_ambiguous(false), template.is_ambiguous(true)),
                (if_free, if_fixed),
                "{text}"
            );
        }
    }
}
