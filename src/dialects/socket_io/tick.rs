//! The periodic work for sessions, by the shard's tick: pings and deadlines. No session has a timer.

use std::rc::Rc;
use std::time::Duration;

use super::ending::finish_ended;
use super::namespaces::reauthorize;
use super::outgoing::send_ping;
use crate::engine::{Deadline, EngineSession, TICKS_PER_SECOND, TransportState};
use crate::hub::Ending;
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::socket::enforce_deadlines;
use crate::wire::engine_io::EngineVersion;

/// Times below this need each tick: otherwise a session is visited once per second.
const SHORT: Duration = Duration::from_secs(4);

const TICK_MS: u64 = 1_000 / TICKS_PER_SECOND as u64;

/// Advances the clock of the sessions, sends due pings, and ends sessions that are overdue. Each call handles the sessions
/// of one of `parts` parts.
pub fn tick(state: &Rc<ShardState>, part: usize, parts: usize) {
    let settings = &state.process.settings.socket_io;
    if settings.mounts.is_empty() {
        return;
    }
    state.engine.advance();
    state.engine.payloads.clear();
    let is_short = settings.ping_interval.min(settings.ping_timeout) < SHORT;
    let (part, parts) = if is_short { (0, 1) } else { (part, parts) };
    let visit = Visit {
        state,
        now: state.engine.now(),
        until_next: u64::try_from(parts).unwrap_or(1) * TICK_MS,
        interval: milliseconds(settings.ping_interval),
        message_seconds: state.sockets.message_seconds(),
        // The clock is that of the tick.
        silence_limit: silence_limit(settings) + TICK_MS,
    };
    let mut ended = Vec::new();
    state.engine.with_part(part, parts, |session| {
        visit.enforce_deadlines(session);
        // A session over a WebSocket is the business of its connection's task.
        if session.transport.get() != TransportState::WebSocket && visit.update_polling(session) {
            ended.push(session.clone());
        }
    });
    for session in &ended {
        finish_ended(state, session);
    }
}

/// Returns the silence in milliseconds after which a client is gone.
pub(super) fn silence_limit(settings: &SocketIoSettings) -> u64 {
    milliseconds(settings.ping_interval) + milliseconds(settings.ping_timeout)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4)
}

/// One visit of sessions. Times are in milliseconds.
struct Visit<'a> {
    state: &'a Rc<ShardState>,
    now: u64,
    /// Until these sessions are visited again.
    until_next: u64,
    interval: u64,
    /// Seconds that one message may take at the moment.
    message_seconds: u32,
    /// Silence after which a client is gone.
    silence_limit: u64,
}

impl Visit<'_> {
    /// Applies changes to a session that polls. Returns whether it has ended.
    fn update_polling(&self, session: &EngineSession) -> bool {
        if session.listener.ending().is_some() {
            return true;
        }
        if session.listener.take_reauthorize() {
            reauthorize(session, self.state);
        }
        let limit = u64::from(self.state.process.settings.socket_io.upgrade_seconds) * 1_000 + TICK_MS;
        let began = session.poll.borrow().as_ref().map_or(self.now, |poll| poll.upgrade_began);
        // The client has gone before its 101.
        if session.transport.get() == TransportState::UpgradeRequested
            && self.now.saturating_sub(began) > limit
        {
            session.transport.set(TransportState::Polling);
        }
        false
    }

    fn enforce_deadlines(&self, session: &EngineSession) {
        let Self { state, now, .. } = *self;
        let (sockets, listener) = (&state.sockets, &session.listener);
        enforce_deadlines(listener, sockets.clock.get(), self.message_seconds, &sockets.limits);
        match session.deadline.get() {
            Deadline::Connect(at) if now >= at => return listener.end(Ending::NotConnected),
            Deadline::Grace(at) if now >= at => return listener.end(Ending::Disconnected),
            _ => {}
        }
        let collecting = session.collecting_since.get();
        let is_counted = session.unfinished.borrow().as_ref().is_some_and(|share| share.is_counted());
        let seconds = if is_counted { self.message_seconds } else { sockets.keepalive.message_seconds };
        if collecting != 0 && now - collecting >= u64::from(seconds) * 1_000 {
            return listener.end(Ending::Late);
        }
        if now.saturating_sub(session.last_received.get()) >= self.silence_limit {
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
