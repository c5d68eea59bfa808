//! Messages of Django Channels' groups: what clients get of them.
//!
//! The maps are Django's own, in msgpack or JSON, possibly encrypted. Each is read once, and encoded once per form of delivery.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::json_text::{key_text, push_value};
use crate::codec::fernet::FernetKeys;
use crate::codec::{Value, ValueLimits, msgpack};
use crate::settings::{ChannelLayer, DeliveredPart, DeliveryPiece, GroupDelivery, LayerKind};
use crate::wire::socket_io::{JsonElements, JsonMembers, push_compact_json, push_json_string, unescape_json};

/// Random bytes in front of each message of the core layer, which keep the members of a sorted set apart.
const RANDOM_BYTES: usize = 12;

/// Seconds after which an encrypted message of the core layer is too old: its expiry, and ten.
const TOKEN_SECONDS: u64 = 70;

/// Bytes that a token has beyond the base64 of its content: version, time, initial vector, padding and digest.
const TOKEN_OVERHEAD: usize = 128;

/// Deepest nesting, and most values, of a message.
const MAX_DEPTH: usize = 64;
const MAX_VALUES: usize = 1 << 20;

/// The member in which the core layer names the receivers.
const RECEIVERS: &str = "__asgi_channel__";

/// Reads messages of groups.
#[derive(Debug, Clone)]
pub struct GroupReader {
    kind: LayerKind,
    is_json: bool,
    keys: FernetKeys,
    refuses_bytes: bool,
    max_bytes: usize,
}

/// Why a message is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UndeliveredGroupMessage {
    /// It is damaged, no map, too deep, or has a type that JSON has no equivalent of.
    #[error("it is malformed: check channels.serializer")]
    Malformed,
    /// No key decrypts it, or it is too old.
    #[error("no key decrypts it, or it is too old: check channels.symmetric_encryption_keys")]
    Encrypted,
    /// It has byte strings, which the settings refuse.
    #[error("it has byte strings, which channels.bytes refuses")]
    Bytes,
    /// It is too long, or has become so as JSON.
    #[error("it is too long: see messages.max_delivery_bytes")]
    TooLong,
    /// It lacks a field that the rule delivers.
    #[error("it lacks the field that deliver names")]
    Field,
}

/// A message of a group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupMessage {
    /// The members of its map, without the receivers.
    members: Vec<(String, MemberValue)>,
    /// The full names of the receivers; the core layer has some.
    pub receivers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum MemberValue {
    /// JSON, and whether byte strings within have become base64.
    Json(String, bool),
    Bytes(Vec<u8>),
}

impl GroupReader {
    /// Creates the reader of a layer. Messages have at most `max_bytes`.
    pub fn new(layer: &ChannelLayer, max_bytes: usize) -> Self {
        Self {
            kind: layer.kind,
            is_json: layer.is_json,
            keys: FernetKeys::new(&layer.encryption_keys),
            refuses_bytes: layer.refuses_bytes,
            max_bytes,
        }
    }

    /// Returns the bytes that a message may have as it is stored: encrypted it is longer by a third, and the core layer puts
    /// random bytes in front.
    pub fn max_stored_bytes(&self) -> usize {
        let encrypted = if self.keys.is_empty() { 0 } else { self.max_bytes / 3 + TOKEN_OVERHEAD };
        self.max_bytes.saturating_add(encrypted).saturating_add(RANDOM_BYTES)
    }

    /// Returns what the core layer stores, without the random bytes in front. The pubsub layer has none.
    ///
    /// # Errors
    ///
    /// When it is shorter.
    pub fn strip<'a>(&self, stored: &'a [u8]) -> Result<&'a [u8], UndeliveredGroupMessage> {
        match self.kind {
            LayerKind::PubSub => Ok(stored),
            LayerKind::Core => stored.get(RANDOM_BYTES..).ok_or(UndeliveredGroupMessage::Malformed),
        }
    }

    /// Reads a message that has just arrived, without the random bytes. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// When it cannot be decrypted or read.
    pub fn read(&self, message: &[u8], now: u64) -> Result<GroupMessage, UndeliveredGroupMessage> {
        let limit = (self.kind == LayerKind::Core).then_some(TOKEN_SECONDS);
        self.read_within(message, limit, now)
    }

    /// Reads a message that was kept: it may be old.
    ///
    /// # Errors
    ///
    /// When it cannot be decrypted or read.
    pub fn read_kept(&self, message: &[u8]) -> Result<GroupMessage, UndeliveredGroupMessage> {
        self.read_within(message, None, 0)
    }

    fn read_within(
        &self,
        message: &[u8],
        limit: Option<u64>,
        now: u64,
    ) -> Result<GroupMessage, UndeliveredGroupMessage> {
        if message.len() > self.max_stored_bytes() {
            return Err(UndeliveredGroupMessage::TooLong);
        }
        let decrypted;
        let message = if self.keys.is_empty() {
            message
        } else {
            decrypted = self.keys.decrypt(message, limit, now).ok_or(UndeliveredGroupMessage::Encrypted)?;
            &decrypted
        };
        if message.len() > self.max_bytes {
            return Err(UndeliveredGroupMessage::TooLong);
        }
        let read = if self.is_json { read_json(message) } else { self.read_msgpack(message) };
        read.ok_or(UndeliveredGroupMessage::Malformed)
    }

    fn read_msgpack(&self, message: &[u8]) -> Option<GroupMessage> {
        let limits = ValueLimits { bytes: self.max_bytes, items: MAX_VALUES, depth: MAX_DEPTH };
        let Ok(Value::Map(pairs)) = msgpack::read_value(message, limits) else { return None };
        let mut read = GroupMessage { members: Vec::with_capacity(pairs.len()), receivers: Vec::new() };
        for (key, value) in pairs {
            let (name, _) = key_text(&key).ok()?;
            if name == RECEIVERS {
                read.receivers = texts(&value);
                continue;
            }
            let value = match value {
                Value::Bytes(bytes) => MemberValue::Bytes(bytes),
                value => {
                    let mut json = String::new();
                    let has_bytes = push_value(&mut json, &value).ok()?;
                    MemberValue::Json(json, has_bytes)
                }
            };
            read.members.push((name, value));
        }
        Some(read)
    }

    /// Encodes a message as a form of delivery; `None` if its `type` is not delivered, or nothing is left to deliver.
    ///
    /// # Errors
    ///
    /// When it lacks a field, or has byte strings that are refused.
    pub fn deliver(
        &self,
        message: &GroupMessage,
        delivery: &GroupDelivery,
    ) -> Result<Option<Vec<u8>>, UndeliveredGroupMessage> {
        if !delivery.types.is_empty() {
            let kind = message.get("type").and_then(MemberValue::text);
            if !kind.is_some_and(|kind| delivery.types.iter().any(|wanted| **wanted == *kind)) {
                return Ok(None);
            }
        }
        let delivered = match &delivery.part {
            DeliveredPart::Event => {
                let mut out = String::from("{");
                for (index, (name, value)) in message.members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    push_json_string(&mut out, name);
                    out.push(':');
                    self.push(&mut out, value)?;
                }
                out.push('}');
                out.into_bytes()
            }
            DeliveredPart::Field(name) => match message.get(name).ok_or(UndeliveredGroupMessage::Field)? {
                MemberValue::Bytes(bytes) => bytes.clone(),
                MemberValue::Json(json, _) if json.starts_with('"') => {
                    // It is valid: it has been written here, or checked.
                    unescape_json(json).unwrap_or_default().into_owned().into_bytes()
                }
                value @ MemberValue::Json(..) => {
                    let mut out = String::new();
                    self.push(&mut out, value)?;
                    out.into_bytes()
                }
            },
            DeliveredPart::Template(pieces) => {
                let mut out = String::new();
                for piece in pieces {
                    match piece {
                        DeliveryPiece::Text(text) => out.push_str(text),
                        DeliveryPiece::Field(name) => {
                            let value = message.get(name).ok_or(UndeliveredGroupMessage::Field)?;
                            self.push(&mut out, value)?;
                        }
                    }
                }
                out.into_bytes()
            }
        };
        if delivered.len() > self.max_bytes {
            // Escapes and base64 are longer than what they stand for.
            return Err(UndeliveredGroupMessage::TooLong);
        }
        // An empty message would look like a heartbeat.
        Ok((!delivered.is_empty()).then_some(delivered))
    }

    fn push(&self, out: &mut String, value: &MemberValue) -> Result<(), UndeliveredGroupMessage> {
        match value {
            MemberValue::Json(_, true) | MemberValue::Bytes(_) if self.refuses_bytes => {
                return Err(UndeliveredGroupMessage::Bytes);
            }
            MemberValue::Json(json, _) => out.push_str(json),
            MemberValue::Bytes(bytes) => {
                out.push('"');
                BASE64_STANDARD.encode_string(bytes, out);
                out.push('"');
            }
        }
        Ok(())
    }
}

impl GroupMessage {
    /// Returns the last member of a name.
    fn get(&self, name: &str) -> Option<&MemberValue> {
        self.members.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

impl MemberValue {
    /// Returns a text.
    fn text(&self) -> Option<String> {
        match self {
            Self::Json(json, _) if json.starts_with('"') => unescape_json(json).map(Cow::into_owned),
            _ => None,
        }
    }
}

fn read_json(message: &[u8]) -> Option<GroupMessage> {
    let mut compact = String::new();
    push_compact_json(&mut compact, std::str::from_utf8(message).ok()?, None).ok()?;
    let mut read = GroupMessage { members: Vec::new(), receivers: Vec::new() };
    for member in JsonMembers::new(&compact)? {
        let (key, value) = member.ok()?;
        let name = unescape_json(key)?.into_owned();
        if name == RECEIVERS {
            read.receivers = json_texts(value);
            continue;
        }
        read.members.push((name, MemberValue::Json(value.to_owned(), false)));
    }
    Some(read)
}

/// Returns a text, or the texts of a list.
fn texts(value: &Value) -> Vec<String> {
    let items = if let Value::List(items) = value { items.as_slice() } else { std::slice::from_ref(value) };
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn json_texts(json: &str) -> Vec<String> {
    let text = |item: &str| unescape_json(item).map(Cow::into_owned);
    match JsonElements::new(json) {
        Some(items) => items.filter_map(|item| text(item.ok()?)).collect(),
        None => text(json).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{RedisSettings, Settings};

    fn reader(kind: LayerKind, is_json: bool, keys: &[&str], refuses_bytes: bool) -> GroupReader {
        let layer = ChannelLayer {
            kind,
            prefix: "asgi".to_owned(),
            hosts: Vec::<RedisSettings>::new(),
            is_json,
            encryption_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            capacity: 100,
            keep_seconds: 0,
            refuses_bytes,
        };
        GroupReader::new(&layer, Settings::built_in().unwrap().messages.max_delivery_bytes)
    }

    fn delivery(part: DeliveredPart, types: &[&str]) -> GroupDelivery {
        GroupDelivery { part, types: types.iter().map(|kind| (*kind).into()).collect() }
    }

    /// `{"type": "new_message", "n": 1, "b": b"\xff", "t": "hi", "l": [b""]}` in msgpack.
    const MESSAGE: &[u8] =
        b"\x85\xa4type\xabnew_message\xa1n\x01\xa1b\xc4\x01\xff\xa1t\xa2hi\xa1l\x91\xc4\x00";

    #[track_caller]
    fn check(
        reader: &GroupReader,
        part: DeliveredPart,
        types: &[&str],
        expected: Result<Option<&[u8]>, UndeliveredGroupMessage>,
    ) {
        let message = reader.read(MESSAGE, 0).unwrap();
        let delivered = reader.deliver(&message, &delivery(part, types));
        assert_eq!(delivered.as_ref().map(|bytes| bytes.as_deref()).map_err(|error| *error), expected);
    }

    #[test]
    fn an_event_a_field_or_a_template_is_delivered() {
        let reader = reader(LayerKind::PubSub, false, &[], false);
        let field = |name: &str| DeliveredPart::Field(name.into());
        let all = br#"{"type":"new_message","n":1,"b":"/w==","t":"hi","l":[""]}"#;
        check(&reader, DeliveredPart::Event, &[], Ok(Some(all)));
        check(&reader, field("t"), &["x", "new_message"], Ok(Some(b"hi")));
        check(&reader, field("t"), &["x"], Ok(None));
        check(&reader, field("b"), &[], Ok(Some(b"\xff")));
        check(&reader, field("n"), &[], Ok(Some(b"1")));
        check(&reader, field("x"), &[], Err(UndeliveredGroupMessage::Field));
        let pieces = [
            DeliveryPiece::Text("[".into()),
            DeliveryPiece::Field("t".into()),
            DeliveryPiece::Text("]".into()),
        ];
        check(&reader, DeliveredPart::Template(pieces.into()), &[], Ok(Some(br#"["hi"]"#)));
    }

    #[test]
    fn byte_strings_are_refused_only_within_json() {
        let reader = reader(LayerKind::PubSub, false, &[], true);
        let field = |name: &str| DeliveredPart::Field(name.into());
        check(&reader, DeliveredPart::Event, &[], Err(UndeliveredGroupMessage::Bytes));
        check(&reader, field("l"), &[], Err(UndeliveredGroupMessage::Bytes));
        check(&reader, field("b"), &[], Ok(Some(b"\xff")));
        check(&reader, field("t"), &[], Ok(Some(b"hi")));
    }

    #[test]
    fn json_is_delivered_as_it_is_without_the_receivers() {
        let reader = reader(LayerKind::Core, true, &[], false);
        let stored =
            br#"0123456789ab{"type": "a", "n": 1.50, "x": NaN, "__asgi_channel__": ["gw.0!a", "gw.0!b"]}"#;
        let message = reader.read(reader.strip(stored).unwrap(), 0).unwrap();
        assert_eq!(message.receivers, ["gw.0!a", "gw.0!b"]);
        let delivered = reader.deliver(&message, &delivery(DeliveredPart::Event, &[])).unwrap();
        assert_eq!(delivered.as_deref(), Some(&br#"{"type":"a","n":1.50,"x":null}"#[..]));
    }

    #[test]
    fn malformed_messages_are_refused() {
        use UndeliveredGroupMessage::{Encrypted, Malformed};
        let plain = reader(LayerKind::PubSub, false, &[], false);
        let deep = [&b"\x81\xa1a"[..], &[0x91; 70], b"\xc0"].concat();
        for wrong in
            [&b""[..], b"\xc0", b"\x81", b"\x80\xc0", b"\x81\xa1a\xd4\x05\x00", b"\x81\x90\xc0", &deep]
        {
            assert_eq!(plain.read(wrong, 0), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(reader(LayerKind::PubSub, true, &[], false).read(b"[1]", 0), Err(Malformed));
        assert_eq!(reader(LayerKind::PubSub, false, &["k"], false).read(MESSAGE, 0), Err(Encrypted));
        let core = reader(LayerKind::Core, false, &["k"], false);
        assert_eq!(core.strip(b"short"), Err(Malformed));
        let token = FernetKeys::new(&["k".to_owned()]).encrypt(MESSAGE, 1_000, [1; 16]);
        assert!(core.read(&token, 1_070).is_ok() && core.read_kept(&token).is_ok());
        assert_eq!(core.read(&token, 1_071), Err(Encrypted));
        assert!(reader(LayerKind::PubSub, false, &["other", "k"], false).read(&token, 9_999).is_ok());
    }
}
