//! The channels of the bridges: notifications of yunity-sockets have `users`, those of the messenger have a `task`. Both may
//! use the same channel.

use std::borrow::Cow;

use tracing::debug;

use super::Instruction;
use super::redis_manager::MAX_NAMES;
use crate::settings::{MessengerTask, SocketIoSettings, TaskText};
use crate::wire::socket_io::{
    EventData, JsonElements, JsonMembers, MessageLimits, push_json_string, unescape_json,
};
use crate::wire::{EmitTarget, MAX_ROOM_BYTES, Message};

/// The task that gathers the open connections.
const GATHER: &str = "gather_active_connections";

/// The event that asks the messenger's clients to report themselves.
const GATHER_EVENT: &str = "server-action:ping";
const GATHER_DATA: &str = r#"{"message":"report your connection"}"#;

/// The event of yunity-sockets.
const MESSAGE: &str = r#""message""#;

/// The namespace of both.
const NAMESPACE: &str = "/";

/// Reads the messages of both bridges.
#[derive(Debug)]
pub struct NotificationReader {
    /// The channel of yunity-sockets, if that bridge is on.
    yunity: Option<Box<[u8]>>,
    /// The channel of the messenger, if that bridge is on.
    messenger: Option<Box<[u8]>>,
    tasks: Vec<MessengerTask>,
    gathers: bool,
    limits: MessageLimits,
}

/// What a message of the bridges asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BridgeOrders {
    /// An event for users of yunity-sockets, each as often as it is named.
    pub notification: Option<(Box<[Box<str>]>, EventData)>,
    /// Events for clients of the messenger.
    pub emits: Vec<(EmitTarget, EventData)>,
    /// Whether the list of the messenger's connections starts anew.
    pub gathers: bool,
}

impl NotificationReader {
    /// Creates a reader.
    pub fn new(settings: &SocketIoSettings, limits: MessageLimits) -> Self {
        let has = |is_meant: fn(&crate::settings::MountSettings) -> bool| {
            !settings.mounts_with(is_meant).is_empty()
        };
        let SocketIoSettings { yunity, messenger, .. } = settings;
        Self {
            yunity: has(|mount| mount.yunity).then(|| yunity.channel.as_bytes().into()),
            messenger: has(|mount| mount.messenger).then(|| messenger.channel.as_bytes().into()),
            tasks: messenger.tasks.clone(),
            gathers: messenger.connections_key.is_some(),
            limits,
        }
    }

    /// Returns what a message asks for; `None` if it is malformed, or of a wrong form.
    pub(super) fn read(&self, message: &Message) -> Option<Instruction> {
        let is_on = |channel: &Option<Box<[u8]>>| channel.as_deref() == Some(message.channel());
        let text = std::str::from_utf8(message.payload()).ok()?;
        let mut orders = BridgeOrders::default();
        let mut is_read = false;
        if is_on(&self.yunity) && member(text, "users").is_some() {
            orders.notification = Some(self.notification(text)?);
            is_read = true;
        }
        if is_on(&self.messenger)
            && let Some(task) = member(text, "task")
        {
            self.run_task(&unescape_json(task)?, text, &mut orders)?;
            is_read = true;
        }
        // A message for another server, if it is an object at all.
        JsonMembers::new(text)?.all(|member| member.is_ok()).then_some(())?;
        Some(if is_read { Instruction::Bridge(Box::new(orders)) } else { Instruction::Ignore })
    }

    /// Returns the users of a notification, and its event: all members but `users`, or the value of `data` alone where there
    /// is no `payload`, as releases before 2015-10-10 had it.
    fn notification(&self, text: &str) -> Option<(Box<[Box<str>]>, EventData)> {
        let users = JsonElements::new(member(text, "users")?)?;
        let users = users.map(|user| user_of(user.ok()?)).take(MAX_NAMES + 1);
        let users = users.collect::<Option<Box<[_]>>>().filter(|users| users.len() <= MAX_NAMES)?;
        let argument = if member(text, "payload").is_some() {
            let mut object = String::with_capacity(text.len());
            for item in JsonMembers::new(text)? {
                let (key, value) = item.ok()?;
                if unescape_json(key)? != "users" {
                    object.push(if object.is_empty() { '{' } else { ',' });
                    object.extend([key, ":", value]);
                }
            }
            Cow::Owned(object + "}")
        } else {
            Cow::Borrowed(member(text, "data")?)
        };
        let event = EventData::from_json(Some(MESSAGE), [&*argument], Vec::new(), false, self.limits);
        Some((users, event.ok()?))
    }

    /// Adds what a task asks for; `None` if a member that it needs is missing, or has a wrong kind.
    fn run_task(&self, name: &str, text: &str, orders: &mut BridgeOrders) -> Option<()> {
        if name == GATHER && self.gathers {
            orders.gathers = true;
            self.emit(None, GATHER_EVENT, GATHER_DATA, orders)?;
            debug!(task = name, to = "all", "task of the messenger");
            return Some(());
        }
        // Rules of the site come first, so that they can replace those that are built in.
        let task = self.tasks.iter().find(|task| task.task == name)?;
        let event = fill(&task.event, text, Filling::Text)?;
        let data = fill(&task.data, text, Filling::Json)?;
        match &task.to {
            None => {
                self.emit(None, &event, &data, orders)?;
                debug!(task = name, to = "all", "task of the messenger");
            }
            Some(path) => {
                let value = at_path(text, path)?;
                let rooms: Vec<&str> = match JsonElements::new(value) {
                    Some(elements) => elements.take(MAX_NAMES + 1).collect::<Result<_, _>>().ok()?,
                    None => vec![value],
                };
                if rooms.len() > MAX_NAMES {
                    return None;
                }
                for room in &rooms {
                    self.emit(Some(user_of(room)?), &event, &data, orders)?;
                }
                debug!(task = name, receivers = rooms.len(), "task of the messenger");
            }
        }
        Some(())
    }

    fn emit(&self, room: Option<Box<str>>, event: &str, data: &str, orders: &mut BridgeOrders) -> Option<()> {
        let mut name = String::new();
        push_json_string(&mut name, event);
        let target = EmitTarget {
            namespace: NAMESPACE.into(),
            rooms: room.map(|room| vec![room]),
            ..EmitTarget::default()
        };
        let event = EventData::from_json(Some(&name), [data], Vec::new(), false, self.limits).ok()?;
        orders.emits.push((target, event));
        Some(())
    }
}

/// How the value of a member is put into a text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filling {
    /// Only a text or a number, without its quotes.
    Text,
    /// As it stands.
    Json,
}

/// Replaces the places of a text by members of the message.
fn fill(parts: &[TaskText], message: &str, filling: Filling) -> Option<String> {
    let mut filled = String::new();
    for part in parts {
        match part {
            TaskText::Literal(text) => filled.push_str(text),
            TaskText::Member(path) if filling == Filling::Json => filled.push_str(at_path(message, path)?),
            TaskText::Member(path) => filled.push_str(&user_of(at_path(message, path)?)?),
        }
    }
    Some(filled)
}

/// Returns the raw value of a member; of one that is given twice the last.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let members = JsonMembers::new(text)?.flatten();
    members
        .filter(|(key, _)| unescape_json(key).is_some_and(|key| key == name))
        .last()
        .map(|(_, value)| value)
}

/// Returns the raw value at a path of members; the whole message for an empty path.
fn at_path<'a>(message: &'a str, path: &[Box<str>]) -> Option<&'a str> {
    path.iter().try_fold(message, |value, name| member(value, name))
}

/// Returns the name of a user, a room or an event: a text, or a number, which names the same.
fn user_of(raw: &str) -> Option<Box<str>> {
    let name = match raw.as_bytes() {
        [b'"', ..] => unescape_json(raw)?,
        [b'-' | b'0'..=b'9', ..] => raw.into(),
        _ => return None,
    };
    (name.len() <= MAX_ROOM_BYTES).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn read(payload: &str) -> Option<Instruction> {
        let assignments = ["yunity.enabled=true", "messenger.enabled=true", "messenger.connections_key=k"];
        let assignments = assignments.map(|text| format!("socketio.{text}"));
        let (settings, _) = Settings::load(None, std::iter::empty(), &assignments).unwrap();
        let limits =
            MessageLimits { text_bytes: 10_000, attachments: 0, attachment_bytes: 0, total_bytes: 10_000 };
        let channel = "notifications";
        let bytes = format!("{channel}{payload}");
        let end = bytes.len();
        let message = Message::new(bytes.into(), 0..channel.len(), channel.len()..end);
        NotificationReader::new(&settings.socket_io, limits).read(&message)
    }

    fn orders(payload: &str) -> BridgeOrders {
        match read(payload) {
            Some(Instruction::Bridge(orders)) => *orders,
            other => panic!("{payload}: {other:?}"),
        }
    }

    #[test]
    fn a_notification_is_all_but_its_users() {
        let notification = |payload: &str| {
            let (users, event) = orders(payload).notification.unwrap();
            let users: Vec<String> = users.iter().map(|user| String::from(&**user)).collect();
            (users.join(" "), event.json().to_owned())
        };
        for (payload, users, event) in [
            (
                r#"{"users": ["user1", 23, "23"], "type": "foo", "payload": {"a": "b"}}"#,
                "user1 23 23",
                r#"["message",{"type":"foo","payload":{"a":"b"}}]"#,
            ),
            (r#"{"payload":null,"users":["a"]}"#, "a", r#"["message",{"payload":null}]"#),
            (r#"{"users":[1],"data":{"x":1}}"#, "1", r#"["message",{"x":1}]"#),
            (r#"{"users":[],"payload":1}"#, "", r#"["message",{"payload":1}]"#),
        ] {
            assert_eq!(notification(payload), (users.to_owned(), event.to_owned()), "{payload}");
        }
        for ignored in [
            "not json",
            "null",
            "[]",
            r#"{"users":"user1","payload":{}}"#,
            r#"{"users":["user1"]}"#,
            r#"{"users":[{}],"payload":1}"#,
            r#"{"task":"user_online""#,
            r#"{"task":"nonsense"}"#,
        ] {
            assert_eq!(read(ignored), None, "{ignored}");
        }
        assert_eq!(read(r#"{"other":1}"#), Some(Instruction::Ignore));
    }

    #[test]
    fn tasks_become_events() {
        let emits = |payload: &str| -> Vec<(Option<String>, String)> {
            let emits = orders(payload).emits;
            let room = |target: &EmitTarget| target.rooms.as_ref().map(|rooms| String::from(&*rooms[0]));
            emits.iter().map(|(target, event)| (room(target), event.json().to_owned())).collect()
        };
        let online = r#"{"task":"user_online","user":1}"#;
        assert_eq!(emits(online), [(None, format!(r#"["server-action:update_user_online",{online}]"#))]);
        let chat = r#"{"task":"send_chat_message_to_sids","sids":["a","b","a"],"data":[1]}"#;
        let event = format!(r#"["server-action:chat_message",{{"data":{chat}}}]"#);
        let to = |room: &str| (Some(room.to_owned()), event.clone());
        assert_eq!(emits(chat), [to("a"), to("b"), to("a")]);
        let put = r#"{"task":"put_to_socket","data":{"socket_id":"s","action":"act","x":null}}"#;
        let event = r#"["act",{"data":{"socket_id":"s","action":"act","x":null}}]"#;
        assert_eq!(emits(put), [(Some("s".to_owned()), event.to_owned())]);
        assert_eq!(read(r#"{"task":"put_to_socket","data":{"action":"act"}}"#), None, "nobody is named");
        let gathered = orders(r#"{"task":"gather_active_connections"}"#);
        assert!(gathered.gathers && gathered.emits[0].1.json().starts_with(r#"["server-action:ping",{"#));
        let both = orders(r#"{"task":"user_online","users":[1],"payload":1}"#);
        assert!(both.notification.is_some() && both.emits.len() == 1);
    }
}
