//! Messages as objects.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use super::LiveLabel;
use crate::wire::socket_io::push_json_string;
use crate::wire::websocket::{Frames, Opcode, encode};

/// Returns stored messages as text frames with one object each.
pub fn encode_frames(stored: &[u8], messages: u32, label: &LiveLabel, is_last: bool) -> Bytes {
    let mut frames = BytesMut::with_capacity(capacity(stored, messages, label));
    for_each_object(stored, label, is_last, |object| encode(&mut frames, Opcode::Text, object.as_bytes()));
    frames.freeze()
}

/// Returns stored messages as server-sent events with one object each.
pub fn encode_events(stored: &[u8], messages: u32, label: &LiveLabel, is_last: bool) -> Bytes {
    let mut events = BytesMut::with_capacity(capacity(stored, messages, label));
    for_each_object(stored, label, is_last, |object| {
        events.put_slice(b"data: ");
        events.put_slice(object.as_bytes());
        events.put_slice(b"\n\n");
    });
    events.freeze()
}

/// Returns the bytes of a binary message that a client publishes; none if it is not base64.
pub fn decode_binary(text: &str) -> Option<Bytes> {
    BASE64_STANDARD.decode(text).ok().map(Bytes::from)
}

fn capacity(stored: &[u8], messages: u32, label: &LiveLabel) -> usize {
    stored.len() + stored.len() / 16 + messages as usize * (label.head.len() + 32)
}

/// Calls `push` with the object of each stored message, which holds no line end.
fn for_each_object(stored: &[u8], label: &LiveLabel, is_last: bool, mut push: impl FnMut(&str)) {
    let mut object = String::new();
    for (frame, payload) in Frames::new(stored) {
        let payload = &stored[payload];
        object.clear();
        object.push_str(&label.head);
        let is_text = stored[frame.start] & 0x0f == Opcode::Text as u8;
        match std::str::from_utf8(payload).ok().filter(|_| is_text) {
            Some(text) => {
                object.push_str(r#","d":"#);
                push_json_string(&mut object, text);
            }
            None => {
                object.push_str(r#","b":""#);
                BASE64_STANDARD.encode_string(payload, &mut object);
                object.push('"');
            }
        }
        if is_last {
            object.push_str(r#","last":true"#);
        }
        object.push('}');
        push(&object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::form::store;
    use crate::wire::live::LiveNames;

    #[test]
    fn text_is_a_string_and_other_payloads_are_base64() {
        let mut stored = BytesMut::new();
        for payload in [&b"a\"\n"[..], b"\xff\x00", b""] {
            store(&mut stored, payload);
        }
        let label = LiveNames::default().label("broadcast:x");
        let events = encode_events(&stored, 3, &label, false);
        let head = r#"data: {"t":"msg","f":"x","a":"broadcast""#;
        let expected =
            [r#","d":"a\"\n"}"#, r#","b":"/wA="}"#, r#","d":""}"#].map(|end| format!("{head}{end}\n\n"));
        assert_eq!(std::str::from_utf8(&events).unwrap(), expected.concat());
        let mut value = BytesMut::new();
        store(&mut value, b"v");
        let frames = encode_frames(&value, 1, &label, true);
        assert_eq!(&frames[2..], br#"{"t":"msg","f":"x","a":"broadcast","d":"v","last":true}"#);
        assert_eq!(frames[0], 0x81);
    }
}
