//! The answer to a poll: queued messages in the form that the client reads.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::engine::EngineSession;
use crate::http::SessionAnswer;
use crate::shard::state::ShardState;
use crate::wire::engine_io::{EngineType, EngineVersion, PayloadForm, push_attachment, push_packet};
use crate::wire::socket_io::encode::push_ascii_packet;
use crate::wire::websocket::{Frames, Opcode};

/// Bytes of messages in one answer, unless one message is larger. What an answer holds has left the outbox, and a client
/// that does not read keeps it in memory.
pub(super) const MAX_POLL_BYTES: usize = 1 << 20;

/// Returns the answer with queued messages, and perhaps a last packet.
pub(super) fn payload(
    session: &EngineSession,
    state: &ShardState,
    frames: &[Bytes],
    last: Option<EngineType>,
) -> SessionAnswer {
    let wants_base64 = session.poll.borrow().as_ref().is_none_or(|poll| poll.wants_base64);
    let has_attachment =
        frames.iter().any(|bytes| Frames::new(bytes).any(|(frame, _)| is_attachment(bytes, frame.start)));
    let form = PayloadForm::of_response(session.version, wants_base64, has_attachment);
    let encode = |last| state.sockets.limits.memory.hold(&encode(form, session.version, frames, last));
    let body = match (frames, last) {
        ([single], None)
            if form == PayloadForm::Records
                && let Some(packet) = only_packet(single) =>
        {
            single.slice(packet)
        }
        (_, None) => state.engine.payloads.find_or_encode(form, frames, || encode(None)),
        (_, Some(_)) => encode(last),
    };
    SessionAnswer { content_type: form.content_type(), body }
}

fn is_attachment(bytes: &[u8], at: usize) -> bool {
    bytes[at] & 0x0f == Opcode::Binary as u8
}

/// Returns the range of the packet in a single frame of text: a payload of protocol 4 as it is, without a copy.
fn only_packet(bytes: &[u8]) -> Option<Range<usize>> {
    let mut frames = Frames::new(bytes);
    let (frame, packet) = frames.next()?;
    (frames.next().is_none() && !is_attachment(bytes, frame.start)).then_some(packet)
}

fn encode(form: PayloadForm, version: EngineVersion, frames: &[Bytes], last: Option<EngineType>) -> Bytes {
    let mut body = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum::<usize>() + 16);
    let mut ascii = String::new();
    for bytes in frames {
        for (frame, content) in Frames::new(bytes) {
            let content = &bytes[content];
            if is_attachment(bytes, frame.start) {
                let prefix = usize::from(version == EngineVersion::V3);
                push_attachment(&mut body, form, content.get(prefix..).unwrap_or_default());
            } else if let Ok(packet) = std::str::from_utf8(content) {
                // Clients 1.x read other characters differently from 2.x.
                if version == EngineVersion::V3 && !packet.is_ascii() {
                    ascii.clear();
                    ascii.push_str(&packet[..1]);
                    push_ascii_packet(&mut ascii, &packet[1..]);
                    push_packet(&mut body, form, &ascii);
                } else {
                    push_packet(&mut body, form, packet);
                }
            }
        }
    }
    if let Some(last) = last {
        push_packet(&mut body, form, last.digit().encode_utf8(&mut [0; 4]));
    }
    body.freeze()
}
