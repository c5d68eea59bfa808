//! The end of sessions that poll. One over a WebSocket is ended by the task of its connection.

use super::outgoing::{send_disconnects, send_last_packets};
use crate::engine::{EngineSession, PollState, TransportState};
use crate::events::DisconnectReason;
use crate::hub::Ending;
use crate::shard::state::ShardState;

/// Milliseconds for which a session that the server has ended waits for a poll, whose answer says so.
const CLOSE_NOTICE_MS: u64 = 30_000;

/// Milliseconds for which a session that its client has closed waits for a poll that was sent at the same time, on another
/// connection.
const CROSSING_MS: u64 = 1_000;

/// Ends a session on any transport. The first reason counts.
pub(super) fn end(state: &ShardState, session: &EngineSession, ending: Ending) {
    session.listener.end(ending);
    finish_ended(state, session);
}

/// Ends a session because the operator wants that. One over a WebSocket is asked to end, with the code that
/// [`Descriptions::close_next`] has then; one that polls ends at once, and its client learns no code: then it returns true.
///
/// [`Descriptions::close_next`]: crate::shard::ask::Descriptions::close_next
pub fn close_by_operator(state: &ShardState, session: &EngineSession) -> bool {
    if session.transport.get() == TransportState::WebSocket {
        session.listener.request_description();
        return false;
    }
    let is_open = session.listener.ending().is_none();
    if is_open {
        session.end_reason.set(Some(DisconnectReason::ForcedServerClose));
        send_disconnects(session, state);
        end(state, session, Ending::Disconnected);
    }
    is_open
}

/// Carries out the end of a session that polls, if it has ended: it leaves its namespaces at once, and the table when its
/// client knows of the end or will not ask.
pub(super) fn finish_ended(state: &ShardState, session: &EngineSession) {
    let Some(ending) = session.listener.ending() else { return };
    if session.transport.get() == TransportState::WebSocket {
        return;
    }
    let now = state.engine.now();
    let is_first = session.poll.borrow_mut().as_mut().is_some_and(|poll| {
        let is_first = poll.ended_at == 0;
        poll.ended_at = if is_first { now } else { poll.ended_at };
        is_first
    });
    if is_first {
        if ending == Ending::SessionEnded {
            send_last_packets(session, state);
        }
        session.release();
    }
    let is_kept = session.poll.borrow().as_ref().is_some_and(|poll| {
        if let Some(probing) = poll.probing.as_ref().filter(|_| is_first) {
            probing.wake();
        }
        poll.is_waiting || now - poll.ended_at < notice_ms(poll, ending)
    });
    if !is_kept {
        state.engine.remove(session);
    }
}

/// Returns for how many milliseconds a poll may still come that has to be answered.
const fn notice_ms(poll: &PollState, ending: Ending) -> u64 {
    match ending {
        Ending::NotConnected | Ending::Silent | Ending::Broken => 0,
        _ if poll.is_closed => CROSSING_MS,
        _ if poll.has_polled => CLOSE_NOTICE_MS,
        _ => 0,
    }
}
