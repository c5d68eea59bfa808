//! The periodic work for sessions, by the shard's tick: pings and deadlines. No session has a timer.

use std::rc::Rc;
use std::time::Duration;

use super::namespaces::reauthorize;
use super::outgoing::send_ping;
use crate::engine::{Carrier, Deadline, EngineSession, TICKS_PER_SECOND};
use crate::hub::Ending;
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::socket::enforce_deadlines;
use crate::wire::engine_io::EngineVersion;

/// Times below this need each tick: otherwise a session is visited once per second.
const SHORT: Duration = Duration::from_secs(4);

/// Milliseconds for which a session that ended waits for the poll that is told so.
const TOLD_MS: u32 = 30_000;

const TICK_MS: u32 = 1_000 / TICKS_PER_SECOND;

/// Advances the clock of the sessions, sends due pings, and ends sessions that are overdue. Each call handles the sessions
/// of one of `parts` parts.
pub fn tick(state: &Rc<ShardState>, part: usize, parts: usize) {
    let settings = &state.process.settings.socket_io;
    if settings.mounts.is_empty() {
        return;
    }
    state.engine.advance();
    let is_short = settings.ping_interval.min(settings.ping_timeout) < SHORT;
    let (part, parts) = if is_short { (0, 1) } else { (part, parts) };
    let visit = Visit {
        state,
        now: state.engine.now(),
        until_next: u32::try_from(parts).unwrap_or(1) * TICK_MS,
        interval: milliseconds(settings.ping_interval),
        // The clock is that of the tick.
        patience: patience(settings) + TICK_MS,
    };
    let mut over = Vec::new();
    state.engine.with_part(part, parts, |session| {
        if visit.look_after(session) {
            over.push(session.clone());
        }
    });
    for session in &over {
        state.engine.remove(session);
    }
}

/// Returns the silence in milliseconds after which a client is gone.
pub(super) fn patience(settings: &SocketIoSettings) -> u32 {
    milliseconds(settings.ping_interval) + milliseconds(settings.ping_timeout)
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX / 4)
}

/// One visit of sessions. Times are in milliseconds.
struct Visit<'a> {
    state: &'a Rc<ShardState>,
    now: u32,
    /// Until these sessions are visited again.
    until_next: u32,
    interval: u32,
    /// Silence after which a client is gone.
    patience: u32,
}

impl Visit<'_> {
    /// Looks after a session. Returns whether it has to be removed: one over a WebSocket is removed by its task.
    fn look_after(&self, session: &EngineSession) -> bool {
        self.enforce(session);
        session.carrier.get() != Carrier::WebSocket && self.is_over(session)
    }

    /// Returns whether a session that polls has ended, and no poll came that could be told so.
    fn is_over(&self, session: &EngineSession) -> bool {
        if session.listener.take_reauthorize() {
            reauthorize(session, self.state);
        }
        let mut poll = session.poll.borrow_mut();
        if session.listener.ending().is_none() {
            let limit = self.state.process.settings.socket_io.upgrade_seconds * 1_000 + TICK_MS;
            let is_late =
                poll.as_ref().is_some_and(|poll| self.now.saturating_sub(poll.upgrade_began) > limit);
            // The client has gone before its 101.
            if is_late && session.carrier.get() == Carrier::Upgrading {
                session.carrier.set(Carrier::Polling);
            }
            return false;
        }
        let Some(poll) = poll.as_mut().filter(|poll| !poll.is_waiting) else { return false };
        if poll.ended_at == 0 {
            poll.ended_at = self.now;
        }
        self.now - poll.ended_at >= TOLD_MS
    }

    fn enforce(&self, session: &EngineSession) {
        let Self { state, now, .. } = *self;
        let (sockets, listener) = (&state.sockets, &session.listener);
        enforce_deadlines(listener, sockets.clock.get(), &sockets.keepalive, &sockets.limits);
        match session.deadline.get() {
            Deadline::Connect(at) if now >= at => return listener.end(Ending::NotConnected),
            Deadline::Grace(at) if now >= at => return listener.end(Ending::Disconnected),
            _ => {}
        }
        let collecting = session.collecting_since.get();
        if collecting != 0 && now - collecting >= sockets.keepalive.message_seconds * 1_000 {
            return listener.end(Ending::Late);
        }
        if now.saturating_sub(session.last_received.get()) >= self.patience {
            return listener.end(Ending::Silent);
        }
        // Early rather than late: clients expect each ping within the interval.
        if session.version == EngineVersion::V4
            && now + self.until_next > session.last_ping.get() + self.interval
        {
            session.last_ping.set(now);
            send_ping(session, &sockets.limits);
        }
    }
}
