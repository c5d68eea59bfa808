//! Messages of python-socketio's `RedisManager` in pickle: releases up to 5.13.0.

use std::sync::Arc;

use super::Instruction;
use super::event_value::ValueRules;
use super::redis_manager::{MalformedMember, is_namespace};
use crate::codec::{Value, ValueLimits, pickle};
use crate::wire::socket_io::{EventData, MAX_JSON_DEPTH, MessageLimits, encode_values};
use crate::wire::{
    AckOrigin, AskedEvent, Channel, ClientName, Directive, EmitTarget, MAX_ROOM_BYTES, Message,
};

/// Most values in a message.
const MAX_ITEMS: usize = 1 << 18;

/// How much longer than a pickle its JSON may be: a pickle may repeat objects that it has once, at each level of nesting.
const MAX_EXPANSION: usize = 16;

/// Bytes of JSON that any pickle may have.
const MIN_JSON_BYTES: usize = 64 * 1024;

/// Pickles have no extension types.
const VALUES: ValueRules = ValueRules { keeps: |_, _| true, extension: |_, _| None };

/// Returns what a pickled message asks for; `None` if it is malformed, or holds something that JSON cannot express. An
/// event that nobody wants is not encoded.
pub(super) fn read(
    published: &Message,
    limits: MessageLimits,
    is_wanted: impl Fn(&EmitTarget) -> bool,
) -> Option<Instruction> {
    let limits = expanded(published.payload().len(), limits);
    let bounds = ValueLimits {
        bytes: limits.total_bytes,
        // Each has a character, and another one behind it.
        items: MAX_ITEMS.min(limits.text_bytes / 2),
        // The message itself is one more level than its data.
        depth: MAX_JSON_DEPTH + 1,
    };
    let message = pickle::read_value(published.payload(), bounds).ok()?;
    let namespace: Box<str> = match message.get("namespace") {
        None | Some(Value::Null) => "/".into(),
        Some(namespace) => namespace.as_str().filter(|name| is_namespace(name))?.into(),
    };
    let name = |key: &str| name_of(message.get(key)?);
    let direct = |directive| Instruction::Direct(Box::new(directive));
    let client = |namespace| Some(ClientName { namespace, sid: name("sid")? });
    Some(match message.get("method")?.as_str()? {
        "emit" => {
            let target = EmitTarget {
                namespace,
                rooms: message.get("room").map_or(Ok(None), names_of).ok()?,
                except: message.get("skip_sid").map_or(Ok(None), names_of).ok()?.unwrap_or_default(),
                ..EmitTarget::default()
            };
            if !is_wanted(&target) {
                return Some(Instruction::Ignore);
            }
            let origin = origin(&message, published).ok()?;
            let event = event(message, limits)?;
            match origin {
                None => Instruction::Emit(Box::new((target, event))),
                Some(origin) => {
                    let origin = Arc::new(origin);
                    direct(Directive::Ask(target, Arc::new(AskedEvent { event, origin })))
                }
            }
        }
        "disconnect" => direct(Directive::Disconnect(client(namespace)?)),
        "enter_room" => direct(Directive::EnterRoom(client(namespace)?, name("room")?)),
        "leave_room" => direct(Directive::LeaveRoom(client(namespace)?, name("room")?)),
        "close_room" => direct(Directive::CloseRoom(namespace, name("room")?)),
        // The answer to another server's question.
        "callback" => Instruction::Ignore,
        _ => return None,
    })
}

/// Returns the limits for what a pickle of this length expands to.
fn expanded(length: usize, limits: MessageLimits) -> MessageLimits {
    let most = length.saturating_mul(MAX_EXPANSION).max(MIN_JSON_BYTES);
    MessageLimits {
        text_bytes: limits.text_bytes.min(most),
        total_bytes: limits.total_bytes.min(most),
        ..limits
    }
}

/// Returns where the acknowledgements of an event go, if there is a callback.
fn origin(message: &Value, published: &Message) -> Result<Option<AckOrigin>, MalformedMember> {
    let (room, namespace, id) = match message.get("callback") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Tuple(items) | Value::List(items)) => match &items[..] {
            [room, namespace, Value::Integer(id)] => (room, namespace, *id),
            _ => return Err(MalformedMember),
        },
        Some(_) => return Err(MalformedMember),
    };
    let origin = || {
        Some(AckOrigin {
            channel: Channel::from_redis(std::str::from_utf8(published.channel()).ok()?),
            host_id: name_of(message.get("host_id")?)?,
            sid: name_of(room)?,
            namespace: name_of(namespace)?,
            id: id.try_into().ok()?,
            is_pickled: true,
        })
    };
    origin().map(Some).ok_or(MalformedMember)
}

/// Returns the name and the arguments of an event: a tuple is the arguments, anything else but `None` is one.
fn event(message: Value, limits: MessageLimits) -> Option<EventData> {
    let Value::Map(members) = message else { return None };
    let (mut name, mut data) = (None, Value::Null);
    for (key, value) in members {
        match key.as_str() {
            Some("event") => name = Some(value),
            Some("data") => data = value,
            _ => {}
        }
    }
    let arguments = match data {
        Value::Null => Vec::new(),
        Value::Tuple(values) => values,
        value => vec![value],
    };
    let arguments = VALUES.event_values(arguments)?;
    encode_values(Some(name?.as_str()?), &arguments, limits).ok()
}

/// Returns the name of a room, or an id.
fn name_of(value: &Value) -> Option<Box<str>> {
    let name = match value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::BigInteger(digits) => digits.clone(),
        _ => return None,
    };
    (name.len() <= MAX_ROOM_BYTES).then(|| name.into())
}

/// Returns the names in `None`, a name, or a list or tuple of names. An empty text names nobody.
fn names_of(value: &Value) -> Result<Option<Vec<Box<str>>>, MalformedMember> {
    let mut names = match value {
        Value::Null => return Ok(None),
        Value::List(values) | Value::Tuple(values) => {
            values.iter().map(name_of).collect::<Option<Vec<_>>>().ok_or(MalformedMember)?
        }
        value => vec![name_of(value).ok_or(MalformedMember)?],
    };
    names.retain(|name| !name.is_empty());
    Ok(Some(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MessageLimits = MessageLimits {
        text_bytes: 1 << 24,
        attachments: 10,
        attachment_bytes: 1 << 24,
        total_bytes: 1 << 24,
    };

    /// A pickle of lists that contain the same list `width` times each, `depth` levels deep, around a value.
    fn nested(value: &[u8], width: usize, depth: u8) -> Vec<u8> {
        let mut pickle = b"\x80\x04}(\x8c\x06method\x8c\x04emit\x8c\x05event\x8c\x01e\x8c\x04data".to_vec();
        (0..depth).for_each(|level| pickle.extend([b']', b'q', level, b'(']));
        pickle.extend(value);
        for level in (0..depth).rev() {
            let repeated = [b'h', level + 1].repeat(if level + 1 < depth { width - 1 } else { 0 });
            pickle.extend(repeated);
            pickle.push(b'e');
        }
        pickle.extend(b"u.");
        pickle
    }

    fn json(pickle: Vec<u8>) -> Option<String> {
        let payload = 0..pickle.len();
        let message = Message::new(pickle.into(), 0..0, payload);
        match read(&message, LIMITS, |_| true)? {
            Instruction::Emit(emit) => Some(emit.1.json().to_owned()),
            _ => None,
        }
    }

    #[test]
    fn an_object_that_is_shared_at_each_level_does_not_expand_without_end() {
        assert_eq!(json(nested(b"N", 2, 3)).unwrap(), r#"["e",[[[null],[null]],[[null],[null]]]]"#);
        let ordinary = json(nested(b"N", 10, 4)).unwrap();
        assert!(ordinary.len() > 7_000);
        for value in [&b"N"[..], b"]", b"}", b"\x8c\x03lol", b"G\x3f\xf8\0\0\0\0\0\0"] {
            let pickle = nested(value, 10, 40);
            assert!(pickle.len() < 2_000);
            assert!(json(pickle).is_none(), "{value:?}");
        }
        // A large one may be as much larger as a small one.
        let long = [&b"\x8d\0\0\x02\0\0\0\0\0"[..], &vec![b'x'; 1 << 17]].concat();
        assert!(json(nested(&long, 4, 3)).unwrap().len() > 1 << 21);
        assert!(json(nested(&long, 5, 3)).is_none());
    }
}
