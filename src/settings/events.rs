//! `[events]`: what Django is told about clients, and where.

use serde::Deserialize;

use super::error::SettingsError;
use super::fields::{invalid, list, require};
use crate::access::FacilityPatterns;
use crate::wire::{AudienceKind, EventKind, EventKinds, Namespace};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEvents {
    to: String,
    #[serde(deserialize_with = "list")]
    what: Vec<String>,
    #[serde(deserialize_with = "list")]
    facility: Vec<String>,
    keep: u64,
}

/// Settings of `[events]`.
#[derive(Debug, Clone)]
pub struct EventsSettings {
    /// Where events go, as it is written.
    pub to: String,
    /// Where events go; none if Django is told nothing.
    pub destination: Option<EventDestination>,
    /// The kinds of events.
    pub what: EventKinds,
    /// The facilities whose clients events are about.
    pub facilities: FacilityPatterns,
    /// Events that a stream or a list keeps.
    pub keep: u64,
}

/// Where events go. The name is used as it is written, without the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventDestination {
    /// A stream.
    Stream(String),
    /// A list.
    List(String),
    /// A pub/sub channel.
    Channel(String),
}

impl EventDestination {
    fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        if name.is_empty() || name.chars().any(char::is_control) {
            return None;
        }
        let name = name.to_owned();
        Some(match kind {
            "stream" => Self::Stream(name),
            "list" => Self::List(name),
            "channel" => Self::Channel(name),
            _ => return None,
        })
    }

    /// Returns the name of the key or channel.
    pub fn name(&self) -> &str {
        let (Self::Stream(name) | Self::List(name) | Self::Channel(name)) = self;
        name
    }
}

impl EventsSettings {
    /// Returns whether Django is told who comes online and goes offline.
    pub fn tells_presence(&self) -> bool {
        let is_told = [EventKind::Online, EventKind::Offline].iter().any(|kind| self.what.contains(*kind));
        self.destination.is_some() && is_told
    }
}

impl RawEvents {
    /// Checks the section. `read_channels` are the channels that the gateway itself reads.
    pub(super) fn check(
        self,
        namespace: &Namespace,
        read_channels: &[String],
    ) -> Result<EventsSettings, SettingsError> {
        let destination = match self.to.as_str() {
            "" => None,
            text => Some(EventDestination::parse(text).ok_or_else(|| {
                invalid(
                    "events.to",
                    "expected stream:KEY, list:KEY or channel:NAME, for example stream:ws4redis:events",
                )
            })?),
        };
        if let Some(destination) = &destination {
            let name = destination.name();
            require(
                !is_audience(namespace, name),
                "events.to",
                "is a channel that clients can subscribe to; choose another name, for example stream:ws4redis:events",
            )?;
            require(
                !is_history(namespace, name),
                "events.to",
                "names a history of clients; choose another name, for example stream:ws4redis:events",
            )?;
            let is_read = matches!(destination, EventDestination::Channel(_))
                && (read_channels.iter().any(|channel| channel == name)
                    || name == namespace.control().as_str());
            require(
                !is_read,
                "events.to",
                "is a channel that the gateway itself reads; choose another name",
            )?;
        }
        let unknown = self.what.iter().find(|word| EventKind::parse(word).is_none());
        if let Some(unknown) = unknown {
            let known = EventKind::ALL.map(EventKind::word).join(", ");
            let hint = if unknown == "event" { "; socketio.client_events selects these events" } else { "" };
            return Err(SettingsError::Invalid {
                key: "events.what",
                problem: format!("{unknown:?} is not one of {known}{hint}"),
            });
        }
        Ok(EventsSettings {
            to: self.to,
            destination,
            what: self.what.iter().filter_map(|word| EventKind::parse(word)).collect(),
            facilities: FacilityPatterns::new(&self.facility),
            keep: self.keep,
        })
    }
}

/// Returns whether a name is that of a channel of clients.
fn is_audience(namespace: &Namespace, name: &str) -> bool {
    let rest = match namespace.as_str() {
        "" => Some(name),
        prefix => name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(':')),
    };
    let is_kind = |rest: &str| {
        AudienceKind::ALL
            .iter()
            .any(|kind| rest.strip_prefix(kind.word()).is_some_and(|rest| rest.starts_with(':')))
    };
    rest.is_some_and(is_kind)
}

/// Returns whether a name is that of a stream or a live channel of a history.
fn is_history(namespace: &Namespace, name: &str) -> bool {
    ["history:", "live:"].iter().any(|kind| name.starts_with(&namespace.own(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn load(assignments: &[&str]) -> Result<EventsSettings, String> {
        let assignments: Vec<_> = assignments.iter().map(|text| (*text).to_owned()).collect();
        let loaded = Settings::load(None, std::iter::empty(), &assignments);
        loaded.map(|(settings, _)| settings.events).map_err(|error| error.to_string())
    }

    #[test]
    fn the_name_of_a_destination_is_taken_as_written() {
        assert_eq!(load(&[]).unwrap().destination, None);
        for (to, expected) in [
            ("stream:ws4redis:events", EventDestination::Stream("ws4redis:events".into())),
            ("list:a", EventDestination::List("a".into())),
            ("channel:b:{c}", EventDestination::Channel("b:{c}".into())),
        ] {
            let loaded = load(&[&format!("events.to={to}"), "prefix=site"]).unwrap();
            assert_eq!(loaded.destination, Some(expected));
        }
        let what = load(&["events.what=connect, node"]).unwrap().what;
        assert!(what.contains(EventKind::Connect) && what.contains(EventKind::Node));
        assert!(!what.contains(EventKind::Message));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_cure() {
        for (assignments, expected) in [
            (vec!["events.to=ws4redis:events"], "events.to: expected stream:KEY"),
            (vec!["events.to=stream:"], "for example stream:ws4redis:events"),
            (vec!["events.to=list:a\u{7}"], "events.to: expected stream:KEY"),
            (vec!["events.to=channel:broadcast:x"], "events.to: is a channel that clients can subscribe to"),
            (vec!["events.to=list:p:user:x", "prefix=p"], "events.to: is a channel that clients"),
            (vec!["events.to=stream:ws4redis:history:broadcast:x"], "events.to: names a history of clients"),
            (
                vec!["events.to=channel:p:ws4redis:live:a", "prefix=p"],
                "events.to: names a history of clients",
            ),
            (vec!["events.to=channel:socketio"], "events.to: is a channel that the gateway itself reads"),
            (vec!["events.to=channel:ws4redis:control"], "events.to: is a channel that the gateway itself"),
            (vec!["events.what=connect,events"], "events.what: \"events\" is not one of connect, disconnect"),
            (vec!["events.what=event"], "socketio.client_events selects these events"),
            (vec!["events.keep=0"], "events.keep: must be an integer from 1 to 10000000"),
        ] {
            let error = load(&assignments).unwrap_err();
            assert!(error.contains(expected), "{assignments:?}: {error}");
        }
        assert!(load(&["events.to=list:p:user:x"]).is_ok());
    }
}
