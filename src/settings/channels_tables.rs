//! The tables `[[channels.groups]]` and `[[channels.publish]]`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::delivery::GroupDelivery;
use super::error::SettingsError;
use super::fields::{invalid, list, require};
use crate::access::{FacilityPatterns, GroupNames, GroupRule, GroupTemplate};
use crate::wire::{AudienceKind, GroupForm};

/// One `[[channels.publish]]` table. The first one that matches a facility applies.
#[derive(Debug, Clone)]
pub struct ChannelsPublishRule {
    /// Patterns of facilities.
    pub facilities: FacilityPatterns,
    /// Where messages go.
    pub to: ChannelsDestination,
    /// The `type` of the messages.
    pub kind: String,
}

/// Where the messages of pages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelsDestination {
    /// A channel that a worker of Django reads.
    Channel(String),
    /// A group that consumers are in.
    Group(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroupRule {
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    audience: String,
    #[serde(default)]
    group: String,
    #[serde(default = "whole_event")]
    deliver: String,
    #[serde(default, deserialize_with = "list")]
    types: Vec<String>,
    #[serde(default)]
    joined: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPublishRule {
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    to: String,
    #[serde(rename = "type")]
    kind: String,
}

fn whole_event() -> String {
    "event".to_owned()
}

/// Deserializes tables; an environment variable cannot hold any. Not an untagged enum, whose errors name no key.
pub(super) fn tables<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Tables<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("tables, which only a settings file can hold")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut tables: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(table) = tables.next_element()? {
                all.push(table);
            }
            Ok(all)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            if text.is_empty() { Ok(Vec::new()) } else { Err(E::invalid_type(Unexpected::Str(text), &self)) }
        }
    }

    deserializer.deserialize_any(Tables(PhantomData))
}

impl RawGroupRule {
    pub(super) fn check(
        &self,
        names: GroupNames,
        access: &[&[String]],
        deliveries: &mut Vec<GroupDelivery>,
    ) -> Result<GroupRule, SettingsError> {
        require(
            !self.facility.is_empty(),
            "channels.groups.facility",
            "is empty; name facilities, or [\"*\"]",
        )?;
        let audience = AudienceKind::ALL.into_iter().find(|kind| kind.word() == self.audience);
        let audience = audience.ok_or_else(|| {
            invalid("channels.groups.audience", "expected broadcast, group, user or session")
        })?;
        require(
            !self.group.is_empty() || self.joined,
            "channels.groups.group",
            "is empty; only a table with joined = true needs no group of its own",
        )?;
        let group = if self.group.is_empty() { None } else { Some(self.template(audience, names, access)?) };
        let delivery = GroupDelivery::new(&self.deliver, &self.types)
            .map_err(|problem| SettingsError::Invalid { key: "channels.groups.deliver", problem })?;
        let number = deliveries.iter().position(|known| *known == delivery).unwrap_or(deliveries.len());
        if number == deliveries.len() {
            deliveries.push(delivery);
        }
        let too_many =
            || invalid("channels.groups", "has more than 128 different values of deliver and types");
        let form = u8::try_from(number).ok().filter(|_| number < GroupForm::MAX).ok_or_else(too_many)?;
        Ok(GroupRule {
            facilities: FacilityPatterns::new(&self.facility),
            audience,
            group,
            form: GroupForm::new(form),
            joined: self.joined,
        })
    }

    fn template(
        &self,
        audience: AudienceKind,
        names: GroupNames,
        access: &[&[String]],
    ) -> Result<GroupTemplate, SettingsError> {
        let key = "channels.groups.group";
        let template =
            GroupTemplate::new(&self.group).map_err(|problem| SettingsError::Invalid { key, problem })?;
        require(
            !template.has_group() || audience == AudienceKind::Group,
            key,
            "has {group}, which only a table with audience = \"group\" can fill",
        )?;
        require(
            template.fixed().all(|text| names.admit(text)),
            key,
            "has a character that the core layer refuses in names: use letters, digits, -, _ and .",
        )?;
        let is_fixed = !self.facility.iter().any(|pattern| pattern.contains(['*', '?']));
        require(
            !template.is_ambiguous(is_fixed),
            key,
            "is ambiguous: {facility}, {user} and {group} may contain any text, so that different visitors get one name. Use one of them only, or {user_id} with text like _ between, or a table with facilities without * and ?",
        )?;
        let is_covered = self.facility.iter().all(|pattern| {
            let mut tables = access.iter().flat_map(|table| table.iter());
            tables.any(|covering| FacilityPatterns::new(std::slice::from_ref(covering)).admit_name(pattern))
        });
        require(
            !template.has_facility() || is_covered,
            key,
            "has {facility}, which each client chooses: without an [[access]] table for the same facilities any visitor hears any group. Add [[access]] with these patterns, or name the group",
        )?;
        Ok(template)
    }
}

impl RawPublishRule {
    pub(super) fn check(&self, names: GroupNames) -> Result<ChannelsPublishRule, SettingsError> {
        require(
            !self.facility.is_empty(),
            "channels.publish.facility",
            "is empty; name facilities, or [\"*\"]",
        )?;
        let to = match self.to.split_once(':') {
            Some(("channel", name)) if names.admit(name) => ChannelsDestination::Channel(name.to_owned()),
            Some(("group", name)) if names.admit(name) => ChannelsDestination::Group(name.to_owned()),
            _ => {
                return Err(invalid(
                    "channels.publish.to",
                    "expected channel:NAME or group:NAME, for example channel:incoming; the core layer allows letters, digits, -, _ and . in a name",
                ));
            }
        };
        // Channels makes a method's name of it, and refuses one that begins with an underscore.
        let is_method = |text: &str| {
            !text.starts_with(['_', '.'])
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
        };
        require(
            !self.kind.is_empty() && is_method(&self.kind),
            "channels.publish.type",
            "has to name a method of a consumer, for example page.message",
        )?;
        Ok(ChannelsPublishRule {
            facilities: FacilityPatterns::new(&self.facility),
            to,
            kind: self.kind.clone(),
        })
    }
}
