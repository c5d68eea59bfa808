//! Heartbeats and pings, sent by one tick per shard: no connection has a timer of its own.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::client_heartbeats::ClientHeartbeats;
use crate::hub::{Ending, Limits, Listener};
use crate::settings::{ClientHeartbeat, PingSettings};
use crate::wire::Form;
use crate::wire::live::{self, frame_of};
use crate::wire::sse::named_event;
use crate::wire::websocket::{Opcode, encode};

/// Seconds between heartbeats. Clients expect one every 4 seconds, and the tick is accurate to a second.
const BEAT_SECONDS: u32 = 3;

/// Heartbeats and pings, encoded once.
#[derive(Debug, Clone)]
pub struct Keepalive {
    /// The heartbeat's text; none if there are no heartbeats.
    pub heartbeat: Option<Bytes>,
    heartbeat_frame: Bytes,
    heartbeat_event: Bytes,
    /// Heartbeats of client libraries.
    pub client_heartbeats: ClientHeartbeats,
    ping_frame: Bytes,
    ping: PingSettings,
    /// Seconds that one message from a client may take.
    pub message_seconds: u32,
}

/// A comment (HTML standard, section 9.2.5): keeps proxies from closing an idle stream of events.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

impl Keepalive {
    /// Encodes heartbeats and pings. `message_seconds` limits the time that one message from a client may take.
    pub fn new(
        heartbeat: Option<Bytes>,
        client_heartbeats: &[ClientHeartbeat],
        ping: PingSettings,
        message_seconds: u32,
    ) -> Self {
        let frame = |opcode, payload: &[u8]| {
            let mut frame = BytesMut::new();
            encode(&mut frame, opcode, payload);
            frame.freeze()
        };
        let text = heartbeat.as_deref().unwrap_or_default();
        let heartbeat_frame = frame(Opcode::Text, text);
        let heartbeat_event = named_event("heartbeat", &String::from_utf8_lossy(text));
        let client_heartbeats = ClientHeartbeats::new(client_heartbeats);
        let ping_frame = frame(Opcode::Ping, b"");
        Self {
            heartbeat,
            heartbeat_frame,
            heartbeat_event,
            client_heartbeats,
            ping_frame,
            ping,
            message_seconds,
        }
    }

    /// Returns the heartbeat in a form.
    pub fn heartbeat_in(&self, form: Form) -> Bytes {
        match form {
            Form::Frames | Form::Packets | Form::PrefixedPackets => self.heartbeat_frame.clone(),
            Form::Events | Form::NamedEvents | Form::ObjectEvents => self.heartbeat_event.clone(),
            Form::Objects => frame_of(&live::heartbeat(), form),
        }
    }

    /// Returns whether a text is a heartbeat, which is never published.
    pub fn is_heartbeat(&self, text: &[u8]) -> bool {
        self.heartbeat.as_deref() == Some(text) || self.client_heartbeats.answer_to(text).is_some()
    }

    /// Returns the seconds of silence before a new connection is pinged. The jitter keeps connections that were opened
    /// together from being pinged together.
    pub fn ping_after(&self) -> u32 {
        let interval = self.ping.interval_seconds;
        interval - rand::random_range(0..=interval / 8)
    }
}

/// Sends due heartbeats and pings to these connections, and ends those that are overdue, in the shard's second `now`. One
/// message may take `message_seconds`.
///
/// Seconds are counted in ticks, not by the clock: after a process was suspended, pongs that arrived meanwhile still wait in
/// its sockets, and must not count as missing.
pub fn tick<'a>(
    listeners: impl Iterator<Item = &'a Rc<Listener>>,
    now: u32,
    keepalive: &Keepalive,
    message_seconds: u32,
    limits: &Limits,
) {
    for listener in listeners {
        listener.enforce_time_bound(now, limits);
        listener.remove_expired(now);
        let liveness = &listener.liveness;
        if keepalive.heartbeat.is_some() && now - liveness.last_heartbeat.get() >= BEAT_SECONDS {
            listener.send_heartbeat(keepalive.heartbeat_in(listener.form), now, limits);
        }
        if liveness.reading_paused.get() {
            liveness.last_received.set(now);
            liveness.message_started.set(if liveness.message_started.get() == 0 { 0 } else { now });
        } else if liveness.message_started.get() != 0
            && now - liveness.message_started.get() >= message_seconds
        {
            listener.end(Ending::Late);
        } else if liveness.pinged_at.get() != 0 {
            if now - liveness.pinged_at.get() >= keepalive.ping.timeout_seconds {
                listener.end(Ending::Silent);
            }
        } else if now - liveness.last_received.get() >= liveness.ping_after && listener.form.is_stream() {
            // A stream of events cannot answer; a dead one is detected when its socket accepts no more bytes.
            liveness.last_received.set(now);
            listener.send_uncounted(COMMENT, limits);
        } else if now - liveness.last_received.get() >= liveness.ping_after {
            liveness.pinged_at.set(now);
            listener.send_uncounted(keepalive.ping_frame.clone(), limits);
        }
    }
}

/// Ends a connection that has exceeded the bounds of its outbox for too long, or whose client takes more than
/// `message_seconds` for one message, in the shard's second `now`.
pub fn enforce_deadlines(listener: &Listener, now: u32, message_seconds: u32, limits: &Limits) {
    listener.enforce_time_bound(now, limits);
    let started = listener.liveness.message_started.get();
    if started != 0 && now - started >= message_seconds {
        listener.end(Ending::Late);
    }
}
