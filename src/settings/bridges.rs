//! `[socketio.yunity]` and `[socketio.messenger]`: the bridges, and the mounts that result from all paths together.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::admin::{AdminLimits, AdminSettings};
use super::error::SettingsError;
use super::fields::{invalid, list, require, seconds};
use crate::wire::Mount;

/// The tasks of the messenger that are built in: name, event, receivers, data.
const TASKS: &[[&str; 4]] = &[
    ["user_online", "server-action:update_user_online", "all", "{message}"],
    ["user_offline", "server-action:update_user_online", "all", "{message}"],
    ["update_user", "server-action:update_user_online", "all", "{message}"],
    ["send_chat_message_to_sids", "server-action:chat_message", "{sids}", r#"{"data":{message}}"#],
    ["put_to_socket", "{data.action}", "{data.socket_id}", r#"{"data":{data}}"#],
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawYunity {
    enabled: bool,
    #[serde(deserialize_with = "list")]
    path: Vec<String>,
    redis_manager: bool,
    channel: String,
    session_keys: String,
    recheck_seconds: u32,
    admin_listen: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMessenger {
    enabled: bool,
    path: String,
    redis_manager: bool,
    channel: String,
    connections_key: String,
    #[serde(deserialize_with = "tasks")]
    tasks: Vec<RawTask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    task: String,
    event: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

/// Settings of `[socketio.yunity]`, apart from its mounts.
#[derive(Debug, Clone)]
pub struct YunitySettings {
    /// The channel of notifications.
    pub channel: String,
    /// The key of a session id, before and after the id.
    session_keys: (String, String),
    /// Time after which a session key is read again, if Redis publishes no events.
    pub recheck: Duration,
    /// The listener for the list of clients, if there is one.
    pub admin: Option<AdminSettings>,
}

/// Settings of `[socketio.messenger]`, apart from its mount.
#[derive(Debug, Clone)]
pub struct MessengerSettings {
    /// The channel of tasks.
    pub channel: String,
    /// The key in which connections are gathered, if they are.
    pub connections_key: Option<String>,
    /// The tasks: those of the site, then those that are built in.
    pub tasks: Vec<MessengerTask>,
}

/// What a task of the messenger sends, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessengerTask {
    /// The name of the task.
    pub task: String,
    /// The name of the event.
    pub event: Vec<TaskText>,
    /// The member of the message that has the receivers; none for all clients.
    pub to: Option<Box<[Box<str>]>>,
    /// The JSON of the argument.
    pub data: Vec<TaskText>,
}

/// A part of a text with members of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskText {
    /// Text as it stands.
    Literal(String),
    /// A member by its path; the whole message if it is empty.
    Member(Box<[Box<str>]>),
}

/// One path of Socket.IO clients, and what reaches them there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a source of its own")]
pub struct MountSettings {
    /// The path, without its last slash.
    pub path: String,
    /// Whether it is that of `socketio.path`.
    pub is_main: bool,
    /// Whether the messages of `RedisManager` reach it.
    pub redis_manager: bool,
    /// Whether clients of yunity-sockets use it.
    pub yunity: bool,
    /// Whether clients of the messenger use it.
    pub messenger: bool,
}

/// The mounts that are found so far. The same path is one mount.
#[derive(Default)]
pub(super) struct Mounts(Vec<MountSettings>);

impl Mounts {
    /// Checks a path and, if it is served, adds it, and to its mount what `mark` sets.
    pub(super) fn add(
        &mut self,
        key: &'static str,
        path: &str,
        is_served: bool,
        mark: impl FnOnce(&mut MountSettings),
    ) -> Result<(), SettingsError> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_path = path.len() > 1 && path.starts_with('/') && !path.contains(|c: char| "?#% ".contains(c));
        require(is_path, key, "must be a path with a slash at both ends, for example /socket.io/")?;
        if !is_served {
            return Ok(());
        }
        let Self(mounts) = self;
        let index = mounts.iter().position(|mount| mount.path == path).unwrap_or_else(|| {
            let (is_main, redis_manager, yunity, messenger) = Default::default();
            mounts.push(MountSettings { path: path.to_owned(), is_main, redis_manager, yunity, messenger });
            mounts.len() - 1
        });
        require(index < Mount::MAX, key, "has too many paths: at most 8 in all")?;
        mark(&mut mounts[index]);
        Ok(())
    }

    /// Returns the mounts.
    pub(super) fn finish(self, websocket_path: &str) -> Result<Vec<MountSettings>, SettingsError> {
        let websocket_path = websocket_path.trim_end_matches('/');
        for MountSettings { path, is_main, yunity, .. } in &self.0 {
            let key = match (is_main, yunity) {
                (true, _) => "socketio.path",
                (false, true) => "socketio.yunity.path",
                (false, false) => "socketio.messenger.path",
            };
            require(path != websocket_path, key, "is also websocket_url")?;
        }
        Ok(self.0)
    }
}

impl YunitySettings {
    /// Returns the key of a session id.
    pub fn key(&self, id: &str) -> String {
        let (before, after) = &self.session_keys;
        [before, id, after].concat()
    }

    /// Returns the session id of a key; `None` for any other key.
    pub fn session_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let (before, after) = &self.session_keys;
        key.strip_prefix(before.as_str())?.strip_suffix(after.as_str())
    }
}

impl TaskText {
    /// Splits a text at its places, which are names of members in braces, as in `{data.action}`. Other braces are JSON.
    fn parse(text: &str) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('{') {
            literal.push_str(&rest[..start]);
            let inner = &rest[start + 1..];
            let length =
                inner.find(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c))).unwrap_or(inner.len());
            if length > 0 && inner[length..].starts_with('}') {
                if !literal.is_empty() {
                    parts.push(Self::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Self::Member(path(&inner[..length])));
                rest = &inner[length + 1..];
            } else {
                literal.push('{');
                rest = inner;
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Self::Literal(literal));
        }
        parts
    }
}

/// Returns the path of a member; `message` is the whole message.
fn path(text: &str) -> Box<[Box<str>]> {
    if text == "message" { Box::default() } else { text.split('.').map(Into::into).collect() }
}

impl MessengerTask {
    fn parse(task: &str, event: &str, to: &str, data: &str) -> Result<Self, SettingsError> {
        let key = "socketio.messenger.tasks";
        require(!task.is_empty() && !event.is_empty(), key, "each needs a task and an event")?;
        let to = if to == "all" {
            None
        } else {
            let name =
                to.strip_prefix('{').and_then(|to| to.strip_suffix('}')).filter(|name| !name.is_empty());
            Some(path(name.ok_or_else(|| invalid(key, "to has to be all, or a member such as {sids}"))?))
        };
        Ok(Self { task: task.to_owned(), event: TaskText::parse(event), to, data: TaskText::parse(data) })
    }
}

/// Deserializes the tables; an environment variable cannot hold any.
fn tasks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RawTask>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TablesOrText {
        Tables(Vec<RawTask>),
        Text(String),
    }
    match TablesOrText::deserialize(deserializer)? {
        TablesOrText::Tables(tables) => Ok(tables),
        TablesOrText::Text(text) if text.is_empty() => Ok(Vec::new()),
        TablesOrText::Text(_) => Err(serde::de::Error::custom("socketio.messenger.tasks: expected tables")),
    }
}

fn check_channel(channel: &str, key: &'static str) -> Result<(), SettingsError> {
    let is_named = !channel.is_empty() && !channel.chars().any(char::is_control);
    require(is_named, key, "must be the name of a channel, for example notifications")
}

impl RawYunity {
    pub(super) fn check(
        self,
        mounts: &mut Mounts,
        limits: AdminLimits,
    ) -> Result<YunitySettings, SettingsError> {
        require(!self.path.is_empty(), "socketio.yunity.path", "is empty; set it to the clients' path")?;
        for path in &self.path {
            mounts.add("socketio.yunity.path", path, self.enabled, |mount| {
                mount.yunity = true;
                mount.redis_manager |= self.redis_manager;
            })?;
        }
        check_channel(&self.channel, "socketio.yunity.channel")?;
        let parts = self.session_keys.split_once("{session}");
        let (before, after) = parts.filter(|(_, after)| !after.contains("{session}")).ok_or_else(|| {
            invalid(
                "socketio.yunity.session_keys",
                "must contain {session} once, as in session-store-{session}",
            )
        })?;
        let session_keys = (before.to_owned(), after.to_owned());
        let admin = AdminSettings::loopback(self.admin_listen, "socketio.yunity.admin_listen", limits)?;
        Ok(YunitySettings {
            channel: self.channel,
            session_keys,
            recheck: seconds(self.recheck_seconds),
            admin: admin.filter(|_| self.enabled),
        })
    }
}

impl RawMessenger {
    pub(super) fn check(self, mounts: &mut Mounts) -> Result<MessengerSettings, SettingsError> {
        mounts.add("socketio.messenger.path", &self.path, self.enabled, |mount| {
            mount.messenger = true;
            mount.redis_manager |= self.redis_manager;
        })?;
        check_channel(&self.channel, "socketio.messenger.channel")?;
        let is_key = !self.connections_key.chars().any(char::is_control);
        require(is_key, "socketio.messenger.connections_key", "must not hold control characters")?;
        let own = self.tasks.iter().map(|RawTask { task, event, to, data }| {
            let (to, data) = (to.as_deref().unwrap_or("all"), data.as_deref().unwrap_or("{message}"));
            MessengerTask::parse(task, event, to, data)
        });
        let built_in =
            TASKS.iter().map(|[task, event, to, data]| MessengerTask::parse(task, event, to, data));
        Ok(MessengerSettings {
            channel: self.channel,
            connections_key: Some(self.connections_key).filter(|key| !key.is_empty()),
            tasks: own.chain(built_in).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn a_text_of_a_task_has_literals_and_members() {
        let literal = |text: &str| TaskText::Literal(text.to_owned());
        let member = |path: &[&str]| TaskText::Member(path.iter().map(|&name| name.into()).collect());
        assert_eq!(TaskText::parse("event"), [literal("event")]);
        assert_eq!(TaskText::parse("{data.action}"), [member(&["data", "action"])]);
        assert_eq!(
            TaskText::parse(r#"{"data":{message},"x":{}}"#),
            [literal(r#"{"data":"#), member(&[]), literal(r#","x":{}}"#)]
        );
        assert!(MessengerTask::parse("t", "e", "sids", "{message}").is_err());
        assert!(MessengerTask::parse("t", "", "all", "{message}").is_err());
    }

    #[test]
    fn a_session_key_has_its_id_between_two_texts() {
        let (settings, _) = Settings::load(None, std::iter::empty(), &[]).unwrap();
        let yunity = &settings.socket_io.yunity;
        assert_eq!(yunity.key("s1"), "session-store-s1");
        assert_eq!(yunity.session_of("session-store-s1"), Some("s1"));
        assert_eq!(yunity.session_of("session-s1"), None);
    }

    #[test]
    fn the_list_has_the_limits_of_the_admin_listener_and_needs_the_bridge() {
        let listener = |enabled: bool, listen: &str| {
            let assignments = [
                format!("socketio.yunity.enabled={enabled}"),
                format!("socketio.yunity.admin_listen={listen}"),
                "admin.max_connections=7".to_owned(),
                "admin.request_seconds=3".to_owned(),
            ];
            let loaded = Settings::load(None, std::iter::empty(), &assignments);
            loaded.map(|(settings, _)| settings.socket_io.yunity.admin)
        };
        for listen in ["127.0.0.1:5001", "localhost:5001", "[::1]:5001"] {
            let settings = listener(true, listen).unwrap().unwrap();
            assert_eq!(settings.listen.to_string(), listen);
            assert_eq!((settings.max_connections, settings.request), (7, Duration::from_secs(3)));
            assert!(settings.is_local && settings.token.is_none() && settings.hosts.is_empty());
            assert!(listener(false, listen).unwrap().is_none());
        }
        assert!(listener(true, "").unwrap().is_none());
        for (wrong, expected) in [
            ("5001", "expected host:port"),
            ("unix:/run/list.sock", "expected host:port"),
            ("0.0.0.0:5001", "other machines can reach this address"),
            ("gateway.internal:5001", "other machines can reach this address"),
        ] {
            let error = listener(true, wrong).unwrap_err().to_string();
            let expected = format!("socketio.yunity.admin_listen: {expected}");
            assert!(error.contains(&expected), "{wrong}: {error}");
        }
    }

    fn mounts(assignments: &[&str]) -> Result<Vec<String>, String> {
        let assignments: Vec<_> = assignments.iter().map(|text| format!("socketio.{text}")).collect();
        let loaded = Settings::load(None, std::iter::empty(), &assignments);
        let (settings, _) = loaded.map_err(|error| error.to_string())?;
        let describe = |mount: &MountSettings| {
            let MountSettings { path, is_main, redis_manager, yunity, messenger } = mount;
            let marks =
                [(is_main, "main"), (redis_manager, "manager"), (yunity, "yunity"), (messenger, "messenger")];
            let marks = marks.into_iter().filter(|(is_set, _)| **is_set);
            marks.fold(path.clone(), |text, (_, name)| text + " " + name)
        };
        Ok(settings.socket_io.mounts.iter().map(describe).collect())
    }

    #[test]
    fn each_path_is_one_mount_and_bridges_are_no_part_of_the_main_one() {
        let (yunity, messenger) = ("yunity.enabled=true", "messenger.enabled=true");
        assert_eq!(mounts(&[]).unwrap(), [""; 0]);
        assert_eq!(mounts(&["enabled=true"]).unwrap(), ["/socket.io main manager"]);
        assert_eq!(mounts(&[yunity]).unwrap(), ["/socket yunity"]);
        assert_eq!(
            mounts(&["enabled=true", yunity, messenger, "messenger.redis_manager=true"]).unwrap(),
            ["/socket.io main manager", "/socket yunity", "/websocket manager messenger"]
        );
        assert_eq!(
            mounts(&["enabled=true", yunity, "yunity.path=/socket.io/,/a"]).unwrap(),
            ["/socket.io main manager yunity", "/a yunity"]
        );
        assert_eq!(
            mounts(&[yunity, messenger, "messenger.path=/socket"]).unwrap(),
            ["/socket yunity messenger"]
        );
        assert_eq!(
            mounts(&["enabled=true", "redis_manager.enabled=false"]).unwrap(),
            ["/socket.io main"],
            "nothing reaches it from RedisManager"
        );
        for (wrong, expected) in [
            ("yunity.path=", "socketio.yunity.path: is empty"),
            ("yunity.path=socket", "socketio.yunity.path: must be a path"),
            ("yunity.path=/ws/", "socketio.yunity.path: is also websocket_url"),
            ("messenger.path=/ws", "socketio.messenger.path: is also websocket_url"),
            ("yunity.path=/1,/2,/3,/4,/5,/6,/7,/8", "socketio.messenger.path: has too many paths"),
        ] {
            let error = mounts(&[yunity, messenger, wrong]).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }
}
