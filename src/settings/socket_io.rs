//! `[socketio]`: clients of Socket.IO.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::admin::AdminLimits;
use super::bridges::{MessengerSettings, MountSettings, Mounts, RawMessenger, RawYunity, YunitySettings};
use super::client_events::{EventSelector, LoginSettings, RawLogin};
use super::error::SettingsError;
use super::fields::{invalid, list, require};
use super::namespace_pattern::NamespacePattern;
use crate::wire::engine_io::EngineVersion;
use crate::wire::{MAX_ROOM_BYTES, Mount, MountSet};

/// Shortest silence after which a client or the gateway may be given up: two ticks of a shard.
const MIN_SILENCE_MS: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSocketIo {
    pub(super) enabled: bool,
    path: String,
    #[serde(deserialize_with = "versions")]
    engine: Vec<EngineVersion>,
    #[serde(deserialize_with = "list")]
    transports: Vec<String>,
    upgrade_seconds: u32,
    eio3_repair_text: bool,
    eio3_ids: String,
    #[serde(deserialize_with = "list")]
    namespaces: Vec<String>,
    anonymous: bool,
    ping_interval_ms: u32,
    ping_timeout_ms: u32,
    connect_seconds: u32,
    max_payload_bytes: usize,
    max_attachments: usize,
    ack_seconds: u32,
    user_room: String,
    group_room: String,
    on_session_end: String,
    #[serde(deserialize_with = "list")]
    client_events: Vec<String>,
    events_per_second: u32,
    event_bytes_per_second: u32,
    #[serde(deserialize_with = "list")]
    auth_fields: Vec<String>,
    redis_manager: RawRedisManager,
    emitter: RawEmitter,
    yunity: RawYunity,
    messenger: RawMessenger,
    login: RawLogin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedisManager {
    enabled: bool,
    #[serde(deserialize_with = "list")]
    channels: Vec<String>,
    pickle: bool,
    list_argument: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEmitter {
    enabled: bool,
    key: String,
}

/// Settings of `[socketio]`.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct SocketIoSettings {
    /// The paths at which clients of Socket.IO are served, by the numbers of their mounts; none if all of it is off.
    pub mounts: Vec<MountSettings>,
    /// The protocols of Engine.IO that clients may use.
    pub versions: Vec<EngineVersion>,
    /// Whether clients may poll.
    pub polling: bool,
    /// Whether clients may use WebSockets.
    pub websocket: bool,
    /// Seconds within which a client has to complete the upgrade to a WebSocket.
    pub upgrade_seconds: u32,
    /// Whether text that JavaScript clients 1.x have encoded twice is decoded.
    pub eio3_repair_text: bool,
    /// Whether the id of a session of protocol 3 is also the public id of its client.
    pub eio3_same_ids: bool,
    /// The namespaces that exist.
    pub namespaces: Vec<NamespacePattern>,
    /// Whether anonymous visitors may connect.
    pub anonymous: bool,
    /// Time between two pings.
    pub ping_interval: Duration,
    /// Time for the answer to a ping.
    pub ping_timeout: Duration,
    /// Seconds within which a client has to connect to a namespace.
    pub connect_seconds: u32,
    /// Largest message, and largest attachment, from a client.
    pub max_payload_bytes: usize,
    /// Most attachments of a message.
    pub max_attachments: usize,
    /// Seconds for which an acknowledgement of a client is passed on.
    pub ack_seconds: u32,
    /// The room that a user's sockets are in.
    pub user_room: Option<RoomTemplate>,
    /// The rooms that the sockets of a group's members are in.
    pub group_room: Option<RoomTemplate>,
    /// Whether the end of a visitor's session disconnects its clients from their namespaces, so that they stay away.
    pub disconnects_ended_sessions: bool,
    /// The events of clients that Django gets.
    pub client_events: Vec<EventSelector>,
    /// Events that a client may send per second; 0 means unlimited.
    pub events_per_second: u32,
    /// Bytes of events that a client may send per second; 0 means unlimited.
    pub event_bytes_per_second: u32,
    /// The fields of a client's credentials that Django is told when it connects; `*` for all but the token.
    pub auth_fields: Vec<String>,
    /// The event that clients send to log in.
    pub login: LoginSettings,
    /// Channels of python-socketio's `RedisManager`.
    pub redis_manager: RedisManagerSettings,
    /// Emitters of Node.
    pub emitter: EmitterSettings,
    /// The bridge for yunity-sockets.
    pub yunity: YunitySettings,
    /// The bridge for the messenger.
    pub messenger: MessengerSettings,
}

/// Settings of `[socketio.emitter]`.
#[derive(Debug, Clone)]
pub struct EmitterSettings {
    /// Whether their messages are read.
    pub is_enabled: bool,
    /// The key that all their channels begin with.
    pub key: String,
}

/// Settings of `[socketio.redis_manager]`.
#[derive(Debug, Clone)]
pub struct RedisManagerSettings {
    /// The channels; none if it is off.
    pub channels: Vec<String>,
    /// Whether messages in pickle are read.
    pub pickle: bool,
    /// What a list in `data` means.
    pub list_argument: ListArgument,
}

/// The meaning of a list in the `data` of an event in JSON, which differs between releases of python-socketio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListArgument {
    /// The arguments (5.15.1 and later), unless the publisher has proved to be older.
    Auto,
    /// The arguments.
    Arguments,
    /// One argument (5.14.2 to 5.15.0).
    Single,
}

/// The name of a room with a placeholder for a user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomTemplate {
    before: String,
    after: String,
}

impl RoomTemplate {
    /// Returns the template; `None` for an empty text.
    fn parse(text: &str, placeholder: &str, key: &'static str) -> Result<Option<Self>, SettingsError> {
        if text.is_empty() {
            return Ok(None);
        }
        let parts = text.split_once(placeholder).filter(|(_, after)| !after.contains(placeholder));
        let (before, after) = parts.ok_or_else(|| {
            invalid(key, &format!("must contain {placeholder} once, for example ws4redis:{placeholder}"))
        })?;
        // Otherwise a name alone could be mistaken for a room of the site.
        require(!before.is_empty(), key, "must have a prefix, for example ws4redis:")?;
        require(text.len() <= MAX_ROOM_BYTES, key, "must not be longer than 256 bytes")?;
        Ok(Some(Self { before: before.to_owned(), after: after.to_owned() }))
    }

    /// Returns the room of a user or a group.
    pub fn room(&self, name: &str) -> String {
        [&self.before, name, &self.after].concat()
    }

    /// Returns whether a room has a name of this form.
    pub fn matches(&self, room: &str) -> bool {
        room.strip_prefix(self.before.as_str()).is_some_and(|rest| rest.ends_with(self.after.as_str()))
    }
}

impl SocketIoSettings {
    /// Returns the settings of a mount.
    pub fn mount(&self, mount: Mount) -> Option<&MountSettings> {
        self.mounts.get(mount.number())
    }

    /// Returns the mounts for which `is_meant` is true.
    pub fn mounts_with(&self, is_meant: impl Fn(&MountSettings) -> bool) -> MountSet {
        let mounts = self.mounts.iter().enumerate().filter(|(_, mount)| is_meant(mount));
        mounts.filter_map(|(number, _)| Mount::new(number)).collect()
    }
}

impl RawSocketIo {
    pub(super) fn check(
        self,
        websocket_path: &str,
        limits: AdminLimits,
    ) -> Result<SocketIoSettings, SettingsError> {
        let mut mounts = Mounts::default();
        mounts.add("socketio.path", &self.path, self.enabled, |mount| {
            mount.is_main = true;
            mount.redis_manager = self.redis_manager.enabled;
        })?;
        let yunity = self.yunity.check(&mut mounts, limits)?;
        let messenger = self.messenger.check(&mut mounts)?;
        let mounts = mounts.finish(websocket_path)?;
        require(!self.engine.is_empty(), "socketio.engine", "must contain 3, 4 or both")?;
        let uses = |transport: &str| self.transports.iter().any(|name| name == transport);
        let (polling, websocket) = (uses("polling"), uses("websocket"));
        let is_known = |name: &String| name == "polling" || name == "websocket";
        require(
            (polling || websocket) && self.transports.iter().all(is_known),
            "socketio.transports",
            "must contain polling, websocket or both",
        )?;
        let namespaces: Option<Vec<_>> =
            self.namespaces.iter().map(|name| NamespacePattern::parse(name)).collect();
        let namespaces = namespaces.filter(|names| !names.is_empty()).ok_or_else(|| {
            invalid(
                "socketio.namespaces",
                "expected names such as / and /chat, or a prefix such as /room-* without commas",
            )
        })?;
        // The shard's tick sends pings, every 250 ms.
        require(
            self.ping_interval_ms + self.ping_timeout_ms >= MIN_SILENCE_MS,
            "socketio.ping_timeout_ms",
            "must be at least 500 together with socketio.ping_interval_ms",
        )?;
        // Clients of Engine.IO 3 are connected to it without asking.
        let has_main = namespaces.iter().any(|namespace| namespace.admits("/"));
        let needs_main = self.engine.contains(&EngineVersion::V3);
        require(
            has_main || !needs_main,
            "socketio.namespaces",
            "must contain / as long as socketio.engine contains 3",
        )?;
        let emitter = self.emitter.check(&self.namespaces)?;
        Ok(SocketIoSettings {
            mounts,
            versions: self.engine,
            polling,
            websocket,
            upgrade_seconds: self.upgrade_seconds,
            eio3_repair_text: self.eio3_repair_text,
            eio3_same_ids: choice(&self.eio3_ids, "socketio.eio3_ids", ["alias", "same"])?,
            namespaces,
            anonymous: self.anonymous,
            ping_interval: Duration::from_millis(self.ping_interval_ms.into()),
            ping_timeout: Duration::from_millis(self.ping_timeout_ms.into()),
            connect_seconds: self.connect_seconds,
            max_payload_bytes: self.max_payload_bytes,
            max_attachments: self.max_attachments,
            ack_seconds: self.ack_seconds,
            user_room: RoomTemplate::parse(&self.user_room, "{user}", "socketio.user_room")?,
            group_room: RoomTemplate::parse(&self.group_room, "{group}", "socketio.group_room")?,
            disconnects_ended_sessions: choice(
                &self.on_session_end,
                "socketio.on_session_end",
                ["close", "disconnect"],
            )?,
            client_events: EventSelector::parse_all(&self.client_events)?,
            events_per_second: self.events_per_second,
            event_bytes_per_second: self.event_bytes_per_second,
            auth_fields: self.auth_fields,
            login: self.login.check()?,
            redis_manager: self.redis_manager.check()?,
            emitter,
            yunity,
            messenger,
        })
    }
}

impl RawRedisManager {
    fn check(self) -> Result<RedisManagerSettings, SettingsError> {
        let is_named = |name: &String| !name.is_empty() && !name.chars().any(char::is_control);
        let are_named = !self.channels.is_empty() && self.channels.iter().all(is_named);
        require(
            are_named,
            "socketio.redis_manager.channels",
            "must be names of channels, for example socketio",
        )?;
        let list_argument = match self.list_argument.as_str() {
            "auto" => ListArgument::Auto,
            "g4" => ListArgument::Arguments,
            "g3" => ListArgument::Single,
            _ => return Err(invalid("socketio.redis_manager.list_argument", "expected auto, g4 or g3")),
        };
        let channels = if self.enabled { self.channels } else { Vec::new() };
        Ok(RedisManagerSettings { channels, pickle: self.pickle, list_argument })
    }
}

/// Returns whether a value is the second of two choices, and not the first.
fn choice(value: &str, key: &'static str, choices: [&str; 2]) -> Result<bool, SettingsError> {
    let [first, second] = choices;
    let unknown = || invalid(key, &format!("expected {first} or {second}"));
    choices.iter().position(|choice| *choice == value).map(|index| index == 1).ok_or_else(unknown)
}

impl RawEmitter {
    fn check(self, namespaces: &[String]) -> Result<EmitterSettings, SettingsError> {
        let is_valid = !self.key.is_empty() && !self.key.chars().any(char::is_control);
        require(is_valid, "socketio.emitter.key", "must be the key of the emitters, for example socket.io")?;
        // Channels are named KEY#NAMESPACE#ROOM#: a message of such a namespace would arrive by two patterns.
        let has_separator = self.enabled && namespaces.iter().any(|namespace| namespace.contains('#'));
        require(
            !has_separator,
            "socketio.namespaces",
            "must not contain # while socketio.emitter is enabled",
        )?;
        Ok(EmitterSettings { is_enabled: self.enabled, key: self.key })
    }
}

/// Deserializes a list of versions, or a comma-separated string, as environment variables have it.
fn versions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<EngineVersion>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum NumbersOrText {
        Numbers(Vec<i64>),
        Text(String),
    }
    let texts: Vec<String> = match NumbersOrText::deserialize(deserializer)? {
        NumbersOrText::Numbers(numbers) => numbers.iter().map(i64::to_string).collect(),
        NumbersOrText::Text(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
    };
    let read = |text: &String| {
        let unknown = || serde::de::Error::custom("socketio.engine: expected [3], [4] or [3, 4]");
        EngineVersion::from_query(text).ok_or_else(unknown)
    };
    texts.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_of_a_user_has_a_prefix_and_one_placeholder() {
        let parse = |text| RoomTemplate::parse(text, "{user}", "socketio.user_room");
        assert_eq!(parse("").unwrap(), None);
        let template = parse("ws4redis:user:{user}").unwrap().unwrap();
        assert_eq!(template.room("john"), "ws4redis:user:john");
        assert!(template.matches("ws4redis:user:42") && !template.matches("user:42"));
        for invalid in ["{user}", "user", "a{user}{user}"] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
