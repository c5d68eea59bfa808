//! Messages of Node's emitters (`@socket.io/redis-emitter`, `socket.io-emitter`) and of Socket.IO servers with
//! `@socket.io/redis-adapter`, which publish alike: events by `MessagePack` or JSON, everything else by JSON.
//!
//! Not read: channels of sharded pub/sub, and what these servers ask each other.

use super::emitter_values::event_data;
use super::{Instruction, Source};
use crate::codec::{Value, ValueLimits, json, msgpack};
use crate::settings::{NamespacePattern, SocketIoSettings};
use crate::wire::socket_io::{EventData, JsonElements, JsonMembers, MAX_JSON_DEPTH, MessageLimits};
use crate::wire::{Channel, ClientName, Directive, DisconnectScope, EmitTarget, MAX_ROOM_BYTES, Message};

/// Most values in a message.
const MAX_ITEMS: usize = 1 << 18;

/// Most rooms in one list.
const MAX_NAMES: usize = 10_000;

/// The type of an event's packet.
const EVENT: i64 = 2;

/// The namespace of a message that names none.
const MAIN: &str = "/";

/// Reads the messages of emitters and adapters with one key.
#[derive(Debug)]
pub(super) struct EmitterReader {
    key: String,
    namespaces: Vec<NamespacePattern>,
    limits: MessageLimits,
}

/// The packet of a message, with its options.
enum EmitterPacket {
    /// An event.
    Event { namespace: Box<str>, options: Option<Value>, event: EventData },
    /// A packet that no publisher sends to clients.
    Other,
}

/// Returns the patterns to subscribe to.
///
/// Requests arrive by patterns as well: these servers count the subscribers of the channel (`PUBSUB NUMSUB`), which does
/// not count patterns, and wait for an answer of each.
pub(super) fn patterns(key: &str, namespaces: &[NamespacePattern]) -> Vec<(Channel, Source)> {
    // A message of a namespace that two patterns match would arrive twice.
    let is_covered = |namespace: &NamespacePattern| {
        namespaces.iter().any(|other| other != namespace && other.covers(namespace))
    };
    let key = escape_pattern(key);
    let patterns = namespaces.iter().filter(|namespace| !is_covered(namespace)).flat_map(|namespace| {
        let (name, rest) = match namespace {
            NamespacePattern::Exact(name) => (escape_pattern(name), ""),
            NamespacePattern::Prefix(prefix) => (escape_pattern(prefix), "*"),
        };
        [
            (format!("{key}#{name}{rest}#*"), Source::Emitter),
            (format!("{key}-request#{name}{rest}#"), Source::EmitterRequest),
        ]
    });
    patterns.map(|(pattern, source)| (Channel::from_redis(&pattern), source)).collect()
}

/// Escapes what is special in a pattern of Redis.
pub fn escape_pattern(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl EmitterReader {
    pub(super) fn new(settings: &SocketIoSettings, limits: MessageLimits) -> Self {
        Self { key: settings.emitter.key.clone(), namespaces: settings.namespaces.clone(), limits }
    }

    /// Returns what an event asks for; `None` if it is malformed. An event that nobody wants is ignored.
    pub(super) fn read_event(
        &self,
        message: &Message,
        is_wanted: impl Fn(&EmitTarget) -> bool,
    ) -> Option<Instruction> {
        let payload = message.payload();
        let packet = if payload.first() == Some(&b'[') {
            self.json_event(payload)?
        } else {
            self.msgpack_event(payload)?
        };
        let EmitterPacket::Event { namespace, options, event } = packet else {
            return Some(Instruction::Ignore);
        };
        // The room at the end of the channel only lets servers skip what they need not decode.
        let is_of_channel = || {
            let rest = std::str::from_utf8(message.channel()).ok()?;
            let rest = rest.strip_prefix(self.key.as_str())?.strip_prefix('#')?;
            Some(rest.strip_prefix(&*namespace)?.starts_with('#'))
        };
        if !self.admits(&namespace) || is_of_channel() != Some(true) {
            return Some(Instruction::Ignore);
        }
        let target = target(namespace, options.as_ref())?;
        let emit = is_wanted(&target).then(|| Instruction::Emit(Box::new((target, event))));
        Some(emit.unwrap_or(Instruction::Ignore))
    }

    fn admits(&self, namespace: &str) -> bool {
        self.namespaces.iter().any(|known| known.admits(namespace))
    }

    fn bounds(&self) -> ValueLimits {
        // The message is two more levels than the array of its event.
        ValueLimits { bytes: self.limits.total_bytes, items: MAX_ITEMS, depth: MAX_JSON_DEPTH + 2 }
    }

    /// Returns the packet of a message in `MessagePack`; none if its packet is no event.
    fn msgpack_event(&self, payload: &[u8]) -> Option<EmitterPacket> {
        let Value::List(parts) = msgpack::read_value(payload, self.bounds()).ok()? else { return None };
        let mut parts = parts.into_iter().skip(1);
        let (packet, options) = (parts.next()?, parts.next());
        if packet.get("type")? != &Value::Integer(EVENT) {
            return Some(EmitterPacket::Other);
        }
        let namespace = namespace(packet.get("nsp"))?;
        let Value::Map(members) = packet else { return None };
        let data = members.into_iter().rev().find(|(key, _)| key.as_str() == Some("data"));
        let Some((_, Value::List(data))) = data else { return None };
        Some(EmitterPacket::Event { namespace, options, event: event_data(data, self.limits)? })
    }

    /// As [`Self::msgpack_event`], in JSON. The arguments pass through as they are.
    fn json_event(&self, payload: &[u8]) -> Option<EmitterPacket> {
        let value = |raw: &str| json::read_value(raw.as_bytes(), self.bounds()).ok();
        let mut parts = JsonElements::new(std::str::from_utf8(payload).ok()?)?.skip(1);
        let (packet, options) = (parts.next()?.ok()?, parts.next().transpose().ok()?);
        let (mut kind, mut name, mut data) = (None, None, None);
        for member in JsonMembers::new(packet)? {
            let (key, raw) = member.ok()?;
            match key {
                r#""type""# => kind = Some(raw),
                r#""nsp""# => name = Some(value(raw)?),
                r#""data""# => data = Some(raw),
                _ => {}
            }
        }
        if value(kind?)? != Value::Integer(EVENT) {
            return Some(EmitterPacket::Other);
        }
        let mut data = JsonElements::new(data?)?;
        let event = data.next()?.ok().filter(|event| event.starts_with('"'))?;
        let arguments = data.collect::<Result<Vec<_>, _>>().ok()?;
        let event = EventData::from_json(Some(event), arguments, Vec::new(), false, self.limits).ok()?;
        let options = match options {
            Some(raw) => Some(value(raw)?),
            None => None,
        };
        Some(EmitterPacket::Event { namespace: namespace(name.as_ref())?, options, event })
    }

    /// Returns what a request asks for; `None` if it is malformed.
    pub(super) fn read_request(&self, message: &Message) -> Option<Instruction> {
        let payload = message.payload();
        // Servers ask for acknowledgements in msgpack.
        if payload.first() != Some(&b'{') {
            return Some(Instruction::Ignore);
        }
        let request = json::read_value(payload, self.bounds()).ok()?;
        let channel = std::str::from_utf8(message.channel()).ok()?;
        let namespace =
            channel.strip_prefix(self.key.as_str())?.strip_prefix("-request#")?.strip_suffix('#')?;
        if !self.admits(namespace) {
            return Some(Instruction::Ignore);
        }
        let namespace = Box::<str>::from(namespace);
        let (options, sid) = (request.get("opts"), request.get("sid"));
        let Value::Integer(kind) = request.get("type")? else { return None };
        let directive = match (kind, options, sid) {
            (2 | 3, None, Some(sid)) => {
                let (client, room) =
                    (ClientName { namespace, sid: name_of(sid)? }, name_of(request.get("room")?)?);
                if *kind == 2 {
                    Directive::EnterRoom(client, room)
                } else {
                    Directive::LeaveRoom(client, room)
                }
            }
            (2 | 3, options, _) => {
                let rooms = names_of(request.get("rooms"))?.into_boxed_slice();
                let target = target(namespace, options)?;
                if *kind == 2 {
                    Directive::EnterRooms(target, rooms)
                } else {
                    Directive::LeaveRooms(target, rooms)
                }
            }
            (4, options, sid) => {
                let target = match (options, sid) {
                    (None, Some(sid)) => {
                        EmitTarget { namespace, rooms: Some(vec![name_of(sid)?]), ..Default::default() }
                    }
                    (options, _) => target(namespace, options)?,
                };
                let is_session = request.get("close") == Some(&Value::Bool(true));
                let scope = if is_session { DisconnectScope::Session } else { DisconnectScope::Namespace };
                Directive::DisconnectAll(target, scope)
            }
            // Questions of servers, their own events, and requests for acknowledgements.
            (0 | 1 | 5..=8, ..) => return Some(Instruction::Ignore),
            _ => return None,
        };
        Some(Instruction::Direct(Box::new(directive)))
    }
}

/// Returns the clients that options name: those in `rooms`, or all if there are none, and not those in `except`.
fn target(namespace: Box<str>, options: Option<&Value>) -> Option<EmitTarget> {
    let options = match options {
        Some(Value::Map(_)) => options,
        None | Some(Value::Null) => None,
        Some(_) => return None,
    };
    let member = |key| options.and_then(|options: &Value| options.get(key));
    let rooms = Some(names_of(member("rooms"))?).filter(|rooms| !rooms.is_empty());
    let is_volatile = member("flags").and_then(|flags| flags.get("volatile")) == Some(&Value::Bool(true));
    Some(EmitTarget {
        namespace,
        rooms,
        except: names_of(member("except"))?,
        excepts_rooms: true,
        is_volatile,
    })
}

fn namespace(name: Option<&Value>) -> Option<Box<str>> {
    match name {
        None | Some(Value::Null) => Some(MAIN.into()),
        Some(name) => name.as_str().map(Into::into),
    }
}

/// Returns the names in a list; none if it is missing.
fn names_of(list: Option<&Value>) -> Option<Vec<Box<str>>> {
    match list {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::List(names)) if names.len() <= MAX_NAMES => names.iter().map(name_of).collect(),
        Some(_) => None,
    }
}

/// Returns the name of a room, or an id. Numbers are text.
fn name_of(value: &Value) -> Option<Box<str>> {
    let name = match value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::BigInteger(digits) => digits.clone(),
        Value::Float(number) => number.to_string(),
        _ => return None,
    };
    (name.len() <= MAX_ROOM_BYTES).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use bytes::Bytes;
    use serde_json::Value as Json;

    use super::*;
    use crate::settings::Settings;
    use crate::sources::{SourceReader, own_channels};

    fn settings(assignments: &[&str]) -> Settings {
        let mut all = vec!["socketio.enabled=true".to_owned(), "socketio.emitter.enabled=true".to_owned()];
        all.extend(assignments.iter().map(|&assignment| assignment.to_owned()));
        Settings::load(None, std::iter::empty(), &all).unwrap().0
    }

    fn read(source: Source, channel: &str, payload: &[u8]) -> Option<Instruction> {
        let key = channel.split('#').next().unwrap().trim_end_matches("-request");
        let key = format!("socketio.emitter.key={key}");
        let bytes = Bytes::from([channel.as_bytes(), payload].concat());
        let message = Message::new(bytes, 0..channel.len(), channel.len()..channel.len() + payload.len());
        let settings = settings(&["socketio.namespaces=/,/chat,/room-*", &key]);
        SourceReader::new(&settings, None).read(source, message, |_| true)
    }

    fn source_of(channel: &str) -> Source {
        if channel.starts_with("socket.io-request#") { Source::EmitterRequest } else { Source::Emitter }
    }

    fn names(json: &Json) -> Vec<Box<str>> {
        let name = |name: &Json| name.as_str().map_or_else(|| name.to_string(), str::to_owned).into();
        json.as_array().into_iter().flatten().map(name).collect()
    }

    #[track_caller]
    fn check_records(text: &str, least: usize) {
        let records: Vec<Json> = serde_json::from_str(text).unwrap();
        let mut events = 0;
        for record in &records {
            for published in record["published"].as_array().unwrap() {
                let channel = published["channel"].as_str().unwrap();
                let payload = BASE64_STANDARD.decode(published["payload_base64"].as_str().unwrap()).unwrap();
                let instruction = read(source_of(channel), channel, &payload);
                let Some(Instruction::Emit(emit)) = instruction else {
                    let is_request = channel.starts_with("socket.io-request");
                    assert!(is_request && instruction.is_some(), "{}: {instruction:?}", record["call"]);
                    continue;
                };
                events += 1;
                let (target, event) = *emit;
                let options = &published["decoded"][2];
                let rooms = Some(names(&options["rooms"])).filter(|rooms| !rooms.is_empty());
                assert_eq!(target.rooms, rooms, "{}", record["call"]);
                assert_eq!(target.except, names(&options["except"]), "{}", record["call"]);
                assert_eq!(target.is_volatile, options["flags"]["volatile"] == true, "{}", record["call"]);
                assert_eq!(*target.namespace, *published["decoded"][1]["nsp"].as_str().unwrap_or("/"));
                let expected = &record["client_gets"]["args"];
                if event.attachments().is_empty() && !expected.is_null() {
                    let array: Vec<Json> = serde_json::from_str(event.json()).unwrap();
                    assert_eq!(&Json::Array(array[1..].to_vec()), expected, "{}", record["call"]);
                }
            }
        }
        assert!(events >= least, "{events}");
    }

    #[test]
    fn recorded_messages_of_emitters_and_adapters_are_read() {
        check_records(include_str!("../../tests/fixtures/socketio/js-redis-emitter.json"), 20);
        check_records(include_str!("../../tests/fixtures/socketio/js-socket.io-emitter-3.json"), 3);
        check_records(include_str!("../../tests/fixtures/socketio/js-redis-adapter.json"), 3);
    }

    #[test]
    fn requests_become_directives() {
        let rooms = |names: &[&str]| names.iter().map(|&name| name.into()).collect::<Vec<Box<str>>>();
        let target = |names: Option<&[&str]>, except: &[&str]| EmitTarget {
            namespace: "/chat".into(),
            rooms: names.map(rooms),
            except: rooms(except),
            excepts_rooms: true,
            is_volatile: false,
        };
        let client = || ClientName { namespace: "/chat".into(), sid: "s".into() };
        let own = EmitTarget { excepts_rooms: false, ..target(Some(&["s"]), &[]) };
        for (request, expected) in [
            (
                r#"{"type":2,"opts":{"rooms":["a",1],"except":["b"]},"rooms":["c",2]}"#,
                Directive::EnterRooms(target(Some(&["a", "1"]), &["b"]), rooms(&["c", "2"]).into()),
            ),
            (
                r#"{"uid":"x","type":3,"opts":{"rooms":[],"except":[]},"rooms":["c"]}"#,
                Directive::LeaveRooms(target(None, &[]), rooms(&["c"]).into()),
            ),
            (r#"{"type":2,"sid":"s","room":"a"}"#, Directive::EnterRoom(client(), "a".into())),
            (r#"{"type":3,"sid":"s","room":"a"}"#, Directive::LeaveRoom(client(), "a".into())),
            (
                r#"{"type":4,"opts":{"rooms":["a"],"except":[]},"close":true}"#,
                Directive::DisconnectAll(target(Some(&["a"]), &[]), DisconnectScope::Session),
            ),
            (r#"{"type":4,"sid":"s"}"#, Directive::DisconnectAll(own, DisconnectScope::Namespace)),
        ] {
            let read = read(Source::EmitterRequest, "socket.io-request#/chat#", request.as_bytes());
            assert_eq!(read, Some(Instruction::Direct(Box::new(expected))), "{request}");
        }
        for (request, expected) in [
            (r#"{"type":0,"requestId":"r"}"#, Some(Instruction::Ignore)),
            (r#"{"type":6,"data":["hello"]}"#, Some(Instruction::Ignore)),
            ("\u{7}", Some(Instruction::Ignore)),
            (r#"{"type":9}"#, None),
            (r#"{"opts":{}}"#, None),
            (r#"{"type":2,"sid":"s","room":["a"]}"#, None),
            (r#"{"type":2,"opts":[],"rooms":["a"]}"#, None),
            (r#"{"type":2"#, None),
        ] {
            let read = read(Source::EmitterRequest, "socket.io-request#/chat#", request.as_bytes());
            assert_eq!(read, expected, "{request}");
        }
    }

    #[test]
    fn messages_for_others_are_ignored_and_malformed_ones_refused() {
        let event = |text: &str| read(Source::Emitter, "socket.io#/#", text.as_bytes());
        let is_emit = |instruction| matches!(instruction, Some(Instruction::Emit(_)));
        assert!(is_emit(event(r#"["u", {"type": 2, "data": ["e", {"x": 1.50}]}, {"rooms": []}]"#)));
        assert!(is_emit(event(r#"["u",{"type":2,"data":["e"]}]"#)));
        for ignored in [
            r#"["u",{"type":3,"data":["e"]},{}]"#,
            r#"["u",{"type":2,"nsp":"/chat","data":["e"]},{}]"#,
            r#"["u",{"type":2,"nsp":"/nope","data":["e"]},{}]"#,
        ] {
            assert_eq!(event(ignored), Some(Instruction::Ignore), "{ignored}");
        }
        for malformed in [
            "",
            "{}",
            "[]",
            r#"["u",{"data":["e"]},{}]"#,
            r#"["u",{"type":2},{}]"#,
            r#"["u",{"type":2,"data":[]},{}]"#,
            r#"["u",{"type":2,"data":[7]},{}]"#,
            r#"["u",{"type":2,"data":["e",nul]},{}]"#,
            r#"["u",{"type":2,"data":["e"]},{"rooms":"a"}]"#,
            r#"["u",{"type":2,"data":["e"]},{"rooms":[[]]}]"#,
            "\u{1}",
        ] {
            assert_eq!(event(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn patterns_match_each_namespace_once_and_escape_what_is_special() {
        let settings =
            settings(&["socketio.namespaces=/,/a[1],/room-*,/room-x*,/room-1", "socketio.emitter.key=k*y"]);
        let own = own_channels(&settings);
        let patterns: Vec<_> = own.iter().filter(|(_, source)| source.is_pattern()).collect();
        let expected = [
            r"k\*y#/#*",
            r"k\*y-request#/#",
            r"k\*y#/a\[1\]#*",
            r"k\*y-request#/a\[1\]#",
            r"k\*y#/room-*#*",
            r"k\*y-request#/room-*#",
        ];
        assert!(patterns.iter().map(|(channel, _)| channel.as_str()).eq(expected), "{patterns:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_cause_a_panic(
            mut bytes in proptest::collection::vec(0_u8.., 0..80),
            start in proptest::sample::select(vec![&b""[..], b"\x93\xa1u\x82\xa4type\x02\xa4data", b"[\"u\",{\"type\":2,\"data\":", b"{\"type\":"])
        ) {
            bytes.splice(0..0, start.iter().copied());
            let _ = read(Source::Emitter, "socket.io#/#", &bytes);
            let _ = read(Source::EmitterRequest, "socket.io-request#/#", &bytes);
        }
    }
}
