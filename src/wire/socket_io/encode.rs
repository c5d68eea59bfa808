//! Encoding of packets as text.

use std::fmt::Write;

use super::data::EventData;
use super::packet::{SocketPacket, SocketType};
use super::strings::{push_ascii_json, push_json_string};
use crate::wire::engine_io::EngineVersion;

/// Appends the part of a packet before the ack id. What follows it, the id and the data, can then be shared or varied.
pub fn push_head(out: &mut String, kind: SocketType, attachments: usize, namespace: &str) {
    out.push(kind.digit());
    if kind.is_binary() {
        push_number(out, attachments as u64);
        out.push('-');
    }
    push_namespace(out, namespace, None);
}

/// Appends an ack id.
pub fn push_id(out: &mut String, id: Option<u64>) {
    if let Some(id) = id {
        push_number(out, id);
    }
}

fn push_namespace(out: &mut String, namespace: &str, query: Option<&str>) {
    if namespace != "/" || query.is_some() {
        out.push_str(namespace);
        if let Some(query) = query {
            out.push('?');
            out.push_str(query);
        }
        out.push(',');
    }
}

fn push_number(out: &mut String, number: u64) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{number}");
}

/// Appends a packet as `socket.io-parser` encodes it (`encodeAsString`).
pub fn push_packet(out: &mut String, packet: &SocketPacket<'_>) {
    out.reserve(packet.namespace.len() + packet.data.len() + 24);
    if packet.query.is_some() {
        out.push(packet.kind.digit());
        push_namespace(out, packet.namespace, packet.query);
    } else {
        push_head(out, packet.kind, packet.attachments, packet.namespace);
    }
    push_id(out, packet.id);
    out.push_str(packet.data);
}

/// Appends the packet of an event. Its attachments follow in packets of their own.
pub fn push_event(out: &mut String, namespace: &str, id: Option<u64>, event: &EventData) {
    push_data(out, [SocketType::Event, SocketType::BinaryEvent], namespace, id, event);
}

/// Appends the packet of an acknowledgement. Its attachments follow in packets of their own.
pub fn push_ack(out: &mut String, namespace: &str, id: u64, arguments: &EventData) {
    push_data(out, [SocketType::Ack, SocketType::BinaryAck], namespace, Some(id), arguments);
}

fn push_data(
    out: &mut String,
    [text, binary]: [SocketType; 2],
    namespace: &str,
    id: Option<u64>,
    data: &EventData,
) {
    let attachments = data.attachments().len();
    let kind = if attachments > 0 { binary } else { text };
    let packet = SocketPacket { kind, attachments, namespace, query: None, id, data: data.json() };
    push_packet(out, &packet);
}

/// Appends the answer to a CONNECT: with the public sid in protocol 5; protocol 4 has no place for it.
pub fn push_connected(out: &mut String, version: EngineVersion, namespace: &str, sid: &str) {
    push_head(out, SocketType::Connect, 0, namespace);
    if version == EngineVersion::V4 {
        out.push_str(r#"{"sid":"#);
        push_json_string(out, sid);
        out.push('}');
    }
}

/// Appends the refusal of a CONNECT: an object in protocol 5, with `data` if there is some; the message alone in protocol 4.
pub fn push_connect_error(
    out: &mut String,
    version: EngineVersion,
    namespace: &str,
    message: &str,
    data: Option<&str>,
) {
    push_head(out, SocketType::ConnectError, 0, namespace);
    if version == EngineVersion::V3 {
        return push_json_string(out, message);
    }
    out.push_str(r#"{"message":"#);
    push_json_string(out, message);
    if let Some(data) = data {
        out.push_str(r#","data":"#);
        out.push_str(data);
    }
    out.push('}');
}

/// Appends the packet that takes a client out of a namespace.
pub fn push_disconnect(out: &mut String, namespace: &str) {
    push_head(out, SocketType::Disconnect, 0, namespace);
}

/// Appends a packet with all other characters than ASCII in its JSON escaped: clients 1.x and 2.x read them differently from
/// each other on polling. A namespace cannot be escaped and stays as it is.
pub fn push_ascii_packet(out: &mut String, packet: &str) {
    if packet.is_ascii() {
        return out.push_str(packet);
    }
    let digits = packet.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'-').count();
    let has_namespace = packet[digits..].starts_with('/');
    let end = if has_namespace { packet.find(',').unwrap_or(packet.len()) } else { 0 };
    let (head, json) = packet.split_at(end);
    out.push_str(head);
    push_ascii_json(out, json);
}

#[cfg(test)]
mod tests {
    use super::EngineVersion::{V3, V4};
    use super::*;

    fn text(push: impl FnOnce(&mut String)) -> String {
        let mut out = String::new();
        push(&mut out);
        out
    }

    /// The answers of the contract, recorded from the official servers.
    #[test]
    fn answers_are_those_of_the_official_servers() {
        assert_eq!(text(|out| push_connected(out, V4, "/", "P1")), r#"0{"sid":"P1"}"#);
        assert_eq!(text(|out| push_connected(out, V4, "/chat", "P1")), r#"0/chat,{"sid":"P1"}"#);
        assert_eq!(text(|out| push_connected(out, V3, "/", "P1")), "0");
        assert_eq!(text(|out| push_connected(out, V3, "/chat", "P1")), "0/chat,");
        assert_eq!(text(|out| push_disconnect(out, "/")), "1");
        assert_eq!(text(|out| push_disconnect(out, "/chat")), "1/chat,");
        let refused =
            |version, data| text(|out| push_connect_error(out, version, "/x", "Invalid \"x\"", data));
        assert_eq!(refused(V4, None), r#"4/x,{"message":"Invalid \"x\""}"#);
        assert_eq!(refused(V4, Some("[1]")), r#"4/x,{"message":"Invalid \"x\"","data":[1]}"#);
        assert_eq!(refused(V3, None), r#"4/x,"Invalid \"x\"""#);
        assert_eq!(text(|out| push_connect_error(out, V3, "/", "Unauthorized", None)), r#"4"Unauthorized""#);
    }

    #[test]
    fn only_json_is_escaped_to_ascii() {
        for (packet, expected) in [
            (r#"2["ż€🎉é",1]"#, r#"2["\u017c\u20ac\ud83c\udf89\u00e9",1]"#),
            (r#"51-/ż,7["ż,"]"#, r#"51-/ż,7["\u017c,"]"#),
            ("1/ż,", "1/ż,"),
            ("0/ż", "0/ż"),
            (r#"4"ż""#, r#"4"\u017c""#),
            (r#"2["a"]"#, r#"2["a"]"#),
        ] {
            assert_eq!(text(|out| push_ascii_packet(out, packet)), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in proptest::sample::select(vec![SocketType::Event, SocketType::Ack, SocketType::BinaryEvent, SocketType::BinaryAck]),
            attachments in 0_usize..4,
            namespace in "/[a-zé?]{0,20}",
            id in proptest::option::of(0_u64..=1 << 53),
        ) {
            let attachments = if kind.is_binary() { attachments } else { 0 };
            let id = if kind.is_event() { id } else { id.or(Some(1)) };
            let packet = SocketPacket { kind, attachments, namespace: &namespace, query: None, id, data: r#"["a",{"b":1}]"# };
            let out = text(|out| push_packet(out, &packet));
            proptest::prop_assert_eq!(SocketPacket::decode(V4, &out, 3), Ok(packet));
            let connect = SocketPacket { kind: SocketType::Connect, attachments: 0, query: Some("a=b"), id: None, data: "", ..packet };
            let is_decodable = !namespace.contains('?');
            let out = text(|out| push_packet(out, &connect));
            proptest::prop_assert!(!is_decodable || SocketPacket::decode(V3, &out, 3) == Ok(connect));
        }
    }
}
