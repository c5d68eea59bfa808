//! WebSocket frames from the server, encoded once, and runs of them (RFC 6455, section 5.2).

use std::cell::OnceCell;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::events::{encode_named_event, split_name};
use super::{Digester, Form, encode_event};

/// The opcodes that this server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end.
    Close = 8,
    /// A question whether somebody is there.
    Ping = 9,
    /// The answer.
    Pong = 10,
}

impl Opcode {
    /// Returns text for what is valid UTF-8, else binary.
    pub fn of(payload: &[u8]) -> Self {
        // Most text is ASCII, which is told in larger steps.
        if payload.is_ascii() || std::str::from_utf8(payload).is_ok() { Self::Text } else { Self::Binary }
    }
}

/// Appends one final, unmasked frame.
pub fn encode(frames: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    let header = match payload.len() {
        ..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    // Not a byte too many: bytes that fill their topic are shared without another piece of memory.
    frames.reserve(header + payload.len());
    frames.put_u8(0x80 | opcode as u8);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..=125), _) => frames.put_u8(len),
        (_, Ok(len)) => {
            frames.put_u8(126);
            frames.put_u16(len);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(payload.len() as u64);
        }
    }
    frames.put_slice(payload);
}

/// Walks over encoded frames. Each item is the range of the whole frame and that of its payload.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Takes whole frames, as [`encode`] writes them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Iterator for Frames<'_> {
    type Item = (Range<usize>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let header = self.bytes.get(start..)?;
        let (header_len, len) = match *header.get(1)? & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)).ok()?),
            len => (2, usize::from(len)),
        };
        let payload = start + header_len..start + header_len + len;
        self.at = payload.end;
        Some((start..payload.end, payload))
    }
}

/// Range of a frame, and the digest of its payload.
pub(super) type Mark = (Range<usize>, u64);

/// Messages of one channel that leave together: whole frames in one buffer, shared by all listeners.
#[derive(Debug, Clone)]
pub struct Run {
    /// The frames.
    pub bytes: Bytes,
    /// How many there are.
    pub messages: u32,
    /// Range and digest of each, worked out for the first listener that has to compare.
    marks: OnceCell<Box<[Mark]>>,
    /// The same as server-sent events, worked out for the first listener that wants those.
    events: OnceCell<Bytes>,
    /// The same with the names that texts give to their events. Few listeners want those, so it is apart.
    named_events: OnceCell<Box<Bytes>>,
}

impl Run {
    /// Takes encoded frames and their number.
    pub fn new(bytes: Bytes, messages: u32) -> Self {
        let (marks, events, named_events) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { bytes, messages, marks, events, named_events }
    }

    /// Encodes one message: text if it is valid UTF-8, else binary.
    pub fn of(payload: &[u8]) -> Self {
        let mut frames = BytesMut::new();
        encode(&mut frames, Opcode::of(payload), payload);
        Self::new(frames.freeze(), 1)
    }

    /// Joins runs of one channel, in order.
    pub fn join(mut runs: Vec<Self>) -> Option<Self> {
        if runs.len() < 2 {
            return runs.pop();
        }
        let mut bytes = BytesMut::with_capacity(runs.iter().map(|run| run.bytes.len()).sum());
        for run in &runs {
            bytes.put_slice(&run.bytes);
        }
        Some(Self::new(bytes.freeze(), runs.iter().map(|run| run.messages).sum()))
    }

    /// Returns the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        Frames::new(&self.bytes).map(|(_, payload)| &self.bytes[payload])
    }

    /// Returns the run in a form.
    pub(super) fn in_form(&self, form: Form) -> &Bytes {
        match form {
            Form::Frames => &self.bytes,
            Form::Events => self.events.get_or_init(|| self.encode_all(encode_event)),
            Form::NamedEvents => self.named_events.get_or_init(|| {
                let has_names = self.payloads().any(|payload| split_name(payload).is_some());
                let plain = || self.in_form(Form::Events).clone();
                Box::new(if has_names { self.encode_all(encode_named_event) } else { plain() })
            }),
        }
    }

    fn encode_all(&self, encode: fn(&mut BytesMut, &[u8])) -> Bytes {
        let mut events = BytesMut::with_capacity(self.bytes.len() + 16 * self.messages as usize);
        self.payloads().for_each(|payload| encode(&mut events, payload));
        events.freeze()
    }

    /// Tells whether nobody else has these bytes. Forms that share their bytes are parted for that.
    pub(super) fn make_unique(&mut self) -> bool {
        if let (Some(events), Some(named)) = (self.events.get(), self.named_events.get())
            && events.as_ptr() == named.as_ptr()
        {
            self.named_events.take();
        }
        let is_unique = |bytes: Option<&Bytes>| bytes.is_none_or(Bytes::is_unique);
        let named = self.named_events.get().map(|named| &**named);
        is_unique(Some(&self.bytes)) && is_unique(self.events.get()) && is_unique(named)
    }

    /// Returns range and digest of each frame.
    pub(super) fn marks(&self, digester: &Digester) -> &[Mark] {
        self.marks.get_or_init(|| {
            let frames = Frames::new(&self.bytes);
            frames.map(|(frame, payload)| (frame, digester.digest(&self.bytes[payload]))).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// What is encoded is found again, whatever the lengths.
        #[test]
        fn frames_are_found_again(lengths in proptest::collection::vec(
            proptest::sample::select(vec![0usize, 1, 125, 126, 127, 65535, 65536, 70000]), 0..6)) {
            let mut bytes = BytesMut::new();
            let payloads: Vec<Vec<u8>> =
                lengths.iter().zip(b'a'..).map(|(len, byte)| vec![byte; *len]).collect();
            for payload in &payloads {
                encode(&mut bytes, Opcode::Text, payload);
            }
            let found: Vec<_> = Frames::new(&bytes).map(|(_, payload)| bytes[payload].to_vec()).collect();
            proptest::prop_assert_eq!(found, payloads);
        }
    }

    #[test]
    fn text_is_text_and_the_rest_is_binary() {
        assert_eq!(&Run::of("é".as_bytes()).bytes[..], b"\x81\x02\xc3\xa9");
        assert_eq!(&Run::of(b"\xff").bytes[..], b"\x82\x01\xff");
    }

    #[test]
    fn a_run_is_encoded_once_for_each_form() {
        let run = Run::join(vec![Run::of(b"event: x\na"), Run::of(b"b")]).unwrap();
        let named = run.in_form(Form::NamedEvents);
        assert_eq!(&named[..], b"event: x\ndata: a\n\ndata: b\n\n");
        assert_eq!(run.in_form(Form::NamedEvents).as_ptr(), named.as_ptr());
        assert!(run.events.get().is_none(), "nobody has asked for events without names");
        let plain = Run::of(b"b");
        let shared = plain.in_form(Form::NamedEvents).as_ptr();
        assert_eq!(
            plain.in_form(Form::Events).as_ptr(),
            shared,
            "without names both forms share their bytes"
        );
    }

    #[test]
    fn joined_runs_keep_their_order() {
        let run = Run::join(vec![Run::of(b"a"), Run::of(b"b"), Run::of(b"c")]).unwrap();
        assert_eq!(run.messages, 3);
        assert_eq!(run.payloads().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert!(Run::join(Vec::new()).is_none());
    }
}
