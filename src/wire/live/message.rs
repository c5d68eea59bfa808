//! Messages as objects.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use super::LiveLabel;
use crate::wire::socket_io::push_json_string;
use crate::wire::split_live;
use crate::wire::websocket::{Frames, Opcode, encode};

/// Returns stored messages as text frames with one object each.
pub fn encode_frames(messages: &LiveMessages<'_>) -> Bytes {
    let mut frames = BytesMut::with_capacity(messages.capacity());
    messages.for_each_object(|_, object| encode(&mut frames, Opcode::Text, object.as_bytes()));
    frames.freeze()
}

/// Returns stored messages as server-sent events with one object each. The id of a message is that of its event.
pub fn encode_events(messages: &LiveMessages<'_>) -> Bytes {
    let mut events = BytesMut::with_capacity(messages.capacity());
    messages.for_each_object(|id, object| {
        if let Some(id) = id {
            events.put_slice(b"id: ");
            events.put_slice(id.as_bytes());
            events.put_u8(b'\n');
        }
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

/// Stored messages of one channel.
#[derive(Debug, Clone, Copy)]
pub struct LiveMessages<'a> {
    /// The messages as frames.
    pub stored: &'a [u8],
    /// Their number.
    pub count: u32,
    /// What they name.
    pub label: &'a LiveLabel,
    /// Whether it is the value of their channel.
    pub is_last: bool,
    /// The indices of messages that another channel has delivered, in rising order.
    pub twins: &'a [u32],
}

impl LiveMessages<'_> {
    fn capacity(&self) -> usize {
        let Self { stored, count, label, .. } = self;
        stored.len() + stored.len() / 16 + *count as usize * (label.head.len() + 48)
    }

    /// Calls `push` with the id and the object of each message. An object holds no line end.
    fn for_each_object(&self, mut push: impl FnMut(Option<&str>, &str)) {
        let Self { stored, label, is_last, twins, .. } = *self;
        let mut object = String::new();
        let mut id = String::new();
        for (index, (frame, payload)) in (0..).zip(Frames::new(stored)) {
            if twins.binary_search(&index).is_ok() {
                continue;
            }
            let mut payload = &stored[payload];
            id.clear();
            if label.has_ids
                && let Some((entry, rest)) = split_live(payload)
            {
                // Writing to a String cannot fail.
                let _ = write!(id, "{entry}");
                payload = rest;
            }
            object.clear();
            object.push_str(&label.head);
            let is_text = stored[frame.start] & 0x0f == Opcode::Text as u8;
            if let Some(text) = std::str::from_utf8(payload).ok().filter(|_| is_text) {
                object.push_str(r#","d":"#);
                push_json_string(&mut object, text);
            } else {
                object.push_str(r#","b":""#);
                BASE64_STANDARD.encode_string(payload, &mut object);
                object.push('"');
            }
            if !id.is_empty() {
                let _ = write!(object, r#","id":"{id}""#);
            }
            if is_last {
                object.push_str(r#","last":true"#);
            }
            object.push('}');
            push((!id.is_empty()).then_some(&*id), &object);
        }
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
        let messages = LiveMessages { stored: &stored, count: 3, label: &label, is_last: false, twins: &[] };
        let events = encode_events(&messages);
        let head = r#"data: {"t":"msg","f":"x","a":"broadcast""#;
        let expected =
            [r#","d":"a\"\n"}"#, r#","b":"/wA="}"#, r#","d":""}"#].map(|end| format!("{head}{end}\n\n"));
        assert_eq!(std::str::from_utf8(&events).unwrap(), expected.concat());
        let mut value = BytesMut::new();
        store(&mut value, b"v");
        let value = LiveMessages { stored: &value, count: 1, is_last: true, ..messages };
        let frames = encode_frames(&value);
        assert_eq!(&frames[2..], br#"{"t":"msg","f":"x","a":"broadcast","d":"v","last":true}"#);
        assert_eq!(frames[0], 0x81);
    }

    #[test]
    fn ids_are_those_of_events_and_twins_are_left_out() {
        let mut stored = BytesMut::new();
        for payload in [&b"7-1 a b"[..], b"8-0 \xff", b"9-0 c"] {
            store(&mut stored, payload);
        }
        let label = LiveNames::default().label("ws4redis:live:broadcast:x");
        let messages = LiveMessages { stored: &stored, count: 3, label: &label, is_last: false, twins: &[2] };
        let head = r#"{"t":"msg","f":"x","a":"broadcast""#;
        let expected = format!(
            "id: 7-1\ndata: {head},\"d\":\"a b\",\"id\":\"7-1\"}}\n\nid: 8-0\ndata: {head},\"b\":\"/w==\",\"id\":\"8-0\"}}\n\n"
        );
        assert_eq!(std::str::from_utf8(&encode_events(&messages)).unwrap(), expected);
    }
}
