//! Packets of Engine.IO, and the WebSocket messages that carry them.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

/// The protocol that a client announces in `EIO`. Socket.IO's protocol follows from it: 4 over Engine.IO 3 (clients 1.x
/// and 2.x), 5 over Engine.IO 4 (clients 3.x and 4.x).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineVersion {
    /// `EIO=3`
    V3,
    /// `EIO=4`
    V4,
}

impl EngineVersion {
    /// Reads the value of `EIO`. Nothing but `3` and `4` is a version, not even `03`.
    pub fn from_query(value: &str) -> Option<Self> {
        match value {
            "3" => Some(Self::V3),
            "4" => Some(Self::V4),
            _ => None,
        }
    }
}

/// The type of a packet, in the order of its digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineType {
    /// Begins a session; only servers send it.
    Open,
    /// Ends the transport.
    Close,
    /// Asks for a pong with the same data.
    Ping,
    /// Answers a ping.
    Pong,
    /// Carries a message.
    Message,
    /// Moves the session to the WebSocket that sends it.
    Upgrade,
    /// Answers a poll that must end although nothing waits; only servers send it.
    Noop,
}

impl EngineType {
    const ALL: [Self; 7] =
        [Self::Open, Self::Close, Self::Ping, Self::Pong, Self::Message, Self::Upgrade, Self::Noop];

    /// Returns the character that stands for the type.
    pub const fn digit(self) -> char {
        (b'0' + self as u8) as char
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte.checked_sub(b'0')?)).copied()
    }
}

/// A packet as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnginePacket<'a> {
    /// A packet of text: its type, and the text behind the digit.
    Text(EngineType, Cow<'a, str>),
    /// A binary message, without its type byte.
    Attachment(Bytes),
}

/// Why bytes are not a packet or a payload. All of them end the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnginePacketError {
    /// The payload exceeds the caller's limit of bytes.
    #[error("the payload is too large")]
    TooLarge,
    /// The payload exceeds the caller's limit of packets.
    #[error("the payload has too many packets")]
    TooManyPackets,
    /// Text is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A packet, or the payload itself, is empty.
    #[error("the packet is empty")]
    Empty,
    /// The first character or byte names no type, or none that this form can carry.
    #[error("the packet has an unknown type")]
    UnknownType,
    /// A length is missing, zero, or exceeds the payload.
    #[error("the length of a packet is invalid")]
    InvalidLength,
    /// An attachment is not padded base64 in the standard alphabet.
    #[error("the attachment is not base64")]
    InvalidBase64,
}

/// Decodes a text message of a WebSocket, or one record of a polling payload in text.
///
/// Attachments in base64 (`b…`, in protocol 3 `b4…`) are accepted on a WebSocket too: clients with `forceBase64` send
/// them there (`encodePacket` of engine.io-parser).
///
/// # Errors
///
/// When the message is empty, its type is unknown, or its base64 is invalid.
pub fn decode_text(version: EngineVersion, text: &str) -> Result<EnginePacket<'_>, EnginePacketError> {
    let first = *text.as_bytes().first().ok_or(EnginePacketError::Empty)?;
    if first == b'b' {
        let encoded = match version {
            EngineVersion::V3 => text.strip_prefix("b4").ok_or(EnginePacketError::UnknownType)?,
            EngineVersion::V4 => &text[1..],
        };
        let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| EnginePacketError::InvalidBase64)?;
        return Ok(EnginePacket::Attachment(decoded.into()));
    }
    let kind = EngineType::from_byte(first).ok_or(EnginePacketError::UnknownType)?;
    Ok(EnginePacket::Text(kind, Cow::Borrowed(&text[1..])))
}

/// Decodes a binary message of a WebSocket to the attachment, which shares its memory.
///
/// Protocol 3 puts the type in front of it, as a byte of value 4 and not a digit.
///
/// # Errors
///
/// When protocol 3's type byte is missing, or is not that of a message.
pub fn decode_binary(version: EngineVersion, message: &Bytes) -> Result<Bytes, EnginePacketError> {
    match version {
        EngineVersion::V3 => attachment_v3(message).map(|attachment| message.slice_ref(attachment)),
        EngineVersion::V4 => Ok(message.clone()),
    }
}

/// Strips the type byte that protocol 3 puts in front of an attachment.
pub(super) fn attachment_v3(packet: &[u8]) -> Result<&[u8], EnginePacketError> {
    match packet {
        [MESSAGE_BYTE, attachment @ ..] => Ok(attachment),
        [] => Err(EnginePacketError::Empty),
        _ => Err(EnginePacketError::UnknownType),
    }
}

/// The type byte of a binary packet in protocol 3.
pub(super) const MESSAGE_BYTE: u8 = EngineType::Message as u8;

/// Appends a packet of text, as a WebSocket's text message carries it.
pub fn push_text(out: &mut String, kind: EngineType, data: &str) {
    out.reserve(1 + data.len());
    out.push(kind.digit());
    out.push_str(data);
}

/// Returns the binary message of a WebSocket that carries an attachment.
pub fn binary_message(version: EngineVersion, attachment: &[u8]) -> Cow<'_, [u8]> {
    match version {
        EngineVersion::V3 => Cow::Owned([&[MESSAGE_BYTE][..], attachment].concat()),
        EngineVersion::V4 => Cow::Borrowed(attachment),
    }
}

/// The data of the open packet. Not `Debug`, because it holds a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OpenPacket<'a> {
    /// The secret id of the session: characters of `[A-Za-z0-9_-]` only, since it is written without escapes.
    pub sid: &'a str,
    /// Whether the client may upgrade to a WebSocket.
    pub can_upgrade: bool,
    /// Milliseconds between two pings.
    pub ping_interval_ms: u64,
    /// Milliseconds that a ping's answer may take.
    pub ping_timeout_ms: u64,
    /// Largest message or payload that the server accepts. Clients of protocol 3 ignore it.
    pub max_payload: usize,
}

impl OpenPacket<'_> {
    /// Appends the packet: exactly these five keys, in the order of the official server. The official test suite of
    /// protocol 4 allows no other key.
    pub fn push(&self, out: &mut String) {
        debug_assert!(self.sid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        let upgrades = if self.can_upgrade { r#"["websocket"]"# } else { "[]" };
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"0{{"sid":"{}","upgrades":{upgrades},"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            self.sid, self.ping_interval_ms, self.ping_timeout_ms, self.max_payload
        );
    }
}

#[cfg(test)]
mod tests {
    use super::EngineVersion::{V3, V4};
    use super::*;

    fn text(kind: EngineType, data: &str) -> EnginePacket<'_> {
        EnginePacket::Text(kind, data.into())
    }

    #[test]
    fn the_open_packet_has_five_keys() {
        let mut out = String::new();
        let open = OpenPacket {
            sid: "E1",
            can_upgrade: true,
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            max_payload: 1_000_000,
        };
        open.push(&mut out);
        let expected = r#"0{"sid":"E1","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
        assert_eq!(out, expected);
        out.clear();
        OpenPacket { can_upgrade: false, ..open }.push(&mut out);
        assert!(out.contains(r#""upgrades":[],"#));
    }

    #[test]
    fn text_messages_are_packets_of_their_first_digit() {
        assert_eq!(decode_text(V4, "2probe"), Ok(text(EngineType::Ping, "probe")));
        assert_eq!(decode_text(V4, "5"), Ok(text(EngineType::Upgrade, "")));
        assert_eq!(decode_text(V3, r#"42["ż€"]"#), Ok(text(EngineType::Message, r#"2["ż€"]"#)));
        assert_eq!(decode_text(V4, ""), Err(EnginePacketError::Empty));
        for unknown in ["7", "/", ":", "ż", " 4", "x"] {
            assert_eq!(decode_text(V4, unknown), Err(EnginePacketError::UnknownType), "{unknown}");
        }
    }

    #[test]
    fn base64_is_strict_and_has_the_type_digit_in_protocol_3() {
        let attachment = Ok(EnginePacket::Attachment(Bytes::from_static(&[1, 2, 3, 4])));
        assert_eq!(decode_text(V4, "bAQIDBA=="), attachment);
        assert_eq!(decode_text(V3, "b4AQIDBA=="), attachment);
        assert_eq!(decode_text(V4, "b"), Ok(EnginePacket::Attachment(Bytes::new())));
        assert_eq!(decode_text(V3, "bAQIDBA=="), Err(EnginePacketError::UnknownType));
        for invalid in ["bAQIDBA", "bAQID-A==", "b AQI", "bA", "bAQIDBB=="] {
            assert_eq!(decode_text(V4, invalid), Err(EnginePacketError::InvalidBase64), "{invalid}");
        }
    }

    #[test]
    fn binary_messages_have_a_type_byte_in_protocol_3_only() {
        let message = Bytes::from_static(&[4, 9, 8]);
        let attachment = decode_binary(V3, &message);
        assert_eq!(attachment, Ok(Bytes::from_static(&[9, 8])));
        assert_eq!(attachment.map(|bytes| bytes.as_ptr()), Ok(message[1..].as_ptr()), "no copy");
        assert_eq!(decode_binary(V4, &message), Ok(message.clone()));
        assert_eq!(decode_binary(V3, &Bytes::new()), Err(EnginePacketError::Empty));
        assert_eq!(decode_binary(V3, &Bytes::from_static(b"4x")), Err(EnginePacketError::UnknownType));
        assert_eq!(&*binary_message(V3, &[9, 8]), [4, 9, 8]);
        assert_eq!(&*binary_message(V4, &[9, 8]), [9, 8]);
    }

    #[test]
    fn versions_are_exact() {
        assert_eq!(EngineVersion::from_query("3"), Some(V3));
        assert_eq!(EngineVersion::from_query("4"), Some(V4));
        for other in ["", "5", "2", "04", "4 ", "４"] {
            assert_eq!(EngineVersion::from_query(other), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(digit in 0_usize..7, data in ".*", bytes: Vec<u8>) {
            let kind = EngineType::ALL[digit];
            let mut out = String::new();
            push_text(&mut out, kind, &data);
            for version in [V3, V4] {
                proptest::prop_assert_eq!(decode_text(version, &out), Ok(text(kind, &data)));
                let message = Bytes::from(binary_message(version, &bytes).into_owned());
                proptest::prop_assert_eq!(decode_binary(version, &message).map(|found| found.to_vec()), Ok(bytes.clone()));
            }
        }
    }
}
