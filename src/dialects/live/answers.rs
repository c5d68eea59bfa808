//! Answers to requests that arrived together: they are sent as one piece, which counts as memory of the outboxes.

use bytes::{Bytes, BytesMut};

use super::refusal::RequestRefusal;
use crate::hub::{Listener, send_exempt};
use crate::shard::state::ShardState;
use crate::wire::Form;
use crate::wire::live::{ErrorReply, frame_of};

/// Answers that have not been sent. One read from the client bounds them.
#[derive(Default)]
pub(super) struct Answers(BytesMut);

impl Answers {
    /// Adds an answer.
    pub(super) fn add(&mut self, object: &str, form: Form) {
        self.0.extend_from_slice(&frame_of(object, form));
    }

    /// Adds the refusal of a request.
    pub(super) fn refuse(&mut self, request: Option<i64>, facility: Option<&str>, refusal: RequestRefusal) {
        let reply = ErrorReply { request, facility, code: refusal.code(), why: refusal.why() };
        // Only a WebSocket has requests.
        self.add(&reply.encode(), Form::Objects);
    }

    /// Sends them.
    pub(super) fn flush(&mut self, listener: &Listener, state: &ShardState) {
        let answers = Bytes::from(std::mem::take(&mut self.0));
        send_exempt(listener, &answers, &state.sockets.limits);
    }
}
