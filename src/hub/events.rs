//! Messages as server-sent events (HTML standard, section 9.2.6), for clients whose network lets no WebSocket through.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use super::Frames;

/// In which form a connection gets what is sent to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// As WebSocket frames.
    #[default]
    Frames,
    /// As server-sent events.
    Events,
}

impl Form {
    /// Returns where each frame, or event, ends.
    pub(super) fn ends(self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let mut frames = Frames::new(bytes);
        let mut at = 0;
        std::iter::from_fn(move || match self {
            Self::Frames => frames.next().map(|(frame, _)| frame.end),
            Self::Events => {
                at += bytes.get(at..)?.windows(2).position(|pair| pair == b"\n\n")? + 2;
                Some(at)
            }
        })
    }
}

/// Appends a message: text as it is, in lines; anything else in base64, as an event of its own kind. The ends of lines
/// come out as line feeds, whatever they were.
pub fn encode_event(events: &mut BytesMut, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => encode_named(events, None, text),
        Err(_) => encode_named(events, Some("binary"), &BASE64_STANDARD.encode(payload)),
    }
}

/// Returns one event of that name.
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

    /// Reads events as the standard says: what a browser would make of them.
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
    fn text_keeps_its_lines_and_the_rest_is_base64() {
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

    proptest::proptest! {
        /// No text can say anything but itself.
        #[test]
        fn every_text_comes_out_whole(text in "[a-z:\n\r ]{0,20}") {
            let mut events = BytesMut::new();
            encode_event(&mut events, text.as_bytes());
            let lines = text.replace("\r\n", "\n").replace('\r', "\n");
            let found = read(std::str::from_utf8(&events).unwrap());
            proptest::prop_assert_eq!(found, [(String::new(), lines)]);
        }
    }
}
