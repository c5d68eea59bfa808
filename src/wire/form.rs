//! The form of a connection: how messages are framed as bytes. Code outside wire/ stores and passes these bytes on without
//! knowing the format.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::engine_io::{EngineVersion, binary_message};
use super::live::{LiveLabel, LiveMessages, encode_events, encode_frames};
use super::sse::{encode_event, encode_named_event, split_name};
use super::websocket::{Frames, Opcode, encode};

/// How messages to one connection are framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// WebSocket frames.
    #[default]
    Frames,
    /// Server-sent events.
    Events,
    /// Server-sent events; the first line of a text may name its event.
    NamedEvents,
    /// WebSocket frames with packets of Engine.IO: binary frames are attachments of the text before them.
    Packets,
    /// As [`Form::Packets`], for protocol 3: attachments begin with a type byte.
    PrefixedPackets,
    /// WebSocket frames with an object of version 2 each.
    Objects,
    /// Server-sent events with an object of version 2 each.
    ObjectEvents,
}

impl Form {
    /// Returns whether this is a stream of server-sent events.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Events | Self::NamedEvents | Self::ObjectEvents)
    }

    /// Returns whether this is the form in which [`store`] keeps messages.
    pub const fn is_stored(self) -> bool {
        matches!(self, Self::Frames | Self::Packets)
    }

    /// Returns whether its messages are packets of Engine.IO.
    pub const fn has_packets(self) -> bool {
        matches!(self, Self::Packets | Self::PrefixedPackets)
    }

    /// Returns whether its messages are objects of version 2, which name their facility.
    pub const fn has_objects(self) -> bool {
        matches!(self, Self::Objects | Self::ObjectEvents)
    }

    /// Returns the end of each message in encoded bytes.
    pub fn ends(self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let mut frames = Frames::new(bytes);
        let mut at = 0;
        std::iter::from_fn(move || match self {
            Self::Frames | Self::Objects => frames.next().map(|(frame, _)| frame.end),
            Self::Packets | Self::PrefixedPackets => {
                let mut end = frames.next()?.0.end;
                while bytes.get(end).is_some_and(|first| is_binary(*first)) {
                    end = frames.next()?.0.end;
                }
                Some(end)
            }
            Self::Events | Self::NamedEvents | Self::ObjectEvents => {
                at += bytes.get(at..)?.windows(2).position(|pair| pair == b"\n\n")? + 2;
                Some(at)
            }
        })
    }
}

/// Appends one message in the form that is stored for all connections: WebSocket frames. Most connections want this form,
/// and its length prefixes find the payloads again without a copy.
pub fn store(stored: &mut BytesMut, payload: &[u8]) {
    encode(stored, Opcode::of(payload), payload);
}

/// Appends a packet of Socket.IO and its attachments in the form that is stored.
pub fn store_packet(stored: &mut BytesMut, text: &str, attachments: &[Bytes]) {
    encode(stored, Opcode::Text, text.as_bytes());
    for attachment in attachments {
        encode(stored, Opcode::Binary, attachment);
    }
}

fn is_binary(first: u8) -> bool {
    first & 0x0f == Opcode::Binary as u8
}

/// Returns the range of each stored message, and that of its payload.
pub fn stored(bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    Frames::new(bytes)
}

/// Stored messages in the other forms, each encoded when the first connection asks for it.
#[derive(Debug, Clone, Default)]
pub struct Encodings {
    events: OnceCell<Bytes>,
    /// Boxed: few connections ask for these, and each run would pay for them.
    rare: OnceCell<Box<RareEncodings>>,
}

/// Encodings for few connections.
#[derive(Debug, Clone, Default)]
struct RareEncodings {
    named_events: OnceCell<Bytes>,
    prefixed_packets: OnceCell<Bytes>,
    objects: OnceCell<ObjectEncodings>,
    /// The indices of messages that another channel has delivered to connections of version 2.
    twins: Box<[u32]>,
}

/// Encodings for connections of version 2.
#[derive(Debug, Clone)]
struct ObjectEncodings {
    label: Arc<LiveLabel>,
    /// Whether the message is the value of its topic.
    is_last: bool,
    frames: OnceCell<Bytes>,
    events: OnceCell<Bytes>,
}

impl ObjectEncodings {
    fn messages<'a>(&'a self, stored: &'a [u8], count: u32, twins: &'a [u32]) -> LiveMessages<'a> {
        LiveMessages { stored, count, label: &self.label, is_last: self.is_last, twins }
    }
}

/// What a run without a label is as objects.
static NO_OBJECTS: Bytes = Bytes::new();

impl Encodings {
    /// Returns the stored messages in a form.
    ///
    /// Never inlined: inside the loop of a delivery its encoders would cost each listener registers.
    #[inline(never)]
    pub fn get<'a>(&'a self, form: Form, stored: &'a Bytes, messages: u32) -> &'a Bytes {
        match form {
            Form::Frames | Form::Packets => stored,
            Form::PrefixedPackets => self.rare().prefixed_packets.get_or_init(|| prefix_attachments(stored)),
            Form::Events => self.events.get_or_init(|| encode_all(stored, messages, encode_event)),
            Form::NamedEvents => self.rare().named_events.get_or_init(|| {
                let has_names = payloads(stored).any(|payload| split_name(payload).is_some());
                let plain = || self.get(Form::Events, stored, messages).clone();
                if has_names { encode_all(stored, messages, encode_named_event) } else { plain() }
            }),
            Form::Objects => self.objects().map_or(&NO_OBJECTS, |objects| {
                let encode = || encode_frames(&objects.messages(stored, messages, self.twins()));
                objects.frames.get_or_init(encode)
            }),
            Form::ObjectEvents => self.objects().map_or(&NO_OBJECTS, |objects| {
                let encode = || encode_events(&objects.messages(stored, messages, self.twins()));
                objects.events.get_or_init(encode)
            }),
        }
    }

    /// Sets what the messages name as objects, unless it is set. Without it they have no such form.
    pub fn set_label(&self, label: &Arc<LiveLabel>, is_last: bool) {
        self.rare().objects.get_or_init(|| ObjectEncodings {
            label: label.clone(),
            is_last,
            frames: OnceCell::new(),
            events: OnceCell::new(),
        });
    }

    /// Sets the indices of messages that another channel has delivered to connections of version 2, in rising order.
    pub fn set_twins(&mut self, twins: Vec<u32>) {
        if !twins.is_empty() {
            self.rare();
            if let Some(rare) = self.rare.get_mut() {
                rare.twins = twins.into();
            }
        }
    }

    /// Returns the indices of messages that another channel has delivered to connections of version 2.
    pub fn twins(&self) -> &[u32] {
        self.rare.get().map_or(&[], |rare| &rare.twins)
    }

    /// Returns whether each message has its id before it.
    pub fn has_ids(&self) -> bool {
        self.objects().is_some_and(|objects| objects.label.has_ids)
    }

    /// Sets the label of these messages for others of their channel.
    pub fn copy_label(&self, others: &Self) {
        if let Some(ObjectEncodings { label, is_last, .. }) = self.objects() {
            others.set_label(label, *is_last);
        }
    }

    fn objects(&self) -> Option<&ObjectEncodings> {
        self.rare.get()?.objects.get()
    }

    fn rare(&self) -> &RareEncodings {
        self.rare.get_or_init(Box::default)
    }

    /// Drops encodings that share the bytes of another one, so that [`Bytes::is_unique`] can answer for each.
    pub fn unshare(&mut self) {
        let Some(rare) = self.rare.get_mut() else { return };
        // Without attachments it is the stored form.
        rare.prefixed_packets.take();
        if let (Some(events), Some(named)) = (self.events.get(), rare.named_events.get())
            && events.as_ptr() == named.as_ptr()
        {
            rare.named_events.take();
        }
    }

    /// Returns whether these are the only references to the encoded bytes.
    pub fn are_unique(&self) -> bool {
        let named = self.rare.get().and_then(|rare| rare.named_events.get());
        [self.events.get(), named].into_iter().flatten().all(Bytes::is_unique)
    }
}

fn payloads(stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    Frames::new(stored).map(|(_, payload)| &stored[payload])
}

/// Puts the type byte of protocol 3 in front of each attachment. Without attachments, shares the bytes.
fn prefix_attachments(stored: &Bytes) -> Bytes {
    let has_attachments = Frames::new(stored).any(|(frame, _)| is_binary(stored[frame.start]));
    if !has_attachments {
        return stored.clone();
    }
    let mut prefixed = BytesMut::with_capacity(stored.len() + 16);
    for (frame, payload) in Frames::new(stored) {
        if is_binary(stored[frame.start]) {
            encode(&mut prefixed, Opcode::Binary, &binary_message(EngineVersion::V3, &stored[payload]));
        } else {
            prefixed.extend_from_slice(&stored[frame]);
        }
    }
    prefixed.freeze()
}

fn encode_all(stored: &[u8], messages: u32, encode: fn(&mut BytesMut, &[u8])) -> Bytes {
    // Room for `data: ` and the line ends of each message.
    let mut events = BytesMut::with_capacity(stored.len() + 16 * messages as usize);
    payloads(stored).for_each(|payload| encode(&mut events, payload));
    events.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored_of(payloads: &[&[u8]]) -> Bytes {
        let mut bytes = BytesMut::new();
        for payload in payloads {
            store(&mut bytes, payload);
        }
        bytes.freeze()
    }

    #[test]
    fn stored_messages_are_encoded_once_for_each_form() {
        let (encodings, bytes) = (Encodings::default(), stored_of(&[b"event: x\na", b"b"]));
        let named = encodings.get(Form::NamedEvents, &bytes, 2);
        assert_eq!(&named[..], b"event: x\ndata: a\n\ndata: b\n\n");
        assert_eq!(encodings.get(Form::NamedEvents, &bytes, 2).as_ptr(), named.as_ptr());
        assert!(encodings.events.get().is_none(), "no connection has asked for events without names");
        let (encodings, bytes) = (Encodings::default(), stored_of(&[b"b"]));
        let shared = encodings.get(Form::NamedEvents, &bytes, 1).as_ptr();
        let events = encodings.get(Form::Events, &bytes, 1);
        assert_eq!(events.as_ptr(), shared, "without names both forms share their bytes");
    }

    #[test]
    fn attachments_belong_to_their_packet_and_have_a_type_byte_in_protocol_3() {
        let mut bytes = BytesMut::new();
        store_packet(&mut bytes, "42[1]", &[]);
        store_packet(&mut bytes, "451-[1]", &[Bytes::from_static(b"ab")]);
        let (encodings, bytes) = (Encodings::default(), bytes.freeze());
        let prefixed = encodings.get(Form::PrefixedPackets, &bytes, 2);
        assert_eq!(&prefixed[..], b"\x81\x0542[1]\x81\x07451-[1]\x82\x03\x04ab");
        assert!(Form::Packets.ends(&bytes).eq([7, 20]));
        assert!(Form::PrefixedPackets.ends(prefixed).eq([7, 21]));
        let (encodings, text) = (Encodings::default(), bytes.slice(..7));
        assert_eq!(encodings.get(Form::PrefixedPackets, &text, 1).as_ptr(), text.as_ptr());
    }
}
