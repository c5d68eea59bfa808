//! Messages as server-sent events (HTML standard, section 9.2.6), for clients behind networks that block WebSocket.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

/// Appends a message as one event. UTF-8 becomes `data` lines; other payloads become an event `binary` in base64. Line
/// ends are normalised to line feeds, because the format has no way to keep a carriage return.
pub fn encode_event(events: &mut BytesMut, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => encode_named(events, None, text),
        Err(_) => encode_named(events, Some("binary"), &BASE64_STANDARD.encode(payload)),
    }
}

/// Prefix of a first line that names the event.
const NAME_FIELD: &str = "event: ";

/// Longest name of an event, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Names that messages must not use: the gateway sends these events, or `EventSource` dispatches them itself.
const RESERVED_NAMES: [&str; 5] = ["binary", "close", "error", "heartbeat", "open"];

/// Splits a message into the name of its event and its text if the first line is `event: NAME`.
///
/// A name has 1 to 64 bytes of ASCII letters, digits, `-`, `_`, `.` and `:`, and is not reserved. Any other first line
/// belongs to the text.
pub(super) fn split_name(payload: &[u8]) -> Option<(&str, &str)> {
    if !payload.starts_with(NAME_FIELD.as_bytes()) {
        return None;
    }
    let rest = std::str::from_utf8(payload).ok()?.strip_prefix(NAME_FIELD)?;
    let (name, text) = match rest.find(['\r', '\n']) {
        None => (rest, ""),
        Some(end) => (&rest[..end], rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..])),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    let valid = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(plain)
        && !RESERVED_NAMES.contains(&name);
    valid.then_some((name, text))
}

/// Appends a message as [`encode_event`] does, under the event name in its first line if there is one.
pub(super) fn encode_named_event(events: &mut BytesMut, payload: &[u8]) {
    match split_name(payload) {
        Some((name, text)) => encode_named(events, Some(name), text),
        None => encode_event(events, payload),
    }
}

/// Returns one event with this name.
pub fn named_event(name: &str, text: &str) -> Bytes {
    let mut event = BytesMut::new();
    encode_named(&mut event, Some(name), text);
    event.freeze()
}

fn encode_named(events: &mut BytesMut, name: Option<&str>, text: &str) {
    if let Some(name) = name {
        events.put_slice(b"event: ");
        events.put_slice(name.as_bytes());
        events.put_u8(b'\n');
    }
    let text = text.as_bytes();
    let mut rest = Some(text);
    while let Some(line) = rest {
        let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let (line, after) = match end {
            None => (line, None),
            Some(end) if line[end..].starts_with(b"\r\n") => (&line[..end], Some(&line[end + 2..])),
            Some(end) => (&line[..end], Some(&line[end + 1..])),
        };
        events.put_slice(b"data: ");
        events.put_slice(line);
        events.put_u8(b'\n');
        rest = after;
    }
    events.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses events as the standard requires of a browser.
    fn read(stream: &str) -> Vec<(String, String)> {
        let (mut events, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
        for line in stream.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("", _) => {
                    if let Some(data) = data.take() {
                        events.push((std::mem::take(&mut name), data));
                    }
                }
                ("event", value) => name = value.to_owned(),
                ("data", value) => data = Some(data.map_or(value.to_owned(), |data| data + "\n" + value)),
                (field, _) => panic!("{field:?}"),
            }
        }
        events
    }

    #[test]
    fn text_keeps_its_lines_and_other_payloads_are_base64() {
        let mut events = BytesMut::new();
        for payload in
            [&b"a"[..], b"a\nb\n", b"\n", "é: x".as_bytes(), b"event: y\r\ndata: z\rq", b"\xff\x00"]
        {
            encode_event(&mut events, payload);
        }
        let text = |text: &str| (String::new(), text.to_owned());
        let expected = [
            text("a"),
            text("a\nb\n"),
            text("\n"),
            text("é: x"),
            text("event: y\ndata: z\nq"),
            ("binary".to_owned(), "/wA=".to_owned()),
        ];
        assert_eq!(read(std::str::from_utf8(&events).unwrap()), expected);
    }

    #[test]
    fn a_text_whose_first_line_names_an_event_is_that_event() {
        for (text, name, data) in [
            ("event: ticker\n<b>1</b>\n<b>2</b>", "ticker", "<b>1</b>\n<b>2</b>"),
            ("event: a-b_c.d:E9\r\nx\r\ny", "a-b_c.d:E9", "x\ny"),
            ("event: cr\rx", "cr", "x"),
            ("event: message\nx", "message", "x"),
            ("event: empty", "empty", ""),
            ("event: empty\n", "empty", ""),
            (
                "event: x\n\nevent: close\ndata: y\nid: 1\nretry: 1",
                "x",
                "\nevent: close\ndata: y\nid: 1\nretry: 1",
            ),
        ] {
            let mut events = BytesMut::new();
            encode_named_event(&mut events, text.as_bytes());
            let found = read(std::str::from_utf8(&events).unwrap());
            assert_eq!(found, [(name.to_owned(), data.to_owned())], "{text:?}");
        }
    }

    #[test]
    fn a_first_line_without_a_valid_name_belongs_to_the_text() {
        let long = format!("event: {}\nx", "n".repeat(65));
        for text in [
            "event: \nx",
            "event:x\ny",
            "event:  x\ny",
            "Event: x\ny",
            " event: x\ny",
            "\nevent: x\ny",
            "event: a b\nx",
            "event: x \ny",
            "event: a\0b\nx",
            "event: \u{e9}\nx",
            "event: close\n{\"code\":4401}",
            "event: binary\nAA==",
            "event: heartbeat\nx",
            "event: error\nx",
            "event: open\nx",
            "id: 1\nx",
            "retry: 1\nx",
            "event",
            &long,
        ] {
            let (mut named, mut plain) = (BytesMut::new(), BytesMut::new());
            encode_named_event(&mut named, text.as_bytes());
            encode_event(&mut plain, text.as_bytes());
            assert_eq!(named, plain, "{text:?}");
        }
        assert!(split_name(b"event: x\n\xff").is_none(), "a payload that is not UTF-8 has no name");
    }

    proptest::proptest! {
        /// No text behind a name can add a second event.
        #[test]
        fn text_behind_a_name_adds_no_event(text in "[a-z:\0\n\r \u{feff}]{0,20}") {
            let mut events = BytesMut::new();
            encode_named_event(&mut events, format!("event: n{text}").as_bytes());
            let found = read(std::str::from_utf8(&events).unwrap());
            proptest::prop_assert_eq!(found.len(), 1);
            let (name, _) = &found[0];
            proptest::prop_assert!(name.is_empty() || name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b':'));
        }

        /// No text can inject a field or an event.
        #[test]
        fn every_text_is_one_event_with_the_same_text(text in "[a-z:\n\r ]{0,20}") {
            let mut events = BytesMut::new();
            encode_event(&mut events, text.as_bytes());
            let lines = text.replace("\r\n", "\n").replace('\r', "\n");
            let found = read(std::str::from_utf8(&events).unwrap());
            proptest::prop_assert_eq!(found, [(String::new(), lines)]);
        }
    }
}
