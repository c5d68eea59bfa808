//! Packets of Socket.IO: `<type>[<attachments>-][<namespace>,][<ack id>][<JSON>]`, the text of a message of Engine.IO.

use std::borrow::Cow;

use super::json::{InvalidJson, validate_json};
use super::split::JsonElements;
use super::tokens::{is_space, unescape_json};
use crate::wire::engine_io::EngineVersion;

/// Longest name of a namespace, in bytes.
pub const MAX_NAMESPACE_BYTES: usize = 256;

/// Most digits of an ack id, and the largest one: clients count in a double.
const MAX_ID_DIGITS: usize = 16;
const MAX_ID: u64 = 1 << 53;

/// Names that Socket.IO keeps for events of its own (`RESERVED_EVENTS` of socket.io and `component-emitter`).
const RESERVED_EVENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Returns whether an event must not have this name: clients take its packet for invalid.
pub fn is_reserved_event(name: &str) -> bool {
    RESERVED_EVENTS.contains(&name)
}

/// The type of a packet, in the order of its digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// Joins a namespace, or answers that.
    Connect,
    /// Leaves a namespace.
    Disconnect,
    /// An event: an array that begins with its name.
    Event,
    /// The acknowledgement of an event: an array.
    Ack,
    /// Refuses a CONNECT; only servers send it. Protocol 4 calls it ERROR.
    ConnectError,
    /// An event with attachments.
    BinaryEvent,
    /// An acknowledgement with attachments.
    BinaryAck,
}

impl SocketType {
    const ALL: [Self; 7] = [
        Self::Connect,
        Self::Disconnect,
        Self::Event,
        Self::Ack,
        Self::ConnectError,
        Self::BinaryEvent,
        Self::BinaryAck,
    ];

    /// Returns the character that stands for the type.
    pub const fn digit(self) -> char {
        (b'0' + self as u8) as char
    }

    /// Returns whether binary packets of attachments follow.
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::BinaryEvent | Self::BinaryAck)
    }

    /// Returns whether the data begins with the name of an event.
    pub const fn is_event(self) -> bool {
        matches!(self, Self::Event | Self::BinaryEvent)
    }

    const fn is_ack(self) -> bool {
        matches!(self, Self::Ack | Self::BinaryAck)
    }
}

/// A valid packet, as slices of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketPacket<'a> {
    /// The type. A server must refuse [`SocketType::ConnectError`].
    pub kind: SocketType,
    /// Number of binary packets that follow.
    pub attachments: usize,
    /// The namespace: `/`, or a name that begins with it.
    pub namespace: &'a str,
    /// The raw query of a CONNECT in protocol 4, without `?`: clients 1.x and 2.x have no other place for credentials.
    pub query: Option<&'a str>,
    /// The ack id: of an event that wants to be acknowledged, or of an acknowledgement.
    pub id: Option<u64>,
    /// The valid JSON, without white space around it. Empty if there is none.
    pub data: &'a str,
}

/// Why a text is no packet. All of them end the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SocketPacketError {
    /// The first character is no type.
    #[error("the packet has an unknown type")]
    UnknownType,
    /// The number of attachments is missing.
    #[error("the number of attachments is missing")]
    AttachmentCount,
    /// The packet announces more attachments than the caller's limit.
    #[error("the packet has too many attachments")]
    TooManyAttachments,
    /// The namespace is too long or has a control character.
    #[error("the namespace is invalid")]
    Namespace,
    /// The ack id is too large, is missing, or stands where none is allowed.
    #[error("the ack id is invalid")]
    AckId,
    /// The data is not acceptable JSON.
    #[error("the data is invalid: {0}")]
    Json(#[from] InvalidJson),
    /// The data is missing, or is not of the kind that the type requires.
    #[error("the data does not fit the type")]
    DataKind,
    /// An event has no name, or a reserved one.
    #[error("the name of the event is missing or reserved")]
    EventName,
}

impl<'a> SocketPacket<'a> {
    /// Decodes a packet without copying its data. The caller limits the length of the text.
    ///
    /// # Errors
    ///
    /// When a rule of `socket.io-parser` (`decodeString`, `isPayloadValid`) is broken, or a limit exceeded.
    pub fn decode(
        version: EngineVersion,
        text: &'a str,
        max_attachments: usize,
    ) -> Result<Self, SocketPacketError> {
        let (kind, rest) = take_type(text)?;
        let (attachments, rest) =
            if kind.is_binary() { take_attachments(rest, max_attachments)? } else { (0, rest) };
        let (namespace, rest) = take_namespace(rest);
        let (namespace, query) = match namespace.split_once('?') {
            Some((name, query)) if version == EngineVersion::V3 && kind == SocketType::Connect => {
                (name, Some(query))
            }
            _ => (namespace, None),
        };
        let has_control = |text: &str| text.contains(char::is_control);
        // A query has no limit of its own: it may hold a token.
        if namespace.len() > MAX_NAMESPACE_BYTES || has_control(namespace) || query.is_some_and(has_control) {
            return Err(SocketPacketError::Namespace);
        }
        let (id, rest) = take_id(rest)?;
        // White space in front stays and is refused below: socket.io-parser reads it as the ack id 0.
        let data = rest.trim_end_matches(|c: char| u8::try_from(c).is_ok_and(is_space));
        let packet = Self { kind, attachments, namespace, query, id, data };
        packet.validate(version)?;
        Ok(packet)
    }

    fn validate(&self, version: EngineVersion) -> Result<(), SocketPacketError> {
        let may_have_id = self.kind.is_event() || self.kind.is_ack();
        if self.id.is_some() && !may_have_id || self.id.is_none() && self.kind.is_ack() {
            return Err(SocketPacketError::AckId);
        }
        let first = self.data.bytes().next();
        let has_right_kind = match (self.kind, version) {
            (SocketType::Connect, EngineVersion::V3) | (SocketType::Disconnect, _) => first.is_none(),
            (SocketType::Connect, EngineVersion::V4) => matches!(first, None | Some(b'{')),
            (SocketType::ConnectError, EngineVersion::V3) => first.is_some_and(|byte| !is_space(byte)),
            (SocketType::ConnectError, EngineVersion::V4) => first == Some(b'{'),
            _ => first == Some(b'['),
        };
        if !has_right_kind {
            return Err(SocketPacketError::DataKind);
        }
        if first.is_some() {
            // Only binary packets have placeholders; in others they are objects like any other.
            validate_json(self.data, self.kind.is_binary().then_some(self.attachments))?;
        }
        if self.kind.is_event() {
            let name = self.event_name().ok_or(SocketPacketError::EventName)?;
            if is_reserved_event(&name) {
                return Err(SocketPacketError::EventName);
            }
        }
        Ok(())
    }

    /// Returns the name of an event; `None` for other packets. A number, which JavaScript clients allow, is its digits.
    pub fn event_name(&self) -> Option<Cow<'a, str>> {
        if !self.kind.is_event() {
            return None;
        }
        let first = JsonElements::new(self.data)?.next()?.ok()?;
        match first.bytes().next()? {
            b'"' => unescape_json(first),
            b'-' | b'0'..=b'9' => Some(Cow::Borrowed(first)),
            _ => None,
        }
    }

    /// Returns the arguments of an event, or of an acknowledgement, each as JSON.
    pub fn arguments(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let has_arguments = self.kind.is_event() || self.kind.is_ack();
        let elements = if has_arguments { JsonElements::new(self.data) } else { None };
        // The data is valid, so no element is an error.
        elements.into_iter().flatten().flatten().skip(usize::from(self.kind.is_event()))
    }
}

fn take_type(text: &str) -> Result<(SocketType, &str), SocketPacketError> {
    let digit = text.bytes().next().and_then(|byte| byte.checked_sub(b'0'));
    let kind = digit.and_then(|digit| SocketType::ALL.get(usize::from(digit)));
    let kind = kind.ok_or(SocketPacketError::UnknownType)?;
    Ok((*kind, &text[1..]))
}

fn take_attachments(text: &str, max: usize) -> Result<(usize, &str), SocketPacketError> {
    let (digits, rest) = take_digits(text);
    let rest = rest.strip_prefix('-').ok_or(SocketPacketError::AttachmentCount)?;
    if digits.is_empty() {
        return Err(SocketPacketError::AttachmentCount);
    }
    // Digits that exceed the type exceed the limit as well.
    match digits.parse() {
        Ok(count) if count <= max => Ok((count, rest)),
        _ => Err(SocketPacketError::TooManyAttachments),
    }
}

/// Takes the namespace up to its comma or to the end; without one it is `/`.
fn take_namespace(text: &str) -> (&str, &str) {
    if text.starts_with('/') { text.split_once(',').unwrap_or((text, "")) } else { ("/", text) }
}

fn take_id(text: &str) -> Result<(Option<u64>, &str), SocketPacketError> {
    let (digits, rest) = take_digits(text);
    if digits.is_empty() {
        return Ok((None, text));
    }
    let id = if digits.len() <= MAX_ID_DIGITS { digits.parse().ok() } else { None };
    let id = id.filter(|id| *id <= MAX_ID).ok_or(SocketPacketError::AckId)?;
    Ok((Some(id), rest))
}

fn take_digits(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

#[cfg(test)]
mod tests {
    use super::EngineVersion::{V3, V4};
    use super::*;

    fn decode(text: &str) -> Result<SocketPacket<'_>, SocketPacketError> {
        SocketPacket::decode(V4, text, 10)
    }

    const CONNECT: SocketPacket<'_> = SocketPacket {
        kind: SocketType::Connect,
        attachments: 0,
        namespace: "/",
        query: None,
        id: None,
        data: "",
    };
    const EVENT: SocketPacket<'_> = SocketPacket { kind: SocketType::Event, ..CONNECT };

    #[test]
    fn packets_of_the_contract_are_decoded() {
        let placeholder = r#"["hello","ż€",{"_placeholder":true,"num":0}]"#;
        for (text, expected) in [
            ("0", CONNECT),
            (r#"0{"token":"t1"}"#, SocketPacket { data: r#"{"token":"t1"}"#, ..CONNECT }),
            ("0/chat", SocketPacket { namespace: "/chat", ..CONNECT }),
            ("0/chat,", SocketPacket { namespace: "/chat", ..CONNECT }),
            (r#"0/chat,{"a":1}"#, SocketPacket { namespace: "/chat", data: r#"{"a":1}"#, ..CONNECT }),
            ("1", SocketPacket { kind: SocketType::Disconnect, ..CONNECT }),
            ("1/chat,", SocketPacket { kind: SocketType::Disconnect, namespace: "/chat", ..CONNECT }),
            (r#"2["hi",1]"#, SocketPacket { data: r#"["hi",1]"#, ..EVENT }),
            (
                r#"2/chat,7["hi"]"#,
                SocketPacket { namespace: "/chat", id: Some(7), data: r#"["hi"]"#, ..EVENT },
            ),
            ("2[7]", SocketPacket { data: "[7]", ..EVENT }),
            (
                r#"30["got",2]"#,
                SocketPacket { kind: SocketType::Ack, id: Some(0), data: r#"["got",2]"#, ..EVENT },
            ),
            (
                "39007199254740992[]",
                SocketPacket { kind: SocketType::Ack, id: Some(1 << 53), data: "[]", ..EVENT },
            ),
            (
                r#"51-0["hello","ż€",{"_placeholder":true,"num":0}]"#,
                SocketPacket {
                    kind: SocketType::BinaryEvent,
                    attachments: 1,
                    id: Some(0),
                    data: placeholder,
                    ..EVENT
                },
            ),
            (
                r#"61-/x,1[42,{"_placeholder":true,"num":0}]"#,
                SocketPacket {
                    kind: SocketType::BinaryAck,
                    attachments: 1,
                    namespace: "/x",
                    id: Some(1),
                    data: r#"[42,{"_placeholder":true,"num":0}]"#,
                    ..EVENT
                },
            ),
            (r#"50-["f"]"#, SocketPacket { kind: SocketType::BinaryEvent, data: r#"["f"]"#, ..EVENT }),
            (
                r#"2["f",{"_placeholder":true,"num":0}]"#,
                SocketPacket { data: r#"["f",{"_placeholder":true,"num":0}]"#, ..EVENT },
            ),
        ] {
            assert_eq!(decode(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_query_belongs_to_connect_in_protocol_4() {
        let packet = SocketPacket::decode(V3, "0/chat?token=abc&uid=1,", 0);
        assert_eq!(
            packet,
            Ok(SocketPacket { namespace: "/chat", query: Some("token=abc&uid=1"), ..CONNECT })
        );
        let long = format!("0/chat?token={}", "t".repeat(1_000));
        let token = SocketPacket::decode(V3, &long, 0).map(|packet| packet.query.map(str::len));
        assert_eq!((token, decode(&long)), (Ok(Some(1_006)), Err(SocketPacketError::Namespace)));
        assert_eq!(SocketPacket::decode(V3, "0/chat?a\nb", 0), Err(SocketPacketError::Namespace));
        assert_eq!(decode("0/chat?a"), Ok(SocketPacket { namespace: "/chat?a", ..CONNECT }));
        let event = SocketPacket::decode(V3, r#"2/c?a,["x"]"#, 0).map(|packet| packet.namespace);
        assert_eq!(event, Ok("/c?a"));
        assert_eq!(SocketPacket::decode(V3, "0{}", 0), Err(SocketPacketError::DataKind));
        assert_eq!(
            SocketPacket::decode(V3, "4 2.1", 0),
            Err(SocketPacketError::DataKind),
            "or it is the ack id 2"
        );
        let error = SocketPacket::decode(V3, r#"4/x,"Invalid namespace""#, 0).map(|packet| packet.data);
        assert_eq!(error, Ok(r#""Invalid namespace""#));
    }

    #[test]
    fn everything_else_is_refused() {
        use SocketPacketError as E;
        let long = format!("0/{}", "n".repeat(256));
        for (text, error) in [
            ("", E::UnknownType),
            ("7[]", E::UnknownType),
            ("x", E::UnknownType),
            ("5[\"a\"]", E::AttachmentCount),
            ("5-[\"a\"]", E::AttachmentCount),
            ("51[\"a\"]", E::AttachmentCount),
            ("511-[\"a\"]", E::TooManyAttachments),
            ("599999999999999999999999-[\"a\"]", E::TooManyAttachments),
            ("51-[\"a\",{\"_placeholder\":true,\"num\":1}]", E::Json(InvalidJson::Placeholder)),
            (&long, E::Namespace),
            ("0/a\nb", E::Namespace),
            ("0/a\u{85}", E::Namespace),
            ("2/chat[\"a\"]", E::DataKind),
            ("2", E::DataKind),
            ("2{}", E::DataKind),
            ("2\"a\"", E::DataKind),
            ("2 [\"a\"]", E::DataKind),
            ("21-[\"a\"]", E::DataKind),
            ("2[]", E::EventName),
            ("2[null]", E::EventName),
            ("2[[\"a\"]]", E::EventName),
            ("2[\"connect\"]", E::EventName),
            ("2[\"disconn\\u0065ct\",1]", E::EventName),
            ("2[\"a\"] x", E::Json(InvalidJson::Syntax)),
            ("2[\"a\",NaN]", E::Json(InvalidJson::Syntax)),
            ("0[]", E::DataKind),
            ("0null", E::DataKind),
            ("00", E::AckId),
            ("1{}", E::DataKind),
            ("11", E::AckId),
            ("3[]", E::AckId),
            ("43", E::AckId),
            ("31", E::DataKind),
            ("31{}", E::DataKind),
            ("39007199254740993[]", E::AckId),
            ("300000000000000001[]", E::AckId),
            ("4\"x\"", E::DataKind),
        ] {
            assert_eq!(decode(text), Err(error), "{text}");
        }
    }

    #[test]
    fn names_and_arguments_are_slices() {
        let packet = decode(r#"2[ "a\u0062" , [1, 2],{"x":"]"} ] "#).unwrap();
        assert_eq!(packet.event_name().as_deref(), Some("ab"));
        assert_eq!(packet.arguments().collect::<Vec<_>>(), ["[1, 2]", r#"{"x":"]"}"#]);
        let ack = decode("37[1,null]").unwrap();
        assert_eq!((ack.event_name(), ack.arguments().collect::<Vec<_>>()), (None, vec!["1", "null"]));
        assert_eq!(decode(r#"0{"a":1}"#).unwrap().arguments().count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[0-7]?[0-9]{0,2}[-/]?([\[\]{}"\\,:a-c0-9 ?é]|"a"|true){0,20}"#) {
            for version in [V3, V4] {
                if let Ok(packet) = SocketPacket::decode(version, &text, 3) {
                    proptest::prop_assert!(packet.attachments <= 3 && packet.namespace.starts_with('/'));
                    proptest::prop_assert_eq!(packet.event_name().is_some(), packet.kind.is_event());
                }
            }
        }
    }
}
