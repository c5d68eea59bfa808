//! Messages of python-socketio's `RedisManager`, in JSON (5.14.0 and newer) or, where the site allows it, in pickle.
//!
//! Releases disagree about what a list in `data` means, and do not say which they are. Some messages of a publisher prove
//! it: generation 2 has no member `binary`, generation 3 has data that is not a list, generation 4 always has a list.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use super::{Instruction, pickled_emit};
use crate::settings::{ListArgument, RedisManagerSettings};
use crate::wire::socket_io::{EventData, JsonElements, JsonMembers, MessageLimits, unescape_json};
use crate::wire::{
    AckOrigin, AskedEvent, Channel, ClientAnswer, ClientName, Directive, EmitTarget, MAX_ROOM_BYTES, Message,
    NodeId,
};

/// The first byte of a pickle of protocol 2 or later. No JSON begins with it.
const PICKLE: u8 = 0x80;

/// Publishers of generation 3 that are remembered.
const MAX_PUBLISHERS: usize = 1_024;

/// Most rooms or ids in one message.
pub(super) const MAX_NAMES: usize = 10_000;

/// Reads the messages of `RedisManager`, and remembers which publishers are of generation 3.
#[derive(Debug)]
pub struct RedisManagerReader {
    list_argument: ListArgument,
    limits: MessageLimits,
    reads_pickle: bool,
    /// The `host_id` of this process: answers to the events of its clients name it. None: the answers for all processes are
    /// read.
    own_host_id: Option<Box<str>>,
    /// `host_id` of publishers of generation 3, oldest first.
    third: VecDeque<Box<str>>,
    known: HashSet<Box<str>>,
}

/// The members of a message, as raw JSON.
#[derive(Debug, Default)]
struct RawMessage<'a> {
    method: Option<&'a str>,
    event: Option<&'a str>,
    data: Option<&'a str>,
    binary: Option<&'a str>,
    namespace: Option<&'a str>,
    room: Option<&'a str>,
    skip_sid: Option<&'a str>,
    sid: Option<&'a str>,
    callback: Option<&'a str>,
    id: Option<&'a str>,
    args: Option<&'a str>,
    host_id: Option<&'a str>,
}

/// A member of a message has a value of a wrong kind.
#[derive(Debug)]
pub(super) struct MalformedMember;

/// Arguments of an event as raw JSON, and its attachments.
type RawArguments<'a> = (Vec<&'a str>, Vec<Bytes>);

impl RedisManagerReader {
    /// Creates a reader that knows no publisher.
    pub fn new(settings: &RedisManagerSettings, limits: MessageLimits, node: Option<NodeId>) -> Self {
        let RedisManagerSettings { list_argument, pickle: reads_pickle, .. } = *settings;
        Self {
            list_argument,
            limits,
            reads_pickle,
            own_host_id: node.map(|node| node.to_string().into()),
            third: VecDeque::new(),
            known: HashSet::new(),
        }
    }

    /// Returns what a message asks for; `None` if it is malformed. An event that nobody wants is not decoded.
    pub(super) fn read(
        &mut self,
        message: &Message,
        is_wanted: impl Fn(&EmitTarget) -> bool,
    ) -> Option<Instruction> {
        let payload = message.payload();
        if payload.first() == Some(&PICKLE) {
            return self.reads_pickle.then(|| pickled_emit::read(message, self.limits, is_wanted))?;
        }
        let text = std::str::from_utf8(payload).ok()?;
        let raw = RawMessage::parse(text)?;
        let namespace = match raw.namespace {
            None | Some("null") => "/".into(),
            Some(namespace) => text_of(namespace).filter(|name| is_namespace(name))?.into(),
        };
        let method = unescape_json(raw.method?)?;
        let direct = |directive| Instruction::Direct(Box::new(directive));
        let is_own = || {
            let is_for = |own: &str| raw.host_id.and_then(unescape_json).is_some_and(|id| id == own);
            self.own_host_id.as_deref().is_none_or(is_for)
        };
        let client = |namespace| Some(ClientName { namespace, sid: name_of(raw.sid?)? });
        Some(match &*method {
            "emit" => {
                let target = EmitTarget {
                    namespace,
                    rooms: raw.room.map_or(Ok(None), names_of).ok()?,
                    except: raw.skip_sid.map_or(Ok(None), names_of).ok()?.unwrap_or_default(),
                    ..EmitTarget::default()
                };
                if !is_wanted(&target) {
                    self.learn(&raw);
                    return Some(Instruction::Ignore);
                }
                let event = self.event(&raw)?;
                match origin(&raw, message).ok()? {
                    None => Instruction::Emit(Box::new((target, event))),
                    Some(origin) => {
                        let origin = Arc::new(origin);
                        direct(Directive::Ask(target, Arc::new(AskedEvent { event, origin })))
                    }
                }
            }
            "disconnect" => direct(Directive::Disconnect(client(namespace)?)),
            "enter_room" => direct(Directive::EnterRoom(client(namespace)?, name_of(raw.room?)?)),
            "leave_room" => direct(Directive::LeaveRoom(client(namespace)?, name_of(raw.room?)?)),
            "close_room" => direct(Directive::CloseRoom(namespace, name_of(raw.room?)?)),
            "callback" if is_own() => {
                direct(Directive::Answer(client(namespace)?, Arc::new(self.answer(&raw)?)))
            }
            // The answer to another server's question.
            "callback" => Instruction::Ignore,
            _ => return None,
        })
    }

    /// Remembers the publisher of a message that only generation 3 sends, although its event is not decoded.
    fn learn(&mut self, raw: &RawMessage<'_>) {
        let value = match raw.binary {
            Some("true") => raw.data.and_then(|data| JsonElements::new(data)?.next()?.ok()),
            Some("false") => Some(raw.data.unwrap_or("null")),
            _ => return,
        };
        if value.is_some_and(|value| JsonElements::new(value).is_none()) {
            self.remember_third(raw.host_id);
        }
    }

    /// Returns the name and the arguments of an event.
    fn event(&mut self, raw: &RawMessage<'_>) -> Option<EventData> {
        let event = raw.event.filter(|event| event.starts_with('"'))?;
        let is_binary = raw.binary == Some("true");
        let (arguments, attachments) = self.arguments(raw)?;
        EventData::from_json(Some(event), arguments, attachments, is_binary, self.limits).ok()
    }

    /// Returns the number of a client's event, and Django's answer to it.
    fn answer(&self, raw: &RawMessage<'_>) -> Option<ClientAnswer> {
        let value = raw.args?;
        let is_binary = raw.binary == Some("true");
        let (list, attachments) = if is_binary { with_attachments(value)? } else { (value, Vec::new()) };
        let arguments = match JsonElements::new(list) {
            Some(elements) => elements.collect::<Result<Vec<_>, _>>().ok()?,
            None => vec![list],
        };
        let arguments = EventData::from_json(None, arguments, attachments, is_binary, self.limits).ok()?;
        Some(ClientAnswer { id: raw.id?.parse().ok()?, arguments })
    }

    fn arguments<'a>(&mut self, raw: &RawMessage<'a>) -> Option<RawArguments<'a>> {
        let data = raw.data.unwrap_or("null");
        let Some(binary) = raw.binary else {
            // Generation 2: a list is one argument.
            let arguments = if data == "null" { Vec::new() } else { vec![data] };
            return Some((arguments, Vec::new()));
        };
        let (value, attachments) = match binary {
            "true" => with_attachments(data)?,
            "false" => (data, Vec::new()),
            _ => return None,
        };
        let Some(elements) = JsonElements::new(value) else {
            self.remember_third(raw.host_id);
            let is_none = value == "null" && binary == "false";
            return Some((if is_none { Vec::new() } else { vec![value] }, attachments));
        };
        if self.is_third(raw.host_id) {
            return Some((vec![value], attachments));
        }
        let mut arguments = elements.collect::<Result<Vec<_>, _>>().ok()?;
        if binary == "false" && arguments == ["null"] {
            arguments.clear();
        }
        Some((arguments, attachments))
    }

    fn is_third(&self, host_id: Option<&str>) -> bool {
        match self.list_argument {
            ListArgument::Auto => host_id.is_some_and(|host_id| self.known.contains(host_id)),
            ListArgument::Arguments => false,
            ListArgument::Single => true,
        }
    }

    /// Remembers the publisher of a message that only generation 3 sends.
    fn remember_third(&mut self, host_id: Option<&str>) {
        let Some(host_id) = host_id.filter(|host_id| host_id.len() <= MAX_ROOM_BYTES) else { return };
        if !self.known.insert(host_id.into()) {
            return;
        }
        self.third.push_back(host_id.into());
        if self.third.len() > MAX_PUBLISHERS
            && let Some(oldest) = self.third.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl<'a> RawMessage<'a> {
    /// Splits an object; `None` if it is no object, or malformed. Of a member that is given twice, the last counts.
    fn parse(text: &'a str) -> Option<Self> {
        let mut raw = Self::default();
        for member in JsonMembers::new(text)? {
            let (key, value) = member.ok()?;
            let member = match &*unescape_json(key)? {
                "method" => &mut raw.method,
                "event" => &mut raw.event,
                "data" => &mut raw.data,
                "binary" => &mut raw.binary,
                "namespace" => &mut raw.namespace,
                "room" => &mut raw.room,
                "skip_sid" => &mut raw.skip_sid,
                "sid" => &mut raw.sid,
                "callback" => &mut raw.callback,
                "id" => &mut raw.id,
                "args" => &mut raw.args,
                "host_id" => &mut raw.host_id,
                _ => continue,
            };
            *member = Some(value);
        }
        Some(raw)
    }
}

/// Splits a list of a value with placeholders, and attachments in base64.
fn with_attachments(list: &str) -> Option<(&str, Vec<Bytes>)> {
    let mut elements = JsonElements::new(list)?;
    let value = elements.next()?.ok()?;
    let decode = |raw: Result<&str, _>| {
        let encoded = unescape_json(raw.ok()?)?;
        BASE64_STANDARD.decode(encoded.as_bytes()).ok().map(Bytes::from)
    };
    Some((value, elements.map(decode).collect::<Option<Vec<_>>>()?))
}

/// Returns where the acknowledgements of an event go, if there is a callback.
fn origin(raw: &RawMessage<'_>, message: &Message) -> Result<Option<AckOrigin>, MalformedMember> {
    let Some(callback) = raw.callback.filter(|callback| *callback != "null") else { return Ok(None) };
    let origin = || {
        let mut items = JsonElements::new(callback)?;
        let mut item = || items.next()?.ok();
        Some(AckOrigin {
            channel: Channel::from_redis(std::str::from_utf8(message.channel()).ok()?),
            host_id: name_of(raw.host_id?)?,
            sid: name_of(item()?)?,
            namespace: name_of(item()?)?,
            id: item()?.parse().ok()?,
            is_pickled: false,
        })
    };
    origin().map(Some).ok_or(MalformedMember)
}

/// Returns a text, or the digits of an integer: 42 and "42" are one room.
fn text_of(raw: &str) -> Option<Cow<'_, str>> {
    match raw.as_bytes() {
        [b'"', ..] => unescape_json(raw),
        [b'-' | b'0'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => Some(raw.into()),
        _ => None,
    }
}

/// Returns the name of a room, or an id.
fn name_of(raw: &str) -> Option<Box<str>> {
    text_of(raw).filter(|name| name.len() <= MAX_ROOM_BYTES).map(Into::into)
}
/// Returns whether clients can name a namespace so. The names of topics rely on it.
pub(super) fn is_namespace(name: &str) -> bool {
    !name.contains(char::is_control)
}

/// Returns the names in null, a name or a list of names. An empty text names nobody.
fn names_of(raw: &str) -> Result<Option<Vec<Box<str>>>, MalformedMember> {
    if raw == "null" {
        return Ok(None);
    }
    let mut names = match JsonElements::new(raw) {
        Some(elements) => {
            let names = elements.map(|raw| name_of(raw.ok()?)).take(MAX_NAMES + 1);
            let names = names.collect::<Option<Vec<_>>>().filter(|names| names.len() <= MAX_NAMES);
            names.ok_or(MalformedMember)?
        }
        None => vec![name_of(raw).ok_or(MalformedMember)?],
    };
    names.retain(|name| !name.is_empty());
    Ok(Some(names))
}
