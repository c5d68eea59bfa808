//! The facility and the audience that a message names.

use crate::wire::socket_io::push_json_string;
use crate::wire::{AudienceKind, Channel, HistoryNames, Namespace};

/// Finds the facility and the audience of a channel, by the same rules that made its name.
#[derive(Debug, Clone)]
pub struct LiveNames {
    namespace: Namespace,
    history: HistoryNames,
    facility_colons: bool,
}

impl Default for LiveNames {
    fn default() -> Self {
        let namespace = Namespace::default();
        Self::new(HistoryNames::new(&namespace, false), namespace, false)
    }
}

/// What the messages of a channel name: the beginning of their objects.
#[derive(Debug, PartialEq, Eq)]
pub struct LiveLabel {
    /// An object without its end.
    pub(super) head: Box<str>,
    /// Whether each message has its id before it.
    pub has_ids: bool,
}

impl LiveLabel {
    /// Returns the label whose text [`head`] has returned; its messages have no ids.
    pub fn of_head(head: &str) -> Self {
        Self { head: head.into(), has_ids: false }
    }
}

/// Returns the beginning of the objects of messages of a facility for an audience.
pub fn head(facility: &str, audience: &str) -> String {
    let mut head = r#"{"t":"msg","f":"#.to_owned();
    push_json_string(&mut head, facility);
    head.push_str(r#","a":"#);
    push_json_string(&mut head, audience);
    head
}

impl LiveNames {
    /// Creates the rule for the channels of a namespace. With `facility_colons` a facility may contain a colon, and the names
    /// of groups and users may not; otherwise it is the other way round.
    pub fn new(history: HistoryNames, namespace: Namespace, facility_colons: bool) -> Self {
        Self { namespace, history, facility_colons }
    }

    /// Returns what the messages of a channel name.
    pub fn label(&self, channel: &str) -> LiveLabel {
        let plain = self.history.plain_of_live(channel);
        let (audience, facility) = self.split(plain.as_ref().map_or(channel, Channel::as_str));
        LiveLabel { head: head(facility, audience).into(), has_ids: plain.is_some() }
    }

    /// Returns a channel as the operator sees it: without the key of a session. None for the channels with ids, whose
    /// listeners listen to the plain ones, too, and for those of keyspace events.
    pub fn shown(&self, channel: &str) -> Option<String> {
        if channel.starts_with("__keyspace@") || self.history.plain_of_live(channel).is_some() {
            return None;
        }
        let (audience, facility) = self.split(channel);
        if audience != AudienceKind::Session.word() {
            return Some(channel.to_owned());
        }
        let prefix = self.namespace.as_str();
        let colon = if prefix.is_empty() { "" } else { ":" };
        Some(format!("{prefix}{colon}{audience}:***:{facility}"))
    }

    /// Returns the audience and the facility of a channel. Neither a user's name nor the key of a session is part of the
    /// audience: the listener is that user.
    fn split<'a>(&self, channel: &'a str) -> (&'a str, &'a str) {
        let prefix = self.namespace.as_str();
        let own = channel.strip_prefix(prefix).unwrap_or(channel);
        let own = if prefix.is_empty() { own } else { own.strip_prefix(':').unwrap_or(own) };
        let (kind, rest) = own.split_once(':').unwrap_or((own, ""));
        if kind == "broadcast" {
            return (kind, rest);
        }
        let split = if self.facility_colons { rest.split_once(':') } else { rest.rsplit_once(':') };
        let (owner, facility) = split.unwrap_or((rest, ""));
        // A name without colons is of no channel that is granted.
        let group = own.get(..kind.len() + 1 + owner.len()).filter(|_| kind == "group");
        (group.unwrap_or(kind), facility)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Audience, Facility, SessionKey};

    proptest::proptest! {
        /// Every channel that the policy grants names its own facility and audience again.
        #[test]
        fn a_channel_names_its_facility_and_audience(
            prefix in "[a:]{0,3}",
            facility in "[a:\"]{0,4}",
            name in "[a:é]{1,4}",
            colons: bool,
        ) {
            let namespace = Namespace::new(&prefix);
            let history = HistoryNames::new(&namespace, false);
            let names = LiveNames::new(history.clone(), namespace.clone(), colons);
            let key = SessionKey::new("key");
            let audiences = [
                (Audience::Broadcast, "broadcast".to_owned()),
                (Audience::User(&name), "user".to_owned()),
                (Audience::Session(&key), "session".to_owned()),
                (Audience::Group(&name), format!("group:{name}")),
            ];
            for (audience, expected) in audiences {
                let shown = names.shown(namespace.channel(audience, &Facility::new(&facility)).as_str());
                proptest::prop_assert!(shown.is_some_and(|shown| !shown.contains("key")));
                let is_granted = if colons {
                    matches!(audience, Audience::Broadcast | Audience::Session(_)) || !name.contains(':')
                } else {
                    matches!(audience, Audience::Broadcast) || !facility.contains(':')
                };
                if is_granted {
                    let channel = namespace.channel(audience, &Facility::new(&facility));
                    proptest::prop_assert_eq!(names.split(channel.as_str()), (&*expected, &*facility));
                    let live = history.live(&channel).unwrap();
                    let (label, plain) = (names.label(live.as_str()), names.label(channel.as_str()));
                    proptest::prop_assert_eq!((&label.head, label.has_ids, plain.has_ids), (&plain.head, true, false));
                }
            }
        }
    }

    #[test]
    fn a_label_is_the_beginning_of_an_object() {
        let namespace = Namespace::new("p");
        let names = LiveNames::new(HistoryNames::new(&namespace, false), namespace, false);
        assert_eq!(&*names.label("p:group:a:b\"").head, r#"{"t":"msg","f":"b\"","a":"group:a""#);
        assert_eq!(&*names.label("p:user:john:x").head, r#"{"t":"msg","f":"x","a":"user""#);
        // No channel has such a name.
        assert_eq!(&*names.label("group").head, r#"{"t":"msg","f":"","a":"group""#);
    }
}
