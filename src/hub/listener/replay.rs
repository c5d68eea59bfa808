//! Frames that count against the bound of the process only, and not against the connection's own: messages of a replay, as
//! those that are queued before a connection is opened, and answers of the gateway.

use std::io;

use bytes::Bytes;

use super::{Listener, Output};
use crate::hub::digests::Digester;
use crate::hub::ending::Ending;
use crate::hub::outbox::Limits;
use crate::hub::run::Run;

/// Queues messages for a client that joins, without writing yet.
pub(in crate::hub) fn queue_replay(listener: &Listener, run: &Run, limits: &Limits) {
    listener.delivered.set(listener.delivered.get() + u64::from(run.messages));
    listener.output.borrow_mut().outbox.push_replayed(run.in_form(listener.form), 0, limits);
}

/// Replays a value of a topic, unless the filter excludes it.
pub(in crate::hub) fn replay_value(listener: &Listener, topic: u32, run: &Run, digest: u64, limits: &Limits) {
    if !listener.filters.get() || !listener.filter.borrow().excludes_value(topic, digest) {
        listener.delivered.set(listener.delivered.get() + 1);
        send_exempt(listener, run.in_form(listener.form), limits);
    }
}

/// Replays a run of a topic, without the messages that the filter excludes.
pub(in crate::hub) fn replay_run(
    listener: &Listener,
    topic: u32,
    run: &Run,
    limits: &Limits,
    digester: &Digester,
) {
    if listener.filters.get() {
        return listener.deliver_filtered(topic, run, digester, |part, _| {
            send_exempt(listener, part, limits);
        });
    }
    listener.delivered.set(listener.delivered.get() + u64::from(run.messages));
    send_exempt(listener, run.in_form(listener.form), limits);
}

/// Sends whole frames: at once if the outbox is empty, else behind its bytes. The caller bounds them.
pub fn send_exempt(listener: &Listener, frames: &Bytes, limits: &Limits) {
    if frames.is_empty() || listener.ending.get().is_some() {
        return;
    }
    let Output { transport, outbox } = &mut *listener.output.borrow_mut();
    let written = if outbox.is_empty() { transport.try_write(frames) } else { Ok(0) };
    match written {
        Ok(written) if written == frames.len() => return,
        Ok(written) => outbox.push_replayed(frames, written, limits),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => outbox.push_replayed(frames, 0, limits),
        Err(_) => return listener.end(Ending::Broken),
    }
    listener.wake();
}
